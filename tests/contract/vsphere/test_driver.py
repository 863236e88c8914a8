"""What goes wrong at a vCenter: a clear error or a right recovery, no orphan, and nothing of anybody else's touched."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from forkyard.errors import (
    CapacityExhausted,
    CredentialsRejected,
    InvalidRequest,
    NotFound,
    NotReady,
    OutcomeUnknown,
    TransientError,
    VerificationFailed,
)
from forkyard.hypervisors.vsphere import customizing, freezing
from forkyard.hypervisors.vsphere.api import vim
from forkyard.hypervisors.vsphere.specs import list_adapters
from forkyard.model import ForkSpec, Power, VmId
from forkyard.waiting import wait_for
from tests.support.lab import until
from tests.support.small_vm import PATIENCE, make_identity, make_stamp
from tests.support.vsphere import RULE, VsphereWorld, fork, vsphere_world

SERVICE = "game"
SOON = timedelta(seconds=3)
CLONE = "VirtualMachine.Provisioning.Clone"


# Where children go


@pytest.mark.parametrize(
    ("key", "name"),
    [("folder", "/yard/vm/none"), ("pool", "/yard/host/none"), ("datastore", "none"), ("portgroup", "none")],
)
def test_an_unknown_place_is_named_by_its_key(world: VsphereWorld, key: str, name: str) -> None:
    good = world.open().placements(SERVICE)[0]
    with pytest.raises(NotFound, match=rf'vsphere.{key} = "{name}"'):
        world.open(**{key: name}).fork(ForkSpec("game-a-1", make_stamp(), good), timeout=PATIENCE)


def test_children_go_where_the_settings_say(world: VsphereWorld) -> None:
    hypervisor = world.open(
        folder="/yard/vm/game",
        pool="/yard/host/yard-cluster/Resources/game",
        datastore="vsanDatastore",
        portgroup="game-net",
    )
    vm = fork(hypervisor, "game-a-1")
    assert hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE).proved


def test_a_child_stays_on_the_network_of_the_settings(world: VsphereWorld) -> None:
    hypervisor = world.open(portgroup="lan-net")
    vm = fork(hypervisor, "game-a-1")
    assert world.vcenter.machines()["game-a-1"]["network"] == "lan-net"
    hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    machines = world.vcenter.machines()
    assert (machines["game-a-1"]["network"], machines["game-a-1"]["connected"]) == ("lan-net", True)
    assert machines["game-parent-esx-01"]["network"] == "game-net"


def test_a_child_on_its_parents_network_stands_in_a_port_of_its_own(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    session = hypervisor.session

    def port_of(machine: str) -> str:
        devices = session.call("devices", lambda: session.find(vim.VirtualMachine, machine).config.hardware.device)
        return str(list_adapters(devices)[0].backing.port.portKey)

    assert vm.parent is not None
    assert port_of(vm.id) != port_of(vm.parent)
    assert world.vcenter.machines()["game-a-1"]["network"] == "game-net"


def test_an_unknown_parent_rule_finds_nothing(world: VsphereWorld) -> None:
    with pytest.raises(NotFound, match="no such parent"):
        world.open().freeze(VmId("nothing-*"), timeout=SOON)


def test_a_parent_that_is_gone_is_not_found(world: VsphereWorld) -> None:
    hypervisor = world.open()
    place = replace(hypervisor.placements(SERVICE)[0], parent=VmId("vm-99999"))
    with pytest.raises(NotFound, match="vm-99999"):
        hypervisor.fork(ForkSpec("game-a-1", make_stamp(), place), timeout=PATIENCE)


def test_each_host_has_a_placement_and_maintenance_takes_it_away(world: VsphereWorld) -> None:
    assert {place.host for place in world.open().placements(SERVICE)} == {f"esx-0{n}" for n in range(1, 5)}
    world.vcenter.set_host("esx-02", maintenance=True)
    world.vcenter.set_host("esx-03", connected=False)
    assert {place.host for place in world.open().placements(SERVICE)} == {"esx-01", "esx-04"}


def test_a_host_that_enters_maintenance_in_the_middle_makes_nothing(world: VsphereWorld) -> None:
    hypervisor = world.open()
    place = next(place for place in hypervisor.placements(SERVICE) if place.host == "esx-02")
    world.vcenter.set_host("esx-02", maintenance=True)
    with pytest.raises(TransientError, match=r"game-parent-esx-02 on esx-02: .*maintenance mode"):
        hypervisor.fork(ForkSpec("game-a-1", make_stamp(), place), timeout=SOON)
    assert world.children() == []


def test_a_host_on_its_way_into_maintenance_gets_no_forks(world: VsphereWorld) -> None:
    world.vcenter.set_host("esx-03", entering_maintenance=True)
    hypervisor = world.open()
    assert {place.host for place in hypervisor.placements(SERVICE)} == {"esx-01", "esx-02", "esx-04"}
    assert "esx-03" not in hypervisor.list_hosts()
    world.vcenter.set_host("esx-03", entering_maintenance=False)
    assert len(world.open().placements(SERVICE)) == 4


def test_a_name_that_several_networks_have_is_refused_and_a_path_is_taken(tmp_path: Path) -> None:
    with vsphere_world(tmp_path, hosts=1) as world:
        hypervisor = world.open(portgroup="VM Network")
        session = hypervisor.session
        session.call("another datacenter", lambda: session.content.rootFolder.CreateDatacenter("other"))
        with pytest.raises(InvalidRequest, match=r'vsphere\.portgroup = "VM Network".* 2 of this name.*path'):
            fork(hypervisor, "game-a-1")
        assert fork(world.open(portgroup="/yard/network/VM Network"), "game-a-1").name == "game-a-1"
        assert fork(world.open(datastore="/yard/datastore/vsanDatastore"), "game-a-2").name == "game-a-2"


def test_a_datastore_that_is_not_there_leaves_no_room_and_keeps_nobody_from_looking(world: VsphereWorld) -> None:
    hypervisor = world.open(datastore="gone")
    assert {(p.room, p.limited_by) for p in hypervisor.placements(SERVICE)} == {(0, "vsphere.datastore")}
    assert hypervisor.list_vms(SERVICE) == []
    assert len(hypervisor.list_parents(SERVICE)) == 4


def test_a_full_datastore_has_no_room(world: VsphereWorld) -> None:
    hypervisor = world.open()
    place = hypervisor.placements(SERVICE)[0]
    world.vcenter.set_datastore(free_bytes=0)
    assert [(p.room, p.limited_by) for p in world.open().placements(SERVICE)] == [(0, "datastore")] * 4
    with pytest.raises(CapacityExhausted, match="datastore"):
        hypervisor.fork(ForkSpec("game-a-1", make_stamp(), place), timeout=SOON)
    assert world.children() == []


# Names and owners


def test_another_process_goes_on_where_one_was_killed(world: VsphereWorld) -> None:
    vm = fork(world.open(), "game-a-1", "one")
    other = world.open()
    again = fork(other, "game-a-1", "one", place=1)
    assert (again.id, again.address, again.mac) == (vm.id, vm.address, vm.mac)
    assert world.open().identify(vm.id, make_identity(vm), timeout=PATIENCE).proved
    third = world.open()
    assert third.identify(vm.id, make_identity(vm), timeout=PATIENCE).proved
    assert third.restamp(vm.id, replace(vm.stamp, expires=None)).stamp.expires is None
    assert [(one.mac, one.identified) for one in third.list_vms()] == [(vm.mac, True)]


# Guests


def test_a_point_that_is_not_proved_leaves_the_cable_out(world: VsphereWorld) -> None:
    world.vcenter.trouble("unproved", point="kernel_rng")
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    with pytest.raises(VerificationFailed, match="kernel_rng"):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert world.vcenter.machines()["game-a-1"]["connected"] is False
    assert [one.identified for one in hypervisor.list_vms()] == [False]


def test_a_proved_identity_connects_the_cable(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    assert world.vcenter.machines()["game-a-1"]["connected"] is False
    hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert world.vcenter.machines()["game-a-1"]["connected"] is True


def test_a_clock_that_is_not_of_now_leaves_the_cable_out(world: VsphereWorld) -> None:
    world.vcenter.trouble("stopped")
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    with pytest.raises(VerificationFailed, match=r"game-a-1: the guest's clock was set to .* NTP"):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert world.vcenter.machines()["game-a-1"]["connected"] is False


@pytest.mark.parametrize("by_another", [False, True])
def test_a_guest_that_is_asked_again_may_tell_of_the_time_when_it_was_asked_first(
    world: VsphereWorld, monkeypatch: pytest.MonkeyPatch, *, by_another: bool
) -> None:
    monkeypatch.setattr(customizing, "_CLOCK_OFF", 0.0)
    monkeypatch.setattr(customizing, "_CLOCK_STEP", 1.0)
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    world.vcenter.fail("ReconfigVM_Task", "drop", when="lost", count=1)
    with pytest.raises(OutcomeUnknown):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    first = time.monotonic()
    until(lambda: time.monotonic() - first > 2.5, seconds=10, what="a moment that the report is not of")
    again = world.open() if by_another else hypervisor
    assert again.identify(vm.id, make_identity(vm), timeout=PATIENCE).proved


def test_a_guest_that_says_nothing_is_not_ready(world: VsphereWorld) -> None:
    world.vcenter.trouble("silent")
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    with pytest.raises(NotReady, match=r"game-a-1: identify.*has not answered"):
        hypervisor.identify(vm.id, make_identity(vm), timeout=timedelta(seconds=1))


def test_destroying_what_is_off_already_is_success(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    world.kill(vm)
    wait_for(lambda: hypervisor.list_vms()[0].power is Power.DEAD or None, what="its end", timeout=SOON)
    hypervisor.destroy(vm.id, timeout=PATIENCE)
    assert hypervisor.list_vms() == []


def test_waiting_for_many_children_is_one_stream(world: VsphereWorld) -> None:
    hypervisor = world.open()
    places = hypervisor.placements(SERVICE)
    specs = [ForkSpec(f"game-a-{n}", make_stamp(), places[n % len(places)]) for n in range(30)]
    before = hypervisor.session.calls.copy()
    with ThreadPoolExecutor(max_workers=30) as pool:
        list(pool.map(lambda spec: hypervisor.fork(spec, timeout=PATIENCE), specs))
    made = hypervisor.session.calls - before
    assert made["InstantClone_Task"] == len(specs)
    assert made["CheckInstantClone_Task"] == len(places)
    # Everything beside the forks and the preflights, for all of them together.
    assert made.total() - len(specs) - len(places) < 2 * len(specs)


# Parents that run


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VsphereWorld]:
    """Start a vCenter whose parents are not frozen."""
    with vsphere_world(tmp_path_factory.mktemp("running"), frozen=False, hosts=2) as world:
        yield world


def test_a_running_parent_is_refused_unless_asked_for(running: VsphereWorld) -> None:
    hypervisor = running.open()
    assert hypervisor.placements(SERVICE) == []
    assert hypervisor.list_parents(SERVICE) == []
    asked = running.open(fork_running_parents=True)
    place = asked.placements(SERVICE)[0]
    with pytest.raises(NotFound, match="is not frozen"):
        hypervisor.fork(ForkSpec("game-a-1", make_stamp(), place), timeout=SOON)
    vm = asked.fork(ForkSpec("game-a-1", make_stamp(), place), timeout=PATIENCE)
    assert asked.identify(vm.id, make_identity(vm), timeout=PATIENCE).proved
    asked.destroy(vm.id, timeout=PATIENCE)


def test_all_parents_of_a_rule_are_frozen_at_once(running: VsphereWorld) -> None:
    hypervisor = running.open()
    frozen = hypervisor.freeze(VmId(RULE), timeout=PATIENCE)
    parents = hypervisor.list_parents(SERVICE)
    assert parents[0] == frozen
    assert [machine["frozen"] for machine in running.vcenter.machines().values()] == [True] * len(parents)
    assert len(hypervisor.placements(SERVICE)) == len(parents)


def test_guest_operations_freeze_a_parent_too(tmp_path: Path) -> None:
    secret = tmp_path / "guest"
    with vsphere_world(tmp_path, frozen=False, hosts=1) as world:
        secret.write_text(world.vcenter.door.guest_password)
        hypervisor = world.open(guest_user=world.vcenter.door.guest_user, guest_password_file=secret)
        assert hypervisor.freeze(VmId(RULE), timeout=PATIENCE).name == "game-parent-esx-01"


@pytest.mark.parametrize("fault", ["drop", "GuestOperationsUnavailable"])
def test_a_freeze_whose_start_is_not_confirmed_is_seen_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    secret = tmp_path / "guest"
    with vsphere_world(tmp_path, frozen=False, hosts=1) as world:
        secret.write_text(world.vcenter.door.guest_password)
        if fault == "drop":
            world.vcenter.fail("StartProgramInGuest", fault, when="lost", count=1)
        else:
            # Tools that are slow: the VM stands still before they have told anything.
            monkeypatch.setattr(freezing, "_FREEZING", "-c 'exec /usr/bin/vmware-rpctool instantclone.freeze'")
        hypervisor = world.open(guest_user=world.vcenter.door.guest_user, guest_password_file=secret)
        assert hypervisor.freeze(VmId(RULE), timeout=PATIENCE).name == "game-parent-esx-01"


def test_a_freeze_that_could_not_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezing, "_DOUBT", timedelta(seconds=1))
    secret = tmp_path / "guest"
    with vsphere_world(tmp_path, frozen=False, hosts=1) as world:
        secret.write_text(world.vcenter.door.guest_password)
        world.vcenter.fail("StartProgramInGuest", "GuestOperationsUnavailable", when="call")
        hypervisor = world.open(guest_user=world.vcenter.door.guest_user, guest_password_file=secret)
        with pytest.raises(NotReady, match="open-vm-tools"):
            hypervisor.freeze(VmId(RULE), timeout=PATIENCE)


def test_a_wrong_guest_password_is_told(tmp_path: Path) -> None:
    secret = tmp_path / "guest"
    secret.write_text("wrong")
    with vsphere_world(tmp_path, frozen=False, hosts=1) as world:
        hypervisor = world.open(guest_user="root", guest_password_file=secret)
        with pytest.raises(CredentialsRejected, match=r"vsphere\.guest_user"):
            hypervisor.freeze(VmId(RULE), timeout=PATIENCE)
