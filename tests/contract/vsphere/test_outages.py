"""A vCenter that is away, that lets us in no more, or that loses an answer in the middle of a long one."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from forkyard.errors import CredentialsRejected, OutcomeUnknown, TransientError
from forkyard.hypervisors.vsphere import inventory
from forkyard.hypervisors.vsphere.api import vim
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.driver import VsphereHypervisor
from forkyard.hypervisors.vsphere.specs import make_change
from forkyard.model import ForkSpec, Vm
from forkyard.waiting import wait_for
from tests.support.lab import until
from tests.support.small_vm import PATIENCE, make_identity, make_stamp
from tests.support.vsphere import VsphereWorld, vsphere_world

SERVICE = "game"
SOON = timedelta(seconds=5)
ATTEMPTS = 3
"""As many as the flows make."""


def make_specs(hypervisor: VsphereHypervisor, number: int) -> list[ForkSpec]:
    places = hypervisor.placements(SERVICE)
    return [ForkSpec(f"game-a-{n}", make_stamp(f"fork-{n}"), places[n % len(places)]) for n in range(number)]


def fork_and_identify(hypervisor: VsphereHypervisor, spec: ForkSpec) -> Vm:
    """As the flows do: each step a few times while its outcome is unknown, and no more."""

    def stubbornly(step: object) -> object:
        assert callable(step)
        for attempt in range(ATTEMPTS):
            try:
                return step()
            except OutcomeUnknown:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError

    vm = stubbornly(lambda: hypervisor.fork(spec, timeout=PATIENCE))
    assert isinstance(vm, Vm)
    stubbornly(lambda: hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE))
    return vm


def test_a_vcenter_that_is_away_for_a_while_delays_a_big_request_and_does_not_break_it(world: VsphereWorld) -> None:
    world.vcenter.delay("InstantClone_Task", seconds=0.3, serialized=0.05)
    hypervisor = world.open()
    specs = make_specs(hypervisor, 40)
    with ThreadPoolExecutor(max_workers=20) as pool:
        waiting = [pool.submit(fork_and_identify, hypervisor, spec) for spec in specs]
        wait_for(lambda: len(world.children()) >= 5 or None, what="the first forks", timeout=PATIENCE)
        # Half of it connections that break, half of it a proxy that says 503; the shortest that three attempts at
        # once do not outlive is some 3 s.
        world.vcenter.restart(8.0)
        vms = [one.result() for one in waiting]
    assert sorted(world.children()) == sorted(spec.name for spec in specs)
    assert {(vm.id, vm.identified) for vm in hypervisor.list_vms()} == {(vm.id, True) for vm in vms}


def test_a_changing_call_waits_for_a_vcenter_that_is_away(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork_and_identify(hypervisor, make_specs(hypervisor, 1)[0])
    session = hypervisor.session
    managed = session.find(vim.VirtualMachine, vm.id)
    world.vcenter.begin_restart(2.0)
    # The first call of all goes out on a connection that was good a moment ago.
    with pytest.raises(TransientError):
        session.call("noticing", lambda: managed.name, deadline=Deadline(timedelta(seconds=0.2)))
    before = session.calls["ReconfigVM_Task"]
    assert session.call("changing", lambda: managed.ReconfigVM_Task(make_change({})), changes=True)
    assert session.calls["ReconfigVM_Task"] == before + 1


def test_a_guest_is_told_the_time_when_its_request_is_sent_and_not_when_that_was_made(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = hypervisor.fork(make_specs(hypervisor, 1)[0], timeout=PATIENCE)
    identity = make_identity(vm)
    managed = hypervisor.session.find(vim.VirtualMachine, vm.id)
    world.vcenter.begin_restart(4.0)
    with pytest.raises(TransientError):
        hypervisor.session.call("noticing", lambda: managed.name, deadline=Deadline(timedelta(seconds=0.2)))
    report = hypervisor.identify(vm.id, identity, timeout=PATIENCE)
    told = next(point.value for point in report.points if point.point == "clock")
    # In whole seconds.
    assert datetime.fromisoformat(told).timestamp() > identity.wall_clock + 2


def test_a_lost_answer_does_not_cost_the_session(world: VsphereWorld) -> None:
    hypervisor = world.open()
    vm = fork_and_identify(hypervisor, make_specs(hypervisor, 1)[0])
    world.vcenter.fail("RetrievePropertiesEx", "drop", when="call", count=1)
    before = hypervisor.session.calls["Login"]
    assert [one.id for one in hypervisor.list_vms()] == [vm.id]
    assert world.vcenter.struck() == 1
    assert hypervisor.session.calls["Login"] == before


def test_a_password_that_works_no_more_is_tried_once_by_all_threads_together(tmp_path: Path) -> None:
    # A vCenter of its own: who is refused once is refused for a while.
    with vsphere_world(tmp_path, hosts=1) as world:
        hypervisor = world.open()
        *specs, first = make_specs(hypervisor, 21)
        world.vcenter.delay("InstantClone_Task", seconds=3)
        world.vcenter.calls(reset=True)
        begun = threading.Barrier(len(specs) + 1)

        def attempt(spec: ForkSpec) -> None:
            begun.wait()
            hypervisor.fork(spec, timeout=SOON)

        with ThreadPoolExecutor(max_workers=len(specs) + 1) as pool:
            # A task that is watched has the update stream running.
            watched = pool.submit(hypervisor.fork, first, timeout=PATIENCE)
            until(lambda: "InstantClone_Task" in world.vcenter.calls(), seconds=10, what="the begin of the task")
            waiting = [pool.submit(attempt, spec) for spec in specs]
            world.vcenter.add_person(world.settings.vsphere.user, "another")
            world.vcenter.expire_sessions()
            before = hypervisor.session.calls["Login"]
            begun.wait()
            for one in waiting:
                with pytest.raises(CredentialsRejected, match=r"vsphere\.user"):
                    one.result()
            # Its task may have gone on: that is what the next look is for.
            with pytest.raises(OutcomeUnknown, match=r"vsphere\.user"):
                watched.result()
        assert hypervisor.session.calls["Login"] == before + 1


@pytest.mark.parametrize("expires", [False, True])
def test_pages_that_are_lost_on_the_way_are_read_from_the_first_again(
    world: VsphereWorld, monkeypatch: pytest.MonkeyPatch, *, expires: bool
) -> None:
    monkeypatch.setattr(inventory, "PAGE", 2)
    hypervisor = world.open()
    vms = [hypervisor.fork(spec, timeout=PATIENCE) for spec in make_specs(hypervisor, 3)]
    method = "ContinueRetrievePropertiesEx"
    if not expires:
        world.vcenter.fail(method, "drop", when="call", count=1)
        assert [vm.id for vm in hypervisor.list_vms()] == [vm.id for vm in vms]
        assert world.vcenter.struck() == 1
        return
    world.vcenter.delay(method, call=0.5)
    world.vcenter.calls(reset=True)
    with ThreadPoolExecutor(1) as pool:
        listed = pool.submit(hypervisor.list_vms)
        until(lambda: method in world.vcenter.calls(), seconds=10, what="the second page")
        world.vcenter.expire_sessions()
        assert [vm.id for vm in listed.result()] == [vm.id for vm in vms]
