"""VMs that vCenter cannot read, as in a partition: listed, not replaced under their addresses, and not destroyed."""

import logging

import pytest

from forkyard.errors import CapacityExhausted, NotReady
from forkyard.hypervisors.vsphere import addresses, driver, taken
from forkyard.model import ForkSpec, Power
from tests.support.small_vm import PATIENCE, SERVICE, make_identity, make_stamp
from tests.support.vsphere import VsphereWorld, fork


@pytest.fixture
def no_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every claim was forgotten, and every look is a new one: it is a quarter of an hour later."""
    monkeypatch.setattr(addresses, "CLAIM_SECONDS", 0.0)
    monkeypatch.setattr(driver, "_TAKEN_KNOWN", 0.0)


@pytest.mark.usefixtures("no_claims")
def test_a_child_that_cannot_be_read_is_listed_as_running_and_keeps_its_address(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    before = hypervisor.list_vms()
    world.vcenter.set_readable("game-a-1", readable=False)
    assert hypervisor.list_vms() == before
    assert before[0].power is Power.RUNNING
    # From the first address on, as on a machine that has dealt out none yet.
    (world.settings.state_dir / "vsphere" / "addresses" / "next").unlink()
    assert fork(hypervisor, "game-a-2").address != vm.address
    world.vcenter.set_readable("game-a-1", readable=True)
    addresses_there = [one.address for one in world.open().list_vms()]
    assert len(set(addresses_there)) == len(addresses_there) == 2


def test_a_child_that_cannot_be_read_is_not_destroyed_and_a_repeat_says_why(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1", "one")
    hypervisor.list_vms()
    world.vcenter.set_readable("game-a-1", readable=False)
    for asked in (hypervisor, world.open()):
        with pytest.raises(NotReady, match=r"game-a-1 \(vm-\d+\): vCenter calls it inaccessible.*may still run"):
            asked.destroy(vm.id, timeout=PATIENCE)
    with pytest.raises(NotReady, match=r"vCenter calls it inaccessible"):
        fork(hypervisor, "game-a-1", "one")
    assert world.children() == ["game-a-1"]
    world.vcenter.set_readable("game-a-1", readable=True)
    hypervisor.destroy(vm.id, timeout=PATIENCE)


def test_who_never_read_what_is_lost_among_the_children_makes_none_and_says_so(
    world: VsphereWorld, caplog: pytest.LogCaptureFixture
) -> None:
    fork(world.open(), "game-a-1")
    world.vcenter.set_readable("game-a-1", readable=False)
    fresh = world.open()
    with caplog.at_level(logging.WARNING, logger=taken.__name__):
        assert (fresh.list_vms(), fresh.list_vms()) == ([], [])
    assert len([record for record in caplog.records if record.name == taken.__name__]) == 1
    places = fresh.placements(SERVICE)
    assert {place.room for place in places} == {0}
    assert all("VMs that vCenter cannot read: game-a-1 (vm-" in place.limited_by for place in places)
    with pytest.raises(CapacityExhausted, match=r"cannot read: game-a-1 \(vm-\d+, inaccessible\).*inventory"):
        fresh.fork(ForkSpec("game-a-2", make_stamp(), places[0]), timeout=PATIENCE)
    world.vcenter.set_readable("game-a-1", readable=True)
    assert fork(world.open(), "game-a-2").name == "game-a-2"


def test_whose_vm_is_out_of_sight_is_named_to_whoever_would_clear_up_after_it(world: VsphereWorld) -> None:
    fork(world.open(), "game-a-1")
    world.vcenter.set_readable("game-a-1", readable=False)
    assert world.open().list_unseen() == ["game-a-1"]
    world.vcenter.set_readable("game-a-1", readable=True)
    assert world.open().list_unseen() == []


def test_a_parent_that_cannot_be_read_takes_no_forks_and_the_others_do(world: VsphereWorld) -> None:
    hypervisor = world.open()
    assert len(hypervisor.placements(SERVICE)) == 4
    hypervisor.list_vms()
    world.vcenter.set_readable("game-parent-esx-02", readable=False)
    hypervisor.list_vms()
    places = hypervisor.placements(SERVICE)
    assert {place.host for place in places if place.room} == {"esx-01", "esx-03", "esx-04"}
    assert [parent.name for parent in hypervisor.list_parents(SERVICE)] == [f"game-parent-esx-0{n}" for n in (1, 3, 4)]


def test_what_is_lost_in_another_folder_keeps_no_child_from_being_made(world: VsphereWorld) -> None:
    fork(world.open(), "game-a-1")
    world.vcenter.set_readable("game-a-1", readable=False)
    assert {place.room for place in world.open(folder="/yard/vm").placements(SERVICE)} != {0}
    assert {place.room for place in world.open(folder="/yard/vm/game").placements(SERVICE)} == {0}
