"""What breaks between vCenter and us on the way: found again, or told with what to do."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest

from forkyard.errors import (
    CapacityExhausted,
    ForkyardError,
    OutcomeUnknown,
)
from forkyard.hypervisors.vsphere.driver import VsphereHypervisor
from forkyard.model import ForkSpec, Vm
from forkyard.waiting import wait_for
from tests.support.lab import until
from tests.support.small_vm import PATIENCE, make_identity, make_stamp
from tests.support.vsphere import VsphereWorld, fork

SERVICE = "game"
SOON = timedelta(seconds=3)
CLONE = "VirtualMachine.Provisioning.Clone"


def fork_stubbornly(hypervisor: VsphereHypervisor, spec: ForkSpec) -> Vm:
    """Fork as the flows do: the same call again while the error says that it may help."""

    def attempt() -> Vm:
        return hypervisor.fork(spec, timeout=timedelta(seconds=20))

    return wait_for(attempt, what=spec.name, timeout=PATIENCE)


def test_a_session_that_expired_is_opened_again(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    world.vcenter.expire_sessions()
    assert hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE).proved
    world.vcenter.expire_sessions()
    assert [one.name for one in hypervisor.list_vms()] == ["game-a-1"]


def test_a_late_answer_to_a_call_of_a_lost_session_does_not_log_everybody_out(world: VsphereWorld) -> None:
    hypervisor = world.open()
    hypervisor.list_vms()
    session = hypervisor.session
    index = session.content.searchIndex
    world.vcenter.delay("FindByInventoryPath", call=1)
    world.vcenter.calls(reset=True)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(lambda: index.FindByInventoryPath("yard"))
        until(lambda: "FindByInventoryPath" in world.vcenter.calls(), seconds=10, what="the begin of the call")
        world.vcenter.expire_sessions()
        hypervisor.list_vms()
        logins = session.calls["Login"]
        # Who is answered is one that vCenter knows no more, with the cookie of a session that is nobody's.
        late.result()
        hypervisor.list_vms()
    assert session.calls["Login"] == logins


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
