"""
What crashes leave that is no VM: it has no stamp, so no list shows it.

Half-made and half-removed directories, children's directories without a readable stamp, standbys that no fork
can take any more, run directories and QEMU processes that nothing on record owns. Whoever acts on it asks for a
certain age.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from forkyard.hypervisors.qemu.children import MACHINE, STAMP
from forkyard.hypervisors.qemu.instance import RUN, end_instance, find_processes, get_process, read_instance
from forkyard.hypervisors.qemu.parents import ParentStore
from forkyard.hypervisors.qemu.records import age, erase, list_directories, list_unfinished, read_record
from forkyard.processes import ProcessRef, end, running_for
from forkyard.settings import Settings

_END = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Stray:
    """One remnant."""

    path: Path
    what: str
    run_dir: Path
    process: ProcessRef | None = None


def find_strays(settings: Settings, older_than: timedelta) -> list[Stray]:
    """All remnants that have not changed for *older_than*."""
    return [*_directories(settings, older_than), *_runs(settings, older_than)]


def remove_stray(stray: Stray) -> None:
    """End what runs of it and remove it."""
    for place in (stray.path, stray.path / MACHINE):
        instance = read_instance(stray.run_dir, place)
        if instance is not None:
            end_instance(instance, timeout=_END)
    if stray.process is not None:
        end(stray.process, timeout=_END, first=signal.SIGKILL)
    erase(stray.path)


def _directories(settings: Settings, older_than: timedelta) -> Iterator[Stray]:
    for kind in ("vms", "standby", "parents"):
        for path in list_unfinished(settings.state_dir / kind, older_than):
            yield Stray(path, f"half made or half removed, in {kind}", settings.run_dir)
    for path in list_directories(settings.state_dir / "vms"):
        if read_record(path / STAMP) is None and age(path) >= older_than:
            yield Stray(path, "a child's directory without a readable stamp", settings.run_dir)
    yield from _standbys(settings, older_than)


def _standbys(settings: Settings, older_than: timedelta) -> Iterator[Stray]:
    paths = list_directories(settings.state_dir / "standby")
    # After the standbys were listed: whichever parent one of these waits for was frozen before.
    frozen = ParentStore(settings.state_dir / "parents", settings.run_dir / "verified").list_frozen() if paths else []
    parents = {(parent.name, parent.fingerprint) for parent in frozen}
    for path in paths:
        instance = read_instance(settings.run_dir, path)
        if age(path) < older_than:
            continue
        if instance is None or get_process(instance) is None:
            yield Stray(path, "a standby whose QEMU is gone", settings.run_dir)
        elif (instance.parent, instance.fingerprint) not in parents:
            yield Stray(path, "a standby whose parent is gone", settings.run_dir)


def _runs(settings: Settings, older_than: timedelta) -> Iterator[Stray]:
    runs = settings.run_dir / RUN
    # Before what owns them: each that runs by now was on record before it was started.
    processes, paths = find_processes(runs), list_directories(runs)
    owned = set(_owned(settings))
    for path in paths:
        if path.name not in owned and age(path) >= older_than:
            yield Stray(path, "sockets of a QEMU that nothing owns", settings.run_dir, processes.get(path.name))
    for name in processes.keys() - owned - {path.name for path in paths}:
        if running_for(processes[name]) >= older_than:
            yield Stray(runs / name, "a QEMU that nothing owns", settings.run_dir, processes[name])


def _owned(settings: Settings) -> Iterator[str]:
    # Directories that are hidden count too: what is half removed still owns its process.
    places = [path for kind in ("parents", "standby") for path in (settings.state_dir / kind).glob("*")]
    places += [path / MACHINE for path in (settings.state_dir / "vms").glob("*")]
    for place in places:
        instance = read_instance(settings.run_dir, place)
        if instance is not None:
            yield instance.id
