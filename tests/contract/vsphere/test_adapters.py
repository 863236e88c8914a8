"""A child's network adapters: whether the cable is in is looked at, whatever vCenter was asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from forkyard.errors import VerificationFailed
from forkyard.hypervisors.vsphere.api import vim
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.specs import list_adapters
from forkyard.model import ForkSpec
from tests.support.lab import until
from tests.support.small_vm import PATIENCE, SERVICE, make_identity, make_stamp
from tests.support.vsphere import VsphereWorld, fork, vsphere_world

PARENT = "game-parent-esx-01"


@pytest.fixture
def two_adapters(tmp_path: Path) -> Iterator[VsphereWorld]:
    """Start a vCenter whose parent has a second network adapter."""
    with vsphere_world(tmp_path, hosts=1) as world:
        session = Session(world.settings.vsphere)
        parent = session.find(vim.VirtualMachine, world.vcenter.machines()[PARENT]["id"])
        (first,) = list_adapters(parent.config.hardware.device)
        port = vim.dvs.PortConnection(
            portgroupKey=first.backing.port.portgroupKey, switchUuid=first.backing.port.switchUuid
        )
        card = vim.vm.device.VirtualVmxnet3(
            key=4001, backing=type(first.backing)(port=port), connectable=first.connectable
        )
        change = vim.vm.device.VirtualDeviceSpec(operation="add", device=card)
        session.call("adding", lambda: parent.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))
        until(lambda: len(list_adapters(parent.config.hardware.device)) == 2, seconds=10, what="the adapter")
        session.close()
        yield world


def connected(world: VsphereWorld, name: str) -> list[bool]:
    session = Session(world.settings.vsphere)
    vm = session.find(vim.VirtualMachine, world.vcenter.machines()[name]["id"])
    devices = session.call("looking", lambda: vm.config.hardware.device)
    session.close()
    return [card.connectable.connected for card in list_adapters(devices)]


def test_a_child_that_comes_up_connected_is_cut_off_and_refused(world: VsphereWorld) -> None:
    world.vcenter.trouble("plugged", count=1)
    hypervisor = world.open()
    with pytest.raises(VerificationFailed, match=r"game-a-1: .*connected.*Its network is taken away"):
        fork(hypervisor, "game-a-1", "one")
    assert connected(world, "game-a-1") == [False]
    # Its address is not dealt out again while it is there.
    (refused,) = hypervisor.list_vms()
    assert fork(hypervisor, "game-a-2").address != refused.address


def test_a_repeat_refuses_a_child_that_its_maker_left_connected(world: VsphereWorld) -> None:
    world.vcenter.trouble("plugged", count=1)
    world.vcenter.fail("ReconfigVM_Task", "GenericVmConfigFault", count=1)
    with pytest.raises(VerificationFailed, match="COULD NOT BE TAKEN AWAY"):
        fork(world.open(), "game-a-1", "one")
    assert connected(world, "game-a-1") == [True]
    with pytest.raises(VerificationFailed, match="Its network is taken away"):
        fork(world.open(), "game-a-1", "one")
    assert connected(world, "game-a-1") == [False]


def test_a_second_adapter_is_looked_at_and_connected_too(two_adapters: VsphereWorld) -> None:
    hypervisor = two_adapters.open()
    vm = fork(hypervisor, "game-a-1")
    assert connected(two_adapters, "game-a-1") == [False, False]
    assert hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE).proved
    assert connected(two_adapters, "game-a-1") == [True, True]
    two_adapters.vcenter.trouble("plugged", count=1)
    with pytest.raises(VerificationFailed, match=r"game-a-2: .*Its network is taken away"):
        fork(hypervisor, "game-a-2")
    assert connected(two_adapters, "game-a-2") == [False, False]


def test_looking_at_the_adapters_costs_no_call(world: VsphereWorld) -> None:
    hypervisor = world.open()
    place = hypervisor.placements(SERVICE)[0]
    for name in ("game-a-1", "game-a-2"):
        hypervisor.session.calls.clear()
        vm = hypervisor.fork(ForkSpec(name, make_stamp(), place), timeout=PATIENCE)
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    # What is known of the parent by then is not read again, and of the child the stream tells all.
    assert hypervisor.session.calls["RetrievePropertiesEx"] == 0
