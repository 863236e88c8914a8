"""What goes wrong at a vCenter: a clear error or a right recovery, no orphan, and nothing of anybody else's touched."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from forkyard.errors import (
    CapacityExhausted,
    CredentialsRejected,
    ForkyardError,
    InvalidRequest,
    NotFound,
    NotReady,
    OutcomeUnknown,
    PermanentError,
    TransientError,
    Unavailable,
    Unsupported,
    VerificationFailed,
)
from forkyard.hypervisors.vsphere.api import moid, vim
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.driver import VsphereHypervisor
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.specs import Location, list_adapters, make_clone_spec
from forkyard.model import ForkSpec, Power, Vm, VmId
from forkyard.waiting import wait_for
from tests.support.lab import until
from tests.support.small_vm import PATIENCE, make_identity, make_stamp
from tests.support.vsphere import RULE, VsphereWorld, vsphere_world

SERVICE = "game"
SOON = timedelta(seconds=3)
CLONE = "VirtualMachine.Provisioning.Clone"


@pytest.fixture
def world(vsphere_yard: VsphereWorld) -> Iterator[VsphereWorld]:
    """Give the vCenter as it was in the beginning; nothing remains in it."""
    yield vsphere_yard
    vsphere_yard.clear()
    assert vsphere_yard.children() == []


def fork(hypervisor: VsphereHypervisor, name: str, fork_id: str | None = None, place: int = 0) -> Vm:
    spec = ForkSpec(name, make_stamp(fork_id), hypervisor.placements(SERVICE)[place])
    return hypervisor.fork(spec, timeout=PATIENCE)


def fork_stubbornly(hypervisor: VsphereHypervisor, spec: ForkSpec) -> Vm:
    """Fork as the flows do: the same call again while the error says that it may help."""

    def attempt() -> Vm:
        return hypervisor.fork(spec, timeout=timedelta(seconds=20))

    return wait_for(attempt, what=spec.name, timeout=PATIENCE)


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


# Who may in


def test_a_wrong_password_is_told_and_not_shown(world: VsphereWorld, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("opensesame\n")
    with pytest.raises(CredentialsRejected, match=r"administrator@vsphere.local.*vsphere.user") as caught:
        world.open(password_file=wrong).list_vms()
    assert "opensesame" not in str(caught.value)


def test_a_certificate_that_nobody_vouches_for_is_refused(world: VsphereWorld) -> None:
    with pytest.raises(CredentialsRejected, match=r"not trusted.*vsphere.ca_file.*vsphere.thumbprint"):
        world.open(thumbprint="").list_vms()


def test_another_certificate_than_the_pinned_is_refused(world: VsphereWorld) -> None:
    with pytest.raises(CredentialsRejected, match=r"not the one of vsphere\.thumbprint"):
        world.open(thumbprint="ab" * 32).list_vms()


def test_every_new_connection_is_compared_with_the_pin(world: VsphereWorld) -> None:
    hypervisor = world.open()
    hypervisor.list_vms()
    # As if the first connection had been to the right server, and the next one to a stranger's.
    stub = hypervisor.session.slow_stub()
    stub.schemeArgs["pin"] = "ab" * 32
    stub.DropConnections()
    index = vim.SearchIndex(moid(hypervisor.session.content.searchIndex), stub)
    with pytest.raises(CredentialsRejected, match=r"not the one of vsphere\.thumbprint"):
        hypervisor.session.call("looking", lambda: index.FindByInventoryPath("yard"))


def test_a_certificate_of_a_known_authority_is_taken(world: VsphereWorld) -> None:
    hypervisor = world.open(thumbprint="", ca_file=world.vcenter.door.certificate)
    assert hypervisor.list_vms() == []


def test_no_check_at_all_works_and_is_loud(world: VsphereWorld, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert world.open(thumbprint="", verify=False).list_vms() == []
    assert "CERTIFICATE IS NOT CHECKED" in caplog.text


def test_a_missing_privilege_is_named(world: VsphereWorld, tmp_path: Path) -> None:
    world.vcenter.add_person("guest@vsphere.local", "guestpass", lacks=(CLONE,))
    password = tmp_path / "password"
    password.write_text("guestpass\n")
    hypervisor = world.open(user="guest@vsphere.local", password_file=password)
    with pytest.raises(CredentialsRejected, match=CLONE):
        fork(hypervisor, "game-a-1")


def test_an_esxi_host_by_itself_is_refused(tmp_path: Path) -> None:
    with vsphere_world(tmp_path, esx=True, hosts=1) as world, pytest.raises(Unsupported, match="vCenter"):
        world.open().list_vms()


def test_nobody_at_the_door_is_unavailable(world: VsphereWorld) -> None:
    closed = Session(replace(world.settings.vsphere, url="https://127.0.0.1:9/sdk"))
    with pytest.raises(Unavailable, match="does not answer"):
        closed.call("looking", lambda: None, deadline=Deadline(timedelta(seconds=0.5)))


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


def remove_strangers_vm(world: VsphereWorld, vm: str) -> None:
    session = Session(world.settings.vsphere)
    managed = session.find(vim.VirtualMachine, vm)
    session.call("off", managed.PowerOffVM_Task)
    wait_for(lambda: world.vcenter.machines()["game-a-1"]["power"] == "poweredOff" or None, what="off", timeout=SOON)
    session.call("deleting", managed.Destroy_Task)
    wait_for(lambda: world.children() == [] or None, what="the stranger's end", timeout=SOON)
    session.close()


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


def test_a_guest_that_says_nothing_is_not_ready(world: VsphereWorld) -> None:
    world.vcenter.trouble("silent")
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    with pytest.raises(NotReady, match=r"game-a-1: identify.*has not answered"):
        hypervisor.identify(vm.id, make_identity(vm), timeout=timedelta(seconds=1))


# What breaks on the way


def test_a_session_that_expired_is_opened_again(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    world.vcenter.expire_sessions()
    assert hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE).proved
    world.vcenter.expire_sessions()
    assert [one.name for one in hypervisor.list_vms()] == ["game-a-1"]


def test_a_task_that_is_waited_for_outlives_the_session(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    world.vcenter.delay("ReconfigVM_Task", seconds=2)
    world.vcenter.calls(reset=True)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(hypervisor.identify, vm.id, make_identity(vm), timeout=PATIENCE)
        until(lambda: "ReconfigVM_Task" in world.vcenter.calls(), seconds=10, what="the begin of the task")
        world.vcenter.expire_sessions()
        assert asked.result().proved


@pytest.mark.parametrize("when", ["late", "lost"])
def test_a_fork_that_was_made_all_the_same_is_found(world: VsphereWorld, when: str) -> None:
    world.vcenter.fail("InstantClone_Task", "drop" if when == "lost" else "Timedout", when=when, count=1)
    hypervisor = world.open()
    spec = ForkSpec("game-a-1", make_stamp("one"), hypervisor.placements(SERVICE)[0])
    with pytest.raises(OutcomeUnknown):
        hypervisor.fork(spec, timeout=SOON)
    vm = fork_stubbornly(hypervisor, spec)
    assert [one.id for one in hypervisor.list_vms()] == [vm.id]


@pytest.mark.parametrize("fault", ["NoDiskSpace", "InsufficientMemoryResourcesFault"])
def test_no_room_at_the_host_is_no_capacity(world: VsphereWorld, fault: str) -> None:
    world.vcenter.fail("InstantClone_Task", fault)
    with pytest.raises(CapacityExhausted, match=fault):
        fork(world.open(), "game-a-1")
    assert world.children() == []


def test_a_restart_in_the_middle_of_many_forks_ends_with_as_many(world: VsphereWorld) -> None:
    world.vcenter.delay("InstantClone_Task", seconds=0.3, serialized=0.05)
    hypervisor = world.open()
    places = hypervisor.placements(SERVICE)
    specs = [ForkSpec(f"game-a-{n}", make_stamp(f"fork-{n}"), places[n % len(places)]) for n in range(40)]
    with ThreadPoolExecutor(max_workers=20) as pool:
        waiting = [pool.submit(fork_stubbornly, hypervisor, spec) for spec in specs]
        wait_for(lambda: len(world.children()) >= 5 or None, what="the first forks", timeout=PATIENCE)
        world.vcenter.restart(1.0)
        vms = [one.result() for one in waiting]
    assert sorted(world.children()) == sorted(spec.name for spec in specs)
    seen = hypervisor.list_vms()
    assert {(vm.id, vm.address) for vm in seen} == {(vm.id, vm.address) for vm in vms}
    assert len({vm.address for vm in seen}) == len(specs)


def test_faults_of_every_kind_leave_no_orphan_that_is_not_listed(world: VsphereWorld) -> None:
    for fault, when in (("NoDiskSpace", "task"), ("HostNotConnected", "call"), ("Timedout", "late"), ("drop", "lost")):
        world.vcenter.fail("InstantClone_Task", fault, when=when, rate=0.15)
    hypervisor = world.open()
    places = hypervisor.placements(SERVICE)

    def attempt(number: int) -> None:
        with suppress(ForkyardError):
            fork_once(hypervisor, number)

    def fork_once(hypervisor: VsphereHypervisor, number: int) -> None:
        spec = ForkSpec(f"game-a-{number}", make_stamp(f"fork-{number}"), places[number % len(places)])
        hypervisor.fork(spec, timeout=timedelta(seconds=10))

    with ThreadPoolExecutor(max_workers=10) as pool:
        list(pool.map(attempt, range(40)))
    assert world.vcenter.struck() > 0
    assert [vm.name for vm in hypervisor.list_vms()] == world.children()


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


def test_a_wrong_guest_password_is_told(tmp_path: Path) -> None:
    secret = tmp_path / "guest"
    secret.write_text("wrong")
    with vsphere_world(tmp_path, frozen=False, hosts=1) as world:
        hypervisor = world.open(guest_user="root", guest_password_file=secret)
        with pytest.raises(CredentialsRejected, match=r"vsphere\.guest_user"):
            hypervisor.freeze(VmId(RULE), timeout=PATIENCE)
