"""Children whose parent has no agent of ours: vSphere's own guest customization, looked at from outside."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forkyard.errors import CredentialsRejected, NotReady, Unsupported, VerificationFailed
from forkyard.hypervisors.vsphere.driver import VsphereHypervisor
from forkyard.model import Vm
from forkyard.wire import POINTS
from tests.support.lab import until
from tests.support.small_vm import PATIENCE, make_identity
from tests.support.vsphere import VsphereWorld, fork, vsphere_world

PROVED = {"mac", "address", "hostname"}


@pytest.fixture(scope="module")
def one_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VsphereWorld]:
    with vsphere_world(tmp_path_factory.mktemp("tools"), hosts=2) as world:
        yield world


@pytest.fixture
def world(one_world: VsphereWorld) -> Iterator[VsphereWorld]:
    # No agent of ours in any guest.
    one_world.vcenter.trouble("silent")
    yield one_world
    one_world.clear()


@pytest.fixture
def hypervisor(world: VsphereWorld, tmp_path: Path) -> VsphereHypervisor:
    return open_by_tools(world, tmp_path, world.vcenter.door.guest_password)


def open_by_tools(world: VsphereWorld, directory: Path, password: str) -> VsphereHypervisor:
    secret = directory / "guest.password"
    secret.write_text(f"{password}\n")
    user = world.vcenter.door.guest_user
    return world.open(customize="tools", guest_user=user, guest_password_file=secret)


def is_connected(world: VsphereWorld, vm: Vm) -> bool:
    connected: bool = world.vcenter.machines()[vm.name]["connected"]
    return connected


def test_a_child_without_our_agent_gets_its_name_and_address_and_the_report_says_what_nobody_saw(
    world: VsphereWorld, hypervisor: VsphereHypervisor
) -> None:
    vm = fork(hypervisor, "game-a-1")
    assert not is_connected(world, vm)

    report = hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)

    assert {point.point for point in report.points if point.proved} == PROVED
    assert set(report.left) == set(POINTS) - PROVED
    assert report.proved
    assert is_connected(world, vm)
    (seen,) = world.open().list_vms()
    assert (seen.identified, seen.mac) == (True, vm.mac)


def test_a_repeat_gives_the_report_on_record(world: VsphereWorld, hypervisor: VsphereHypervisor) -> None:
    vm = fork(hypervisor, "game-a-1")
    identity = make_identity(vm)
    first = hypervisor.identify(vm.id, identity, timeout=PATIENCE)
    world.vcenter.calls(reset=True)
    assert hypervisor.identify(vm.id, identity, timeout=PATIENCE) == first
    assert "CustomizeGuest_Task" not in world.vcenter.calls()


def test_a_guest_that_keeps_another_address_loses_its_network(
    world: VsphereWorld, hypervisor: VsphereHypervisor
) -> None:
    world.vcenter.calm()
    world.vcenter.trouble("unproved", point="address")
    vm = fork(hypervisor, "game-a-1")
    with pytest.raises(VerificationFailed, match=r"game-a-1: .*address is 127\.0\.0\.9, not 127\."):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE / 10)
    assert not is_connected(world, vm)
    assert [one.identified for one in hypervisor.list_vms()] == [False]


def test_a_guest_that_keeps_another_name_is_never_connected(world: VsphereWorld, hypervisor: VsphereHypervisor) -> None:
    world.vcenter.calm()
    world.vcenter.trouble("unproved", point="hostname")
    vm = fork(hypervisor, "game-a-1")
    world.vcenter.calls(reset=True)
    with pytest.raises(VerificationFailed, match=r"game-a-1: .*hostname is stray, not game-a-1.*is taken away"):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE / 30)
    # The one is the cable's pulling, in case that an earlier attempt had connected it.
    assert world.vcenter.calls()["ReconfigVM_Task"] == 1
    assert "StartGuestNetwork_Task" not in world.vcenter.calls()


def test_a_cable_is_pulled_again_until_the_vm_lets_it_be(world: VsphereWorld, hypervisor: VsphereHypervisor) -> None:
    vm = fork(hypervisor, "game-a-1")
    world.vcenter.fail("StartGuestNetwork_Task", "CustomizationFault", count=1)
    world.vcenter.delay("StartGuestNetwork_Task", seconds=1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(hypervisor.identify, vm.id, make_identity(vm), timeout=PATIENCE)
        until(lambda: is_connected(world, vm), seconds=10, what="the cable")
        world.vcenter.fail("ReconfigVM_Task", "TaskInProgress", count=2)
        with pytest.raises(VerificationFailed, match="Its network is taken away"):
            asked.result()
    assert not is_connected(world, vm)


def test_a_cable_that_cannot_be_pulled_is_not_said_to_be_out(
    world: VsphereWorld, hypervisor: VsphereHypervisor
) -> None:
    vm = fork(hypervisor, "game-a-1")
    world.vcenter.fail("StartGuestNetwork_Task", "CustomizationFault", count=1)
    world.vcenter.delay("StartGuestNetwork_Task", seconds=1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(hypervisor.identify, vm.id, make_identity(vm), timeout=PATIENCE)
        until(lambda: is_connected(world, vm), seconds=10, what="the cable")
        world.vcenter.fail("ReconfigVM_Task", "GenericVmConfigFault")
        with pytest.raises(VerificationFailed, match=r"COULD NOT BE TAKEN AWAY.*power it off"):
            asked.result()


@pytest.mark.parametrize("call", ["CustomizeGuest_Task", "StartGuestNetwork_Task"])
def test_a_customization_that_fails_leaves_the_cable_out(
    world: VsphereWorld, hypervisor: VsphereHypervisor, call: str
) -> None:
    vm = fork(hypervisor, "game-a-1")
    world.vcenter.fail(call, "CustomizationFault", count=1)
    with pytest.raises(VerificationFailed, match="vmware-gosc"):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert not is_connected(world, vm)


def test_what_failed_once_can_be_repeated(world: VsphereWorld, hypervisor: VsphereHypervisor) -> None:
    vm = fork(hypervisor, "game-a-1")
    world.vcenter.fail("StartGuestNetwork_Task", "ToolsUnavailable", count=1)
    with pytest.raises(NotReady, match="open-vm-tools"):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE).proved


def test_an_engine_that_keeps_its_lock_after_a_failure_is_aborted(
    world: VsphereWorld, hypervisor: VsphereHypervisor
) -> None:
    vm = fork(hypervisor, "game-a-1")
    world.vcenter.fail("CustomizeGuest_Task", "TaskInProgress", count=1)
    with pytest.raises(NotReady):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE).proved


def test_an_abort_that_fails_leaves_the_cable_out_and_the_first_error_told(
    world: VsphereWorld, hypervisor: VsphereHypervisor
) -> None:
    vm = fork(hypervisor, "game-a-1")
    world.vcenter.fail("StartGuestNetwork_Task", "ToolsUnavailable", count=1)
    world.vcenter.fail("AbortCustomization_Task", "NoPermission", when="call")
    with pytest.raises(NotReady, match=r"open-vm-tools.*Its network is taken away"):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert not is_connected(world, vm)


def test_a_guest_without_a_customization_engine_is_told_what_to_install(
    world: VsphereWorld, hypervisor: VsphereHypervisor
) -> None:
    world.vcenter.calm()
    world.vcenter.trouble("engineless")
    vm = fork(hypervisor, "game-a-1")
    with pytest.raises(
        Unsupported, match=r"does not support Guest Customization.*Install VMware's guest customization"
    ):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert not is_connected(world, vm)


def test_a_wrong_password_of_the_guest_is_said_and_the_cable_stays_out(world: VsphereWorld, tmp_path: Path) -> None:
    hypervisor = open_by_tools(world, tmp_path, "wrong")
    vm = fork(hypervisor, "game-a-1")
    with pytest.raises(CredentialsRejected, match=r"vsphere\.guest_user"):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert not is_connected(world, vm)
