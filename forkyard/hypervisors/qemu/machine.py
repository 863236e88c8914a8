"""
What a VM is made of, and the command line that says so.

Pure. Parent and child are described by the same `Machine`, and their devices are listed in the same
order, because QEMU restores device state by position; only what `Wiring` holds may differ.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from forkyard.wire import PORT_NAME

NIC = "net"
"""Name of the network device, for QMP's set_link."""

DISK = "disk"
"""Name of its own disk, for QMP and for who exports it."""

PARENT_MAC = "52:54:00:66:79:00"
"""Every parent's, and so every child's until its guest has another."""

TRANSLATION_MIB = 112
"""
Room for translated code under TCG in a child, whose own memory it fills. A child has translated 75 to 90 MiB when it
passes its checks: 64 MiB were emptied and filled again four times in that time, and cost half as much processor again.
"""
BOOT_TRANSLATION_MIB = 512
"""In a parent that boots: with a child's 64 MiB all was translated 34 times before the fork point."""

EMULATED_CPU = "max,la57=off,smap=off,smep=off"
"""
`max` for its RDRAND, which gives each child randomness that the fork did not copy. Without a fifth level of page tables
and without two guards whose instructions each end a block of translated code.
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What must be the same in a parent and all its children."""

    qemu: str
    """QEMU's version, such as 7.2.22: device state is only promised to be understood by the same one."""
    type: str
    """Versioned machine type: `q35` alone is another machine in the next release."""
    cpu: str
    accelerator: str
    host_cpu: str
    """The host's processor where the guest sees it (KVM); empty under TCG."""
    memory_mib: int
    processors: int = 1


@dataclass(frozen=True, slots=True)
class Boot:
    """What a cold boot needs; a fork needs none of it, because it is in the memory already."""

    kernel: Path
    initrd: Path
    command_line: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """What differs between one VM's process and another's."""

    process_name: str
    pid_file: Path
    tap: str
    memory: Path
    share: bool
    """Whether writes reach the memory file: true in a parent, false in a child."""
    disks: tuple[Path, ...]
    """The VM's own qcow2 first, then what stands behind it."""
    qmp: int
    """Descriptor of a listening socket."""
    agent: int
    """Descriptor of a listening socket."""
    serial: Path | None = None
    boot: Boot | None = None
    """None: the VM waits for a parent's device state."""


def machine_type(version: str) -> str:
    """The versioned machine type of a QEMU release."""
    major, minor, *_ = version.split(".")
    return f"pc-q35-{major}.{minor}"


def machine_to_record(machine: Machine) -> dict[str, object]:
    """The description as JSON has it."""
    return asdict(machine)


def machine_from_record(record: Mapping[str, object]) -> Machine:
    """The description from JSON; raises KeyError or ValueError when it is none."""
    return Machine(
        qemu=str(record["qemu"]),
        type=str(record["type"]),
        cpu=str(record["cpu"]),
        accelerator=str(record["accelerator"]),
        host_cpu=str(record["host_cpu"]),
        memory_mib=int(str(record["memory_mib"])),
        processors=int(str(record["processors"])),
    )


def differences(parent: Machine, host: Machine) -> tuple[str, ...]:
    """Why a parent cannot be forked on this host, a sentence each."""
    names = {
        "qemu": "QEMU",
        "type": "machine type",
        "cpu": "CPU model",
        "accelerator": "accelerator",
        "host_cpu": "processor",
    }
    was, now = asdict(parent), asdict(host)
    return tuple(
        f"its {names[key]} is {was[key]!r}, this host's is {now[key]!r}" for key in names if was[key] != now[key]
    )


def render_command(machine: Machine, wiring: Wiring) -> list[str]:
    """Render QEMU's command line."""
    memory = {
        "qom-type": "memory-backend-file",
        "id": "memory",
        "size": machine.memory_mib << 20,
        "mem-path": str(wiring.memory),
        "share": wiring.share,
    }
    serial = f"file,id=serial,path={_escape(wiring.serial)}" if wiring.serial else "null,id=serial"
    return [
        *("qemu-system-x86_64", "-name", wiring.process_name, "-pidfile", str(wiring.pid_file)),
        # A guest that panics or reboots is of no more use; and a dead QEMU is seen at once.
        "-no-reboot",
        *("-no-user-config", "-nodefaults", "-display", "none"),
        *("-machine", f"{machine.type},memory-backend=memory,vmport=off"),
        *("-accel", _accelerator(machine.accelerator, boots=wiring.boot is not None), "-cpu", machine.cpu),
        *("-smp", str(machine.processors), "-m", f"{machine.memory_mib}M"),
        *("-object", json.dumps(memory)),
        *("-chardev", f"socket,id=qmp,fd={wiring.qmp},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", serial, "-device", "isa-serial,chardev=serial"),
        *("-device", "virtio-serial-pci,id=ports"),
        *("-chardev", f"socket,id=agent,fd={wiring.agent},server=on,wait=off"),
        *("-device", f"virtserialport,bus=ports.0,chardev=agent,name={PORT_NAME}"),
        *("-netdev", f"tap,id={NIC},ifname={wiring.tap},script=no,downscript=no,vhost=off"),
        # Always the parent's own MAC: the guest changes it, and the restored state would win anyway.
        *("-device", f"virtio-net-pci,netdev={NIC},romfile=,mac={PARENT_MAC}"),
        *("-blockdev", json.dumps(_blockdev(wiring.disks))),
        *("-device", f"virtio-blk-pci,drive={DISK}"),
        *(_boot(wiring.boot) if wiring.boot else ("-incoming", "defer")),
    ]


def _accelerator(name: str, *, boots: bool) -> str:
    return f"tcg,tb-size={BOOT_TRANSLATION_MIB if boots else TRANSLATION_MIB}" if name == "tcg" else name


def _boot(boot: Boot) -> tuple[str, ...]:
    return ("-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", boot.command_line)


def _blockdev(disks: Sequence[Path], depth: int = 0) -> dict[str, object]:
    # A VM's own disk dies with it, so its flushes need not reach the platter. A parent's does when it is frozen.
    disk: dict[str, object] = {
        "driver": "qcow2",
        "file": {"driver": "file", "filename": str(disks[0])},
        "cache": {"no-flush": True},
    }
    disk |= {"read-only": True} if depth else {"node-name": DISK, "discard": "unmap"}
    # Named here, so that what the files say of each other (absolute paths of another time) does not count.
    disk["backing"] = _blockdev(disks[1:], depth + 1) if disks[1:] else None
    return disk


def _escape(path: Path) -> str:
    return str(path).replace(",", ",,")
