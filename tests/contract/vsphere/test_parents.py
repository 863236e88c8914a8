"""Parents under vSphere: freezing them and failing at it, and which VMs a rule finds."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from forkyard.errors import NotFound, NotReady, PermanentError, VerificationFailed
from forkyard.hypervisors.vsphere.api import vim
from forkyard.hypervisors.vsphere.driver import VsphereHypervisor
from forkyard.hypervisors.vsphere.session import Session
from forkyard.model import ForkSpec, VmId
from forkyard.waiting import wait_for
from tests.support.small_vm import PATIENCE, make_stamp
from tests.support.vsphere import RULE, VsphereWorld, vsphere_world

SERVICE = "game"
SOON = timedelta(seconds=5)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[VsphereWorld]:
    """Start a vCenter whose two parents are not frozen."""
    with vsphere_world(tmp_path, frozen=False, hosts=2) as world:
        yield world


def switch(world: VsphereWorld, name: str, *, on: bool) -> None:
    """Power a VM on or off, as an administrator does."""
    session = Session(world.settings.vsphere)
    vm = session.find(vim.VirtualMachine, world.vcenter.machines()[name]["id"])
    session.call("switching", vm.PowerOnVM_Task if on else vm.PowerOffVM_Task)
    wanted = "poweredOn" if on else "poweredOff"
    wait_for(lambda: world.vcenter.machines()[name]["power"] == wanted or None, what=wanted, timeout=SOON)
    session.close()


def reboot(world: VsphereWorld, name: str) -> None:
    switch(world, name, on=False)
    switch(world, name, on=True)


def test_a_parent_that_was_rebooted_runs_until_it_is_frozen_again(world: VsphereWorld) -> None:
    hypervisor = world.open()
    hypervisor.freeze(VmId(RULE), timeout=PATIENCE)
    reboot(world, "game-parent-esx-01")
    assert world.vcenter.machines()["game-parent-esx-01"]["frozen"] is False
    assert [parent.name for parent in world.open().list_parents(SERVICE)] == ["game-parent-esx-02"]
    assert world.open().freeze(VmId(RULE), timeout=PATIENCE).name == "game-parent-esx-01"


def test_a_guest_that_cannot_freeze_itself_says_why_at_once(world: VsphereWorld) -> None:
    world.vcenter.trouble("unfreezable", host="esx-02")
    reboot(world, "game-parent-esx-02")
    with pytest.raises(VerificationFailed, match=r"game-parent-esx-02: not frozen, as was set.*forkyard-agent"):
        world.open().freeze(VmId("game-parent-esx-02"), timeout=PATIENCE)


def test_a_parent_that_is_off_is_left_out_of_its_rules_freeze_with_a_warning(
    world: VsphereWorld, caplog: pytest.LogCaptureFixture
) -> None:
    switch(world, "game-parent-esx-01", on=False)
    with caplog.at_level(logging.WARNING):
        assert world.open().freeze(VmId(RULE), timeout=PATIENCE).name == "game-parent-esx-02"
    assert "game-parent-esx-01: it does not run" in caplog.text
    with pytest.raises(NotReady, match=r"game-parent-esx-01: it does not run\. Start it"):
        world.open().freeze(VmId("game-parent-esx-01"), timeout=PATIENCE)


def test_a_rule_whose_parents_are_all_off_is_not_ready(world: VsphereWorld) -> None:
    for name in ("game-parent-esx-01", "game-parent-esx-02"):
        switch(world, name, on=False)
    with pytest.raises(NotReady, match="does not run"):
        world.open().freeze(VmId(RULE), timeout=PATIENCE)


def open_by_rule(world: VsphereWorld, rule: str) -> VsphereHypervisor:
    services = {SERVICE: replace(world.settings.services[SERVICE], parent=rule)}
    world.opened.append(VsphereHypervisor(replace(world.settings, services=services)))
    return world.opened[-1]


def test_a_folder_gives_its_vms_and_none_of_our_children_as_parents(world: VsphereWorld) -> None:
    hypervisor = open_by_rule(world, "folder:/yard/vm/game")
    hypervisor.freeze(VmId("folder:/yard/vm/game"), timeout=PATIENCE)
    hypervisor.fork(ForkSpec("game-a-1", make_stamp(), hypervisor.placements(SERVICE)[0]), timeout=PATIENCE)
    names = [parent.name for parent in open_by_rule(world, "folder:/yard/vm/game").list_parents(SERVICE)]
    assert names == ["game-parent-esx-01", "game-parent-esx-02"]
    with pytest.raises(NotFound, match=r"/yard/vm/none.*services\.\*\.parent"):
        open_by_rule(world, "folder:/yard/vm/none").list_parents(SERVICE)


def test_a_custom_attribute_marks_the_parents_that_have_its_value(world: VsphereWorld) -> None:
    session = Session(world.settings.vsphere)
    manager = session.content.customFieldsManager
    field = session.call("attribute", lambda: manager.AddCustomFieldDef("forkyard", vim.VirtualMachine))
    for name, value in (("game-parent-esx-01", "shop"), ("game-parent-esx-02", "game")):
        vm = session.find(vim.VirtualMachine, world.vcenter.machines()[name]["id"])
        session.call("value", partial(manager.SetField, vm, field.key, value))
    session.close()
    hypervisor = open_by_rule(world, "attribute:forkyard=game")
    assert hypervisor.freeze(VmId("attribute:forkyard=game"), timeout=PATIENCE).name == "game-parent-esx-02"
    assert [parent.name for parent in hypervisor.list_parents(SERVICE)] == ["game-parent-esx-02"]
    with pytest.raises(NotFound, match=r"unknown.*services\.\*\.parent"):
        open_by_rule(world, "attribute:unknown=game").list_parents(SERVICE)


@pytest.mark.parametrize("fault", ["MethodNotFound", "NotSupported"])
def test_a_vcenter_without_a_preflight_forks_all_the_same(world: VsphereWorld, fault: str) -> None:
    hypervisor = world.open()
    hypervisor.freeze(VmId(RULE), timeout=PATIENCE)
    world.vcenter.fail("CheckInstantClone_Task", fault, when="call")
    place = hypervisor.placements(SERVICE)[0]
    assert hypervisor.fork(ForkSpec("game-a-1", make_stamp(), place), timeout=PATIENCE).name == "game-a-1"
    assert world.vcenter.struck() == 1


def test_a_running_parent_whose_disk_is_at_its_limit_is_refused_by_us_and_by_vcenter(world: VsphereWorld) -> None:
    hypervisor = world.open(fork_running_parents=True)
    place = next(place for place in hypervisor.placements(SERVICE) if place.host == "esx-01")
    hypervisor.fork(ForkSpec("game-a-1", make_stamp(), place), timeout=PATIENCE)
    world.vcenter.set_forks("game-parent-esx-01", 255)
    spec = ForkSpec("game-a-2", make_stamp(), place)
    with pytest.raises(PermanentError, match=r"GenericVmConfigFault.*255 levels"):
        # It believes the number of a moment ago.
        hypervisor.fork(spec, timeout=PATIENCE)
    fresh = world.open(fork_running_parents=True)
    assert {(one.host, one.room) for one in fresh.placements(SERVICE) if one.host == "esx-01"} == {("esx-01", 0)}
    with pytest.raises(PermanentError, match=r"its disk has 256 levels, and vSphere allows 255\. Freeze it"):
        fresh.fork(spec, timeout=PATIENCE)
    assert world.children() == ["game-a-1"]
