"""Whose a VM is when its guest spoils what is written on it: ours all the same, and nobody else's becomes ours."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from forkyard.errors import PermanentError
from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.api import vim
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.specs import make_change
from forkyard.model import VmId
from forkyard.waiting import wait_for
from tests.contract.test_hypervisor_vsphere import fork, make_strangers_vm, remove_strangers_vm
from tests.support.small_vm import PATIENCE, make_identity
from tests.support.vsphere import VsphereWorld


@pytest.fixture
def world(vsphere_yard: VsphereWorld) -> Iterator[VsphereWorld]:
    """Give the vCenter as it was in the beginning; nothing remains in it."""
    yield vsphere_yard
    vsphere_yard.clear()
    assert vsphere_yard.children() == []


def write(world: VsphereWorld, vm: str, values: dict[str, str], note: str | None = None) -> None:
    """Change a VM behind the driver's back, as its guest or somebody else does."""
    session = Session(world.settings.vsphere)
    managed, change = session.find(vim.VirtualMachine, vm), make_change(values, annotation=note)
    task = session.call("writing", lambda: managed.ReconfigVM_Task(change))
    wait_for(
        lambda: session.call("looking", lambda: task.info.state) == "success" or None, what="writing", timeout=PATIENCE
    )
    session.close()


def test_a_child_whose_guest_spoils_its_stamp_is_listed_and_can_be_destroyed(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    write(world, vm.id, {guestinfo.STAMP: "nothing"})
    (seen,) = world.open().list_vms("game")
    assert (seen.id, seen.stamp, seen.address, seen.identified) == (vm.id, vm.stamp, vm.address, True)
    world.open().destroy(vm.id, timeout=PATIENCE)
    assert world.children() == []


def test_a_kept_child_stays_kept_without_its_stamp(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    kept = hypervisor.restamp(vm.id, replace(vm.stamp, request_id="another", expires=None))
    write(world, vm.id, {guestinfo.STAMP: ""})
    assert [one.stamp for one in world.open().list_vms()] == [kept.stamp]


def test_an_annotation_alone_makes_nobody_ours(world: VsphereWorld) -> None:
    hypervisor = world.open()
    ours = fork(hypervisor, "game-a-2")
    stranger = make_strangers_vm(world, "game-a-1")
    write(world, stranger, {}, guestinfo.render_note(ours.stamp, ours.address or ""))
    assert [vm.id for vm in hypervisor.list_vms()] == [ours.id]
    with pytest.raises(PermanentError, match="does not carry our stamp"):
        hypervisor.destroy(VmId(stranger), timeout=PATIENCE)
    hypervisor.destroy(ours.id, timeout=PATIENCE)
    remove_strangers_vm(world, stranger)
