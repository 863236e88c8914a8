"""Where QEMU's parents and children are on the host: whose it is, and what is told when it cannot be used."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from forkyard.errors import NotPermitted, Unavailable
from forkyard.hypervisors.qemu import children
from forkyard.model import Power
from tests.support.small_vm import PARENT, PATIENCE, SERVICE, SmallWorld, assert_empty, fork, kill


def _places(world: SmallWorld) -> list[Path]:
    """Where guests' memory, disks and consoles are."""
    return [*(world.settings.state_dir / kind for kind in ("parents", "vms", "standby")), world.settings.run_dir / "q"]


def test_what_guests_hold_is_its_owners_alone_also_where_it_was_everybodys(copy: SmallWorld) -> None:
    for place in _places(copy):
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)
    hypervisor = copy.open()
    hypervisor.warm(PARENT, 1, timeout=PATIENCE)
    fork(hypervisor, "game-a-1")
    fork(hypervisor, "game-a-2")
    assert {place.name: f"{place.stat().st_mode & 0o777:o}" for place in _places(copy)} == {
        "parents": "700",
        "vms": "700",
        "standby": "700",
        "q": "700",
    }


def test_what_others_read_beside_it_stays_readable(world: SmallWorld) -> None:
    # Nginx's workers have their sockets below it.
    before = world.settings.state_dir.stat().st_mode
    fork(world.open(), "game-a-1")
    assert world.settings.state_dir.stat().st_mode == before


def test_a_process_that_nothing_on_disk_knows_any_more_is_found_and_ended(copy: SmallWorld) -> None:
    hypervisor = copy.open()
    vm = fork(hypervisor, "game-a-1")
    (process,) = copy.processes()
    shutil.rmtree(copy.settings.run_dir / "q" / process)
    assert hypervisor.list_strays(older_than=timedelta(0)) == []
    shutil.rmtree(copy.settings.state_dir / "vms" / vm.name)
    assert hypervisor.list_strays(older_than=timedelta(hours=1)) == []
    (stray,) = hypervisor.list_strays(older_than=timedelta(0))
    assert (stray.path.name, stray.what) == (process, "a QEMU that nothing owns")
    hypervisor.remove_stray(stray)
    assert copy.processes() == []


def test_a_process_of_another_world_is_nobodys_stray(world: SmallWorld, copy: SmallWorld) -> None:
    vm = fork(world.open(), "game-a-1")
    assert copy.open().list_strays(older_than=timedelta(0)) == []
    # The namespace is the same in both.
    world.open().destroy(vm.id, timeout=PATIENCE)


# What the system refuses


def test_a_disk_that_takes_no_writing_is_told_as_such_by_every_removal(mounted: Callable[[str], SmallWorld]) -> None:
    world = mounted("size=1g")
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    kill(vm)
    (world.settings.state_dir / "vms" / ".half").mkdir()
    (stray,) = hypervisor.list_strays(older_than=timedelta(0))
    with _read_only(world):
        with pytest.raises(Unavailable, match="takes no writing"):
            hypervisor.destroy(vm.id, timeout=PATIENCE)
        with pytest.raises(Unavailable, match="takes no writing"):
            hypervisor.remove_stray(stray)
        assert [seen.power for seen in hypervisor.list_vms()] == [Power.DEAD]
    hypervisor.destroy(vm.id, timeout=PATIENCE)
    hypervisor.remove_stray(stray)
    assert_empty(world)


@contextmanager
def _read_only(world: SmallWorld) -> Iterator[None]:
    disk = world.settings.state_dir.parent
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def test_a_removal_that_misses_something_on_its_way_is_no_success(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise FileNotFoundError(str(path))

    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    with monkeypatch.context() as patched:
        patched.setattr(children, "remove_directory", fail)
        with pytest.raises(FileNotFoundError):
            hypervisor.destroy(vm.id, timeout=PATIENCE)
    assert [seen.name for seen in hypervisor.list_vms()] == [vm.name]


def test_a_program_that_a_fork_misses_is_named_and_the_child_not_told_as_gone(
    world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qemu-system-x86_64").symlink_to(str(shutil.which("qemu-system-x86_64")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nsenter"):
        fork(world.open(), "game-a-1")


def test_who_may_not_look_is_told_to_be_root(world: SmallWorld) -> None:
    hypervisor = world.open()
    os.seteuid(65534)
    try:
        for look in (hypervisor.list_vms, hypervisor.list_parents, lambda: hypervisor.placements(SERVICE)):
            with pytest.raises(NotPermitted, match="as root"):
                look()
    finally:
        os.seteuid(0)
