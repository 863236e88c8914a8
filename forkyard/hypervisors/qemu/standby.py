"""
QEMU processes started ahead, waiting for a parent's state: a fork that finds one saves the start.

A standby is no child: it has no stamp and no address. Claiming is one rename of its directory into the
child's, so that of two claimers one gets it, and a crash leaves it with one owner.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from forkyard.hypervisors.qemu.instance import Instance, end_instance, get_process, read_instance
from forkyard.hypervisors.qemu.parents import Frozen
from forkyard.hypervisors.qemu.records import list_directories, locked, make_private, remove_directory

_END = timedelta(seconds=10)


class StandbyStore:
    """The standbys below *directory*."""

    def __init__(self, directory: Path, run_dir: Path) -> None:
        """Look at nothing yet."""
        self._directory = directory
        self._run_dir = run_dir

    def list_waiting(self, parent: str | None = None) -> list[Instance]:
        """All that are finished, of one parent or of all; dead ones included."""
        found = (read_instance(self._run_dir, path) for path in list_directories(self._directory))
        return [instance for instance in found if instance is not None and parent in {None, instance.parent}]

    @contextmanager
    def counted(self, *, timeout: timedelta) -> Iterator[None]:
        """Keep everybody else from starting any, so that what is counted is what there is; forks may claim them."""
        make_private(self._directory)
        with locked(self._directory, what="starting processes ahead", timeout=timeout):
            yield

    def add(self, start: Callable[[Path], Instance]) -> Instance:
        """Have one started in a new directory, while they are `counted`; it can be claimed when *start* returns."""
        unfinished = self._directory / f".{secrets.token_hex(5)}"
        unfinished.mkdir()
        try:
            instance = start(unfinished)
        except BaseException:
            self._end(unfinished)
            raise
        unfinished.rename(self._directory / instance.id)
        return instance

    def claim(self, frozen: Frozen, place: Path) -> Instance | None:
        """Move one that waits for just this parent to *place*; None when there is none."""
        for path in list_directories(self._directory):
            instance = read_instance(self._run_dir, path)
            if instance is None or (instance.parent, instance.fingerprint) != (frozen.name, frozen.fingerprint):
                continue
            if get_process(instance) is None:
                continue
            try:
                path.rename(place)
            except FileNotFoundError:
                continue  # somebody else was quicker
            return read_instance(self._run_dir, place)
        return None

    def remove(self, unwanted: Callable[[Instance], bool]) -> int:
        """End those that *unwanted* names, and say how many."""
        count = 0
        for path in list_directories(self._directory):
            instance = read_instance(self._run_dir, path)
            if instance is not None and unwanted(instance) and self._take(path):
                count += 1
        return count

    def _take(self, path: Path) -> bool:
        # Out of every claimer's sight first: what is claimed meanwhile is no longer ours to end.
        hidden = path.with_name(f".{path.name}")
        try:
            path.rename(hidden)
        except FileNotFoundError:
            return False
        self._end(hidden)
        return True

    def _end(self, path: Path) -> None:
        instance = read_instance(self._run_dir, path)
        if instance is not None:
            end_instance(instance, timeout=_END)
        remove_directory(path)
