"""Checks of the machine itself: what is installed, and what is left of memory and disk."""

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from cli.doctor import Check, Finding, failed, passed, warned
from forkyard.errors import ForkyardError
from forkyard.settings import Settings

_GIB = 1 << 30
_LOW_DISK = 2 * _GIB
_SMALL_DISK = 8 * _GIB
_EARLIEST = 1_750_000_000
"""Any clock that shows less than this (June 2025) is wrong: certificates and Consul would suffer."""

_PACKAGES = "apt-get install qemu-system-x86 qemu-utils nginx-light mmdebstrap"


def check_system(settings: Settings) -> Iterable[Finding]:
    """Linux, and root."""
    del settings
    if platform.system() != "Linux":
        yield failed("system", f"{platform.system()}: forkyard's lab needs Linux", "Run it on a Linux machine.")
        return
    yield passed("system", f"Linux {platform.release()}, {os.cpu_count()} cores")
    if os.geteuid() == 0:
        yield passed("root", "running as root")
    else:
        step = "Run it with sudo: network namespaces, taps and the guest image need it."
        yield failed("root", f"running as uid {os.geteuid()}", step)


def check_memory(settings: Settings) -> Iterable[Finding]:
    """Room for a few children of the largest service."""
    text = Path("/proc/meminfo").read_text()
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    available = int(found[1]) << 10 if found else 0
    largest = max((service.memory_mib for service in settings.services.values()), default=768) << 20
    # The parent's pages are shared; each child makes a part of them its own.
    needed = largest + int(4 * largest * settings.qemu.memory_share) + settings.qemu.memory_reserve
    detail = f"{available / _GIB:.1f} GiB free; a parent and four children take about {needed / _GIB:.1f} GiB"
    if available < largest + settings.qemu.memory_reserve:
        yield failed("memory", detail, "Free memory, or lower services.*.memory_mib in forkyard.toml.")
    elif available < needed:
        yield warned("memory", detail, "Fewer than four children will fit.")
    else:
        yield passed("memory", detail)


def check_disk(settings: Settings) -> Iterable[Finding]:
    """Room where images and children's disks go."""
    for name, directory in (("disk (state)", settings.state_dir), ("disk (cache)", settings.cache_dir)):
        free = shutil.disk_usage(_existing(directory)).free
        detail = f"{free / _GIB:.1f} GiB free at {directory}"
        if free < _LOW_DISK:
            yield failed(
                name, detail, "Free some: `forkyard reap`, and old images in the cache, are the first to look at."
            )
        elif free < _SMALL_DISK:
            yield warned(name, detail, "A first image build takes about 4 GiB.")
        else:
            yield passed(name, detail)


def check_qemu(settings: Settings) -> Iterable[Finding]:
    """QEMU, its tools, and whether KVM truly works; nothing when no service runs on it."""
    if not _uses_qemu(settings):
        return
    for program in ("qemu-system-x86_64", "qemu-img"):
        yield _check_program(program, ("--version",), "QEMU forks the VMs")
    if shutil.which("qemu-system-x86_64") is None:
        return
    from forkyard.hypervisors.qemu.accelerator import choose_accelerator, find_kvm_problem  # noqa: PLC0415 - only with QEMU

    try:
        chosen = choose_accelerator(settings.qemu.accelerator, settings.run_dir)
    except ForkyardError as error:
        yield failed("accelerator", str(error), "Set qemu.accelerator to auto.")
        return
    if chosen == "kvm":
        yield passed("accelerator", "KVM works")
        return
    why = find_kvm_problem(settings.run_dir) if settings.qemu.accelerator == "auto" else "qemu.accelerator says tcg"
    yield warned(
        "accelerator", f"TCG: {why or 'as asked'}", "It works, but guests run several times slower than under KVM."
    )


def check_programs(settings: Settings) -> Iterable[Finding]:
    """The other programs that are started."""
    yield _check_program(settings.nginx.binary, ("-v",), "the load balancer")
    if _uses_qemu(settings):
        yield _check_program("mmdebstrap", ("--version",), "builds the parent's image")
    cached = settings.cache_dir / "consul" / "consul"
    binary = shutil.which("consul") or (str(cached) if cached.exists() else None)
    if binary is None:
        yield warned("consul binary", "not on PATH and not in the cache", "`forkyard lab up` fetches one.")
    else:
        yield _check_program(binary, ("version",), "the registry", name="consul binary")


def check_clock(settings: Settings) -> Iterable[Finding]:
    """The orchestrator's clock is the only clock: children are set to it."""
    del settings
    now = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < _EARLIEST:
        yield failed("clock", f"{stamp} cannot be right", "Set the clock; every child is set to it.")
        return
    synchronized = Path("/run/systemd/timesync/synchronized").exists() or Path("/run/chrony").exists()
    if synchronized:
        yield passed("clock", f"{stamp}, synchronized")
    else:
        yield passed("clock", f"{stamp} (no time service of systemd or chrony runs here)")


def _uses_qemu(settings: Settings) -> bool:
    services = settings.services.values()
    return not services or any(service.hypervisor == "qemu" for service in services)


def _check_program(program: str, version: Sequence[str], purpose: str, *, name: str | None = None) -> Finding:
    title = name or Path(program).name
    path = shutil.which(program)
    if path is None:
        return failed(title, f"not installed: {purpose}", f"Install it: {_PACKAGES}")
    try:
        done = subprocess.run([path, *version], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return failed(title, f"{path} does not run: {error}", f"Install it again: {_PACKAGES}")
    lines = (done.stdout + done.stderr).strip().splitlines()
    return passed(title, lines[0] if lines else path)


def _existing(directory: Path) -> Path:
    return next(parent for parent in (directory, *directory.parents) if parent.exists())


MACHINE_CHECKS: tuple[Check, ...] = (check_system, check_clock, check_memory, check_disk, check_qemu, check_programs)
