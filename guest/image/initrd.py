"""
A tiny initrd: busybox, the drivers of the disk, and the step into the root filesystem.

Debian's own would search for every disk there is; this one knows where it is, which under emulation is seconds.
"""

import gzip
import stat
from dataclasses import dataclass
from pathlib import Path

WANTED = ("virtio_pci", "virtio_blk")

INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module; done
until [ -b /dev/vda ]; do /bin/busybox usleep 20000; done
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /root
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or device of an archive."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def render_initrd(root: Path) -> bytes:
    """The initrd for the one kernel that is installed below *root*; the same root gives the same bytes."""
    modules = next((root / "usr/lib/modules").iterdir())
    order = find_modules((modules / "modules.dep").read_text(), WANTED)
    init = INIT.format(modules=" ".join(Path(module).name for module in order))
    folders = [Entry(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev", "modules", "root")]
    drivers = [_file(f"modules/{Path(m).name}", (modules / m).read_bytes()) for m in order]
    console = Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    busybox = _file("bin/busybox", (root / "bin/busybox").read_bytes(), 0o755)
    return gzip.compress(
        render_cpio([*folders, console, busybox, *drivers, _file("init", init.encode(), 0o755)]), 6, mtime=0
    )


def find_modules(dependencies: str, wanted: tuple[str, ...]) -> list[str]:
    """Paths of the wanted modules and of all that they need, in the order in which they can be loaded."""
    needs = {line.partition(":")[0]: line.partition(":")[2].split() for line in dependencies.splitlines()}
    by_name = {Path(path).name.partition(".")[0].replace("-", "_"): path for path in needs}
    order: list[str] = []
    for name in wanted:
        path = by_name.get(name)
        if path is None:
            continue  # built into this kernel
        # modules.dep lists what a module needs from the nearest to the farthest.
        order += [p for p in [*reversed(needs[path]), path] if p not in order]
    return order


def render_cpio(entries: list[Entry]) -> bytes:
    """The entries as a "newc" archive."""
    archive = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
        archive += b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name
        archive += bytes(-len(archive) % 4) + entry.content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _file(name: str, content: bytes, mode: int = 0o644) -> Entry:
    return Entry(name, stat.S_IFREG | mode, content)
