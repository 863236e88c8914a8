"""
Build the small VM's image directory: vmlinuz, initrd.img, disk.qcow2, image.json.

Cached by a hash of its inputs: the script, the kernel package's version, the busybox binary. Nothing of
the system is changed: the kernel package is only downloaded and read.
"""

import gzip
import hashlib
import io
import json
import re
import secrets
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from forkyard.errors import NotFound, Unavailable, Unsupported

MEMORY_MIB = 80
"""The least in which this kernel unpacks itself."""
PORT = 8080

_KERNEL = "linux-image-cloud-amd64"
_MODULES = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/char/virtio_console",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
)
"""In the order in which they need each other."""
_APPLETS = ("sh", "mount", "insmod", "cat", "mkdir", "ifconfig", "httpd", "ln", "ip", "date", "mkfifo", "arping")
_DIRECTORIES = ("bin", "dev", "etc", "modules", "proc", "run", "sys", "www")
_KERNEL_COMMAND_LINE = "console=ttyS0 quiet panic=-1"
_DISK = "16M"
_HEADERS = 4096
"""A dynamically linked program names its loader in its first bytes."""


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: int
    content: bytes = b""


def build_small_image(cache_dir: Path) -> Path:
    """
    Give the image directory, built if it is not in the cache.

    Raises:
        Unsupported: this machine's apt knows no such kernel, or there is no busybox.
        Unavailable: the kernel could not be downloaded.
    """
    busybox = _find_busybox()
    package = _find_kernel_package()
    init = (Path(__file__).parent / "init").read_bytes()
    inputs = (init, busybox, package, _KERNEL_COMMAND_LINE, str(MEMORY_MIB), _DISK, *_MODULES, *_APPLETS)
    hashed = hashlib.sha256(b"\0".join(i if isinstance(i, bytes) else i.encode() for i in inputs)).hexdigest()
    image = cache_dir / f"small-vm-{hashed[:16]}"
    if not (image / "image.json").exists():
        _build(image, hashed, init, busybox, package)
    return image


def _build(image: Path, hashed: str, init: bytes, busybox: bytes, package: str) -> None:
    work = image.with_name(f".{image.name}-{secrets.token_hex(4)}")
    work.mkdir(parents=True)
    try:
        kernel, modules = _read_kernel(_download(package, work))
        (work / "vmlinuz").write_bytes(kernel)
        (work / "initrd.img").write_bytes(
            gzip.compress(_render_archive(_list_entries(init, busybox, modules)), mtime=0)
        )
        _run("qemu-img", "create", "-q", "-f", "qcow2", str(work / "disk.qcow2"), _DISK)
        said = {"kernel_cmdline": _KERNEL_COMMAND_LINE, "memory_mib": MEMORY_MIB, "fingerprint": hashed}
        (work / "image.json").write_text(json.dumps(said, indent=1))
        for archive in work.glob("*.deb"):
            archive.unlink()
        try:
            work.rename(image)
        except OSError:
            # Somebody else built the same meanwhile: theirs is as good.
            if not (image / "image.json").exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _find_busybox() -> bytes:
    path = shutil.which("busybox")
    content = Path(path).read_bytes() if path else b""
    # A dynamically linked one would find no loader in an image without libraries.
    if not content or b"/ld-linux" in content[:_HEADERS]:
        text = "there is no static busybox on PATH. Install one (Debian, Ubuntu: busybox-static)."
        raise Unsupported(text)
    return content


def _find_kernel_package() -> str:
    """The package with the kernel itself, and its version, as `NAME=VERSION`."""
    name = re.search(r"^Depends:.*?\b(linux-image-[\w.+-]+)", _show(_KERNEL), re.MULTILINE)
    version = re.search(r"^Version: (\S+)$", _show(name[1]), re.MULTILINE) if name else None
    if name is None or version is None:
        text = f"apt does not know {_KERNEL} here. Run `apt-get update` on a Debian machine."
        raise Unsupported(text)
    return f"{name[1]}={version[1]}"


def _show(package: str) -> str:
    return _run("apt-cache", "show", "--no-all-versions", package)


def _download(package: str, work: Path) -> Path:
    _run("apt-get", "download", "-qq", package, directory=work)
    found = list(work.glob("*.deb"))
    if not found:
        text = f"apt downloaded no file for {package}."
        raise NotFound(text)
    return found[0]


def _read_kernel(archive: Path) -> tuple[bytes, dict[str, bytes]]:
    """The kernel and its modules by file name, read out of the package without unpacking it."""
    kernel, modules = b"", {}
    wanted = {Path(module).name for module in _MODULES}
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as unpacked,
        tarfile.open(fileobj=unpacked.stdout, mode="r|") as files,
    ):
        for member in files:
            path = Path(member.name)
            content = files.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            if path.name.startswith("vmlinuz-"):
                kernel = content.read()
            elif path.suffix == ".ko" and path.stem in wanted:
                modules[path.name] = content.read()
    missing = wanted - {name.removesuffix(".ko") for name in modules}
    if not kernel or missing:
        text = f"{archive.name} has no kernel, or not the modules {sorted(missing)}."
        raise NotFound(text)
    return kernel, modules


def _list_entries(init: bytes, busybox: bytes, modules: Mapping[str, bytes]) -> dict[str, _Entry]:
    order = "\n".join(f"{Path(module).name}.ko" for module in _MODULES)
    entries = {name: _Entry(stat.S_IFDIR | 0o755) for name in _DIRECTORIES}
    entries["init"] = _Entry(stat.S_IFREG | 0o755, init)
    entries["bin/busybox"] = _Entry(stat.S_IFREG | 0o755, busybox)
    entries |= {f"bin/{applet}": _Entry(stat.S_IFLNK | 0o777, b"busybox") for applet in _APPLETS}
    entries["modules/order"] = _Entry(stat.S_IFREG | 0o644, order.encode())
    return entries | {f"modules/{name}": _Entry(stat.S_IFREG | 0o644, content) for name, content in modules.items()}


def _render_archive(entries: Mapping[str, _Entry]) -> bytes:
    """A cpio archive in the kernel's own format, the same bytes for the same entries."""
    archive = io.BytesIO()
    for number, (name, entry) in enumerate([*entries.items(), ("TRAILER!!!", _Entry(0))], start=1):
        for part in _render_entry(number, name, entry):
            archive.write(part)
            archive.write(b"\0" * (-archive.tell() % 4))
    return archive.getvalue()


def _render_entry(number: int, name: str, entry: _Entry) -> Iterator[bytes]:
    # inode, mode, uid, gid, links, time, size, device (2), device of a device file (2), length of name, checksum
    fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, 0, 0, len(name) + 1, 0)
    yield b"070701" + b"".join(f"{field:08x}".encode() for field in fields) + name.encode() + b"\0"
    yield entry.content


def _run(*command: str, directory: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, check=False)
    if done.returncode:
        text = f"`{' '.join(command)}` failed: {done.stderr.strip()}"
        raise Unavailable(text)
    return done.stdout
