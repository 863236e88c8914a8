"""
Directories of their own for benches that start VMs beside the fleet, and the end of what a killed bench left there.

No flow and no reaper of the fleet sees these VMs. Their directory is locked while its bench lives, so one that can be
locked belongs to nobody.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from forkyard.model import VmId
from forkyard.settings import Settings

PATIENCE = timedelta(minutes=5)
_RESERVE = 256 << 20
_PREFIX = "bench-"
_LOCK = "lock"
_RUN = "run"
"""Names in such a directory: held by the living bench; a link to where its sockets are."""


@contextmanager
def apart(settings: Settings) -> Iterator[Settings]:
    """Give the same settings with directories of their own, so that no flow and no reaper sees what is made here."""
    clear_abandoned(settings)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    state = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=settings.state_dir))
    lock = _try_lock(state)
    try:
        # Short, because sockets' paths below it are bounded.
        run_dir = Path(tempfile.mkdtemp(prefix="fyb-"))
        (state / _RUN).symlink_to(run_dir)
        yield _within(settings, state, run_dir)
    finally:
        _end_vms(settings, state)
        _remove(state)
        if lock is not None:
            os.close(lock)


def find_abandoned(settings: Settings) -> list[Path]:
    """Directories of benches that were killed."""
    found: list[Path] = []
    for state in sorted(settings.state_dir.glob(f"{_PREFIX}*")):
        lock = _try_lock(state)
        if lock is not None:
            os.close(lock)
            found.append(state)
    return found


def clear_abandoned(settings: Settings) -> list[Path]:
    """End the VMs of benches that were killed and remove their directories; returns these."""
    cleared: list[Path] = []
    for state in sorted(settings.state_dir.glob(f"{_PREFIX}*")):
        lock = _try_lock(state)
        if lock is None:
            continue
        try:
            _end_vms(settings, state)
            _remove(state)
        finally:
            os.close(lock)
        cleared.append(state)
    return cleared


def _within(settings: Settings, state: Path, run_dir: Path) -> Settings:
    return replace(settings, state_dir=state, run_dir=run_dir, qemu=replace(settings.qemu, memory_reserve=_RESERVE))


def _end_vms(settings: Settings, state: Path) -> None:
    run = state / _RUN
    if not run.is_symlink():
        return  # killed before it started anything
    from forkyard.hypervisors.qemu.driver import QemuHypervisor  # noqa: PLC0415 - a reaper seldom needs it

    hypervisor = QemuHypervisor(_within(settings, state, run.readlink()))
    for vm in hypervisor.list_vms():
        hypervisor.destroy(vm.id, timeout=PATIENCE)
    hypervisor.cool()
    for parent in (state / "parents").glob("[!.]*"):
        if parent.is_dir():
            hypervisor.remove_parent(VmId(parent.name), timeout=PATIENCE)
    for stray in hypervisor.list_strays(older_than=timedelta(0)):
        hypervisor.remove_stray(stray)


def _remove(state: Path) -> None:
    run = state / _RUN
    if run.is_symlink():
        shutil.rmtree(run.readlink(), ignore_errors=True)
    shutil.rmtree(state, ignore_errors=True)


def _try_lock(state: Path) -> int | None:
    """Lock the directory, and give the lock's handle; None when a living bench has it or it is gone."""
    try:
        handle = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
