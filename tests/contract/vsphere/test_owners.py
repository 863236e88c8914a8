"""Whose a VM is when its guest spoils what is written on it: ours all the same, and nobody else's becomes ours."""

from dataclasses import replace
from datetime import timedelta

import pytest

from forkyard.errors import PermanentError
from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.api import moid, vim
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.specs import Location, make_change, make_clone_spec
from forkyard.model import VmId
from forkyard.waiting import wait_for
from tests.support.small_vm import PATIENCE, SERVICE, make_identity
from tests.support.vsphere import VsphereWorld, fork

SOON = timedelta(seconds=3)


def write(world: VsphereWorld, vm: str, values: dict[str, str], note: str | None = None) -> None:
    """Change a VM behind the driver's back, as its guest or somebody else does."""
    session = Session(world.settings.vsphere)
    managed, change = session.find(vim.VirtualMachine, vm), make_change(values, annotation=note)
    task = session.call("writing", lambda: managed.ReconfigVM_Task(change))
    wait_for(
        lambda: session.call("looking", lambda: task.info.state) == "success" or None, what="writing", timeout=PATIENCE
    )
    session.close()


def make_strangers_vm(world: VsphereWorld, name: str) -> str:
    """A VM that somebody else made from our parent, under a name that we want."""
    hypervisor = world.open()
    parent = hypervisor.list_parents(SERVICE)[0].id
    session = Session(world.settings.vsphere)
    source = session.find(vim.VirtualMachine, parent)
    spec = make_clone_spec(name, "", {}, [], Location(session.call("folder", lambda: source.parent)))
    spec.biosUuid = None
    session.call("a stranger's clone", lambda: source.InstantClone_Task(spec))
    found = wait_for(lambda: world.vcenter.machines().get(name), what="the stranger's VM", timeout=PATIENCE)
    session.close()
    return str(found["id"])


def remove_strangers_vm(world: VsphereWorld, vm: str) -> None:
    session = Session(world.settings.vsphere)
    managed = session.find(vim.VirtualMachine, vm)
    session.call("off", managed.PowerOffVM_Task)
    wait_for(lambda: world.vcenter.machines()["game-a-1"]["power"] == "poweredOff" or None, what="off", timeout=SOON)
    session.call("deleting", managed.Destroy_Task)
    wait_for(lambda: world.children() == [] or None, what="the stranger's end", timeout=SOON)
    session.close()


def test_a_vm_of_somebody_else_with_our_name_is_left_alone(world: VsphereWorld) -> None:
    vm = make_strangers_vm(world, "game-a-1")
    hypervisor = world.open()
    assert hypervisor.list_vms() == []
    with pytest.raises(PermanentError, match="somebody else"):
        fork(hypervisor, "game-a-1")
    with pytest.raises(PermanentError, match="does not carry our stamp"):
        hypervisor.destroy(VmId(vm), timeout=PATIENCE)
    assert world.children() == ["game-a-1"]
    remove_strangers_vm(world, vm)


def test_a_stamp_that_is_not_the_vms_own_makes_nobody_ours(world: VsphereWorld) -> None:
    hypervisor = world.open()
    ours = fork(hypervisor, "game-a-1")
    session = hypervisor.session
    managed = session.find(vim.VirtualMachine, ours.id)
    stamp = next(o.value for o in managed.config.extraConfig if o.key == "guestinfo.forkyard.stamp")
    stranger = session.find(vim.VirtualMachine, make_strangers_vm(world, "game-a-2"))
    option = vim.option.OptionValue(key="guestinfo.forkyard.stamp", value=stamp)
    session.call("forging", lambda: stranger.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=[option])))
    with pytest.raises(PermanentError, match="does not carry our stamp"):
        hypervisor.destroy(VmId(moid(stranger)), timeout=PATIENCE)
    assert [vm.name for vm in hypervisor.list_vms()] == ["game-a-1"]
    stranger.PowerOffVM_Task()
    wait_for(lambda: world.vcenter.machines()["game-a-2"]["power"] == "poweredOff" or None, what="off", timeout=SOON)
    stranger.Destroy_Task()


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
