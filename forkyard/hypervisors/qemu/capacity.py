"""
How many more children fit: computed before anything is made.

`compute_room` is pure. A living child counts with what it is expected to take and has not taken yet, so
that a hundred forks at once do not all see the same free memory.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from forkyard.processes import ProcessRef
from forkyard.settings import QemuSettings

DISK_PER_CHILD = 64 << 20
"""Bytes that a child is expected to write to its disk."""
MEMORY_PER_PROCESS = 48 << 20
"""QEMU's own memory beside the guest's, under TCG."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What is left on the host now."""

    memory_available: int
    memory_promised: int
    """Expected of living children, and not taken by them yet."""
    disk_free: int
    disk_promised: int
    addresses_free: int
    children: int
    """That are there, dead ones included."""
    processors: int


def expected_memory(settings: QemuSettings, memory_bytes: int) -> int:
    """What a child of a parent with that much memory is expected to make its own."""
    return int(memory_bytes * settings.memory_share) + MEMORY_PER_PROCESS


def compute_room(settings: QemuSettings, facts: HostFacts, memory_bytes: int) -> tuple[int, str]:
    """How many children of a parent of that size fit, and what bounds it: memory, disk, addresses or processors."""
    memory = facts.memory_available - settings.memory_reserve - facts.memory_promised
    disk = facts.disk_free - facts.disk_promised
    bounds = {
        "memory": memory // expected_memory(settings, memory_bytes),
        "disk": disk // DISK_PER_CHILD,
        "addresses": facts.addresses_free,
        "processors": settings.children_per_processor * facts.processors - facts.children,
    }
    limit = min(bounds, key=lambda name: bounds[name])
    return max(0, bounds[limit]), limit


def children_at_once() -> int:
    """How many children to bring up together: one a processor, and one more for the moments in which these wait."""
    return count_processors() + 1


def count_processors() -> int:
    """Processors that this process, and so each QEMU that it starts, may use."""
    return len(os.sched_getaffinity(0))


def memory_available() -> int:
    """Bytes that the kernel could give out now without swapping."""
    line = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(line[1]) << 10 if line else 0


def disk_free(directory: Path) -> int:
    """Bytes free for us in the file system of *directory*."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


def private_memory(process: ProcessRef) -> int:
    """Bytes that the process has for itself: cheap, unlike its PSS."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{process.pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE


def proportional_memory(process: ProcessRef) -> int | None:
    """The process's PSS in bytes: shared pages count in part. Takes milliseconds of kernel time."""
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    line = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    return int(line[1]) << 10 if line else None


def allocated(path: Path) -> int:
    """Bytes that a file really takes on its disk."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
