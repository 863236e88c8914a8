"""Parents under vSphere: freezing them and failing at it, and which VMs a rule finds."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from forkyard.errors import VerificationFailed
from forkyard.hypervisors.vsphere.api import vim
from forkyard.hypervisors.vsphere.session import Session
from forkyard.model import VmId
from forkyard.waiting import wait_for
from tests.support.small_vm import PATIENCE
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
