"""What is left of the host: a full disk or spent addresses make no child, say so, and leave nothing."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from forkyard.errors import CapacityExhausted
from forkyard.hypervisors.qemu.driver import QemuHypervisor
from forkyard.model import Vm
from tests.support.small_vm import (
    PATIENCE,
    SERVICE,
    SmallWorld,
    assert_empty,
    fork,
    make_identity,
)

SOON = timedelta(seconds=20)


def test_a_disk_without_room_for_a_child_makes_nothing(
    small_parent: SmallWorld, mounted: Callable[[str], SmallWorld]
) -> None:
    size = sum(path.stat().st_size for path in small_parent.parent_directory.iterdir()) + (32 << 20)
    full = mounted(f"size={size}")
    assert full.open().placements(SERVICE)[0].limited_by == "disk"
    with pytest.raises(CapacityExhausted, match="disk"):
        fork(full.open(), "game-a-1")
    assert_empty(full)


def test_a_disk_that_is_full_all_the_same_makes_nothing(mounted: Callable[[str], SmallWorld]) -> None:
    # Room by bytes, and no inode left for the child's files: found only when they are made.
    full = mounted("size=1g,nr_inodes=18")
    with pytest.raises(CapacityExhausted, match="disk is full"):
        fork(full.open(), "game-a-1")
    assert_empty(full)


def test_a_disk_that_fills_up_at_any_step_of_a_fork_is_told_as_full(mounted: Callable[[str], SmallWorld]) -> None:
    world = mounted("size=1g,nr_inodes=60")
    hypervisor, fillers = world.open(), _fill(world.settings.state_dir)
    while (vm := _fork_if_it_fits(hypervisor)) is None:
        assert hypervisor.list_vms() == []
        fillers.pop().unlink()
    fillers += _fill(world.settings.state_dir)
    with pytest.raises(CapacityExhausted, match="disk is full"):
        hypervisor.restamp(vm.id, vm.stamp)
    with pytest.raises(CapacityExhausted, match="disk is full"):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    fillers.pop().unlink()
    hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    hypervisor.destroy(vm.id, timeout=PATIENCE)
    assert_empty(world)


def _fork_if_it_fits(hypervisor: QemuHypervisor) -> Vm | None:
    try:
        return fork(hypervisor, "game-a-1")
    except CapacityExhausted as error:
        if "disk is full" not in str(error):
            raise
        return None


def _fill(directory: Path) -> list[Path]:
    """Use up the file system's inodes with empty files, which are returned."""
    made: list[Path] = []
    while True:
        try:
            path = directory / f"filler-{secrets.token_hex(4)}"
            path.touch()
        except OSError:
            return made
        made.append(path)


def test_addresses_run_out_before_anything_is_made(world: SmallWorld) -> None:
    first = world.settings.qemu.network.broadcast_address - 2
    narrow = world.under(replace(world.settings.qemu, first_address=first)).open()
    for number in range(2):
        fork(narrow, f"game-a-{number}")
    assert (narrow.placements(SERVICE)[0].room, narrow.placements(SERVICE)[0].limited_by) == (0, "addresses")
    with pytest.raises(CapacityExhausted, match="addresses"):
        fork(narrow, "game-a-2")
    assert len(narrow.list_vms()) == 2


def test_an_address_that_was_given_back_is_not_the_next_to_be_given(world: SmallWorld) -> None:
    hypervisor = world.open()
    first = fork(hypervisor, "game-a-1")
    hypervisor.destroy(first.id, timeout=PATIENCE)
    assert fork(hypervisor, "game-a-2").address != first.address
