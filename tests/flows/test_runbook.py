"""The runbook on a pretended world, by plain calls: what a request does to a fleet, also when things fail."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Event
from typing import TypeVar

import pytest

from flows.publish import describe_progress
from forkyard.errors import (
    CapacityExhausted,
    InvalidRequest,
    LeaseHeld,
    OutcomeUnknown,
    PermanentError,
    Unavailable,
    VerificationFailed,
)
from forkyard.holders import make_holder
from forkyard.hypervisors.fake import FakeHypervisor
from forkyard.model import Intent, Phase, Registration, Vm
from forkyard.names import new_request_id
from forkyard.registry.fake import FakeRegistry
from forkyard.waiting import wait_for
from tests.flows.yard import Yard
from tests.support.lab import until

R = TypeVar("R")


def test_from_zero_to_four_all_serve_and_are_kept(yard: Yard) -> None:
    report = yard.scale(4)
    assert (report.ok, report.serving, report.before) == (True, 4, 0)
    assert len(yard.serving()) == 4
    assert all(vm.stamp.expires is None for vm in yard.fake.vms.values())
    assert {child.phase for child in report.children} == {Phase.SERVING}
    assert set(report.children[0].seconds) == {"forked", "identified", "registered", "ready", "serving"}


def test_the_memory_of_each_child_at_the_last_look_is_in_the_report(yard: Yard) -> None:
    class Measuring(FakeHypervisor):
        def list_vms(self, service: str | None = None) -> list[Vm]:
            return [replace(vm, pss_bytes=47 << 20) for vm in super().list_vms(service)]

    work = yard.work(2)
    work.world = replace(work.world, hypervisor=Measuring(yard.fake))
    assert [child.pss_bytes for child in yard.run(work)[0].children] == [47 << 20] * 2


def test_the_stages_come_in_the_runbooks_order(yard: Yard) -> None:
    yard.scale(1)
    expected = ["lease", "record_intent", "freeze", "fork", "identify", "apply", "probe", "restamp"]
    assert [call for call, _ in yard.fake.calls if call in expected] == expected


def test_a_second_identical_request_forks_nothing(yard: Yard) -> None:
    yard.scale(3)
    report = yard.scale(3)
    assert report.ok
    assert yard.fake.counted()["fork"] == 3


def test_the_same_request_again_after_it_was_killed_takes_its_children_up_again(yard: Yard) -> None:
    request_id = new_request_id()
    yard.fake.fail("identify", Unavailable("the guest is busy"))
    work = yard.work(2, request_id=request_id)
    yard.fake.fail("destroy", PermanentError("as if killed before any rollback"))
    yard.run(work)
    left = yard.names()
    yard.fake.mend()
    report = yard.scale(2, request_id=request_id)
    assert report.ok
    assert set(left) & set(yard.names())


def test_a_running_parent_is_quiesced_before_the_first_fork(yard: Yard) -> None:
    yard.fake.parents.clear()
    yard.fake.add_parent("game", frozen=False)
    assert yard.scale(2).ok


def test_scaling_down_takes_the_newest_first(yard: Yard) -> None:
    yard.scale(2)
    first = set(yard.names())
    yard.scale(4)
    report = yard.scale(2)
    assert report.ok
    assert set(yard.names()) == first


def test_scaling_down_takes_the_least_loaded_first(yard: Yard) -> None:
    yard.scale(3)
    busy = yard.names()[-1]
    yard.fake.connections[busy] = float("inf")
    yard.scale(1)
    assert yard.names() == [busy]


def test_a_child_is_drained_out_of_nginx_before_it_is_destroyed(yard: Yard) -> None:
    yard.scale(2)
    yard.fake.calls.clear()
    yard.scale(1)
    changes = {"set_draining", "apply", "active_connections", "destroy", "deregister"}
    order = [call for call, _ in yard.fake.calls if call in changes]
    assert order[0] == "active_connections"  # for the plan: who is least loaded
    assert order[1:] == ["set_draining", "apply", "active_connections", "destroy", "deregister", "set_draining"]
    assert [node for node, _ in yard.fake.entries] == yard.names()
    assert not yard.fake.draining


def test_open_connections_are_waited_for(yard: Yard) -> None:
    yard.scale(1)
    (name,) = yard.names()
    yard.fake.connections[name] = float("inf")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(yard.scale, 0)
        wait_for(lambda: True if not yard.serving() else None, what="drain", timeout=timedelta(seconds=2))
        assert yard.names() == [name]
        yard.fake.connections.clear()
        assert running.result().ok
    assert yard.names() == []


def test_a_connection_that_never_ends_is_cut_after_the_drain_timeout(yard: Yard) -> None:
    yard.scale(1)
    (name,) = yard.names()
    yard.fake.connections[name] = float("inf")
    report = yard.scale(0)
    assert report.ok
    assert any("still open" in note for note in report.notes)


def test_a_child_that_fails_is_replaced_under_a_new_name(yard: Yard) -> None:
    yard.fake.fail("identify", VerificationFailed("mac: still the parent's"), name="*-2")
    report = yard.scale(3)
    assert report.ok
    assert [name[-2:] for name in yard.names()] == ["-1", "-3", "-4"]
    (gone,) = [child for child in report.children if child.phase is Phase.RETIRED]
    assert gone.error == "mac: still the parent's"


def test_a_transient_error_is_tried_again(yard: Yard) -> None:
    yard.fake.fail("fork", Unavailable("busy"), times=2)
    assert yard.scale(1).ok
    assert yard.fake.counted()["fork"] == 3


def test_a_permanent_error_is_not_tried_again_for_the_same_child(yard: Yard) -> None:
    yard.fake.fail("fork", PermanentError("no"), name="*-1")
    assert yard.scale(1).ok
    assert [name for call, name in yard.fake.calls if call == "fork" and name.endswith("-1")] == [
        name for call, name in yard.fake.calls if call == "fork"
    ][:1]


def test_a_fork_whose_answer_was_lost_is_asked_for_again_and_made_once(yard: Yard) -> None:
    yard.fake.fail("fork", OutcomeUnknown("no answer"), times=1, after=True)
    assert yard.scale(1).ok
    assert len(yard.names()) == 1


def test_after_repeated_failures_no_more_children_are_made(yard: Yard) -> None:
    yard.fake.fail("fork", PermanentError("broken"))
    report = yard.scale(100)
    assert not report.ok
    assert "repeated failures" in report.message
    # The limit, and at most those that were being forked at that moment.
    assert yard.fake.counted()["fork"] <= 3 + 100 // 10 + 32


def test_children_that_all_fail_for_want_of_room_are_told_with_it_and_can_be_mended(yard: Yard) -> None:
    yard.fake.fail("fork", CapacityExhausted("the disk is full. Free some room."))
    report, error = yard.run(yard.work(2))
    assert error is None
    assert report.refused
    assert report.message.endswith(" children failed: the disk is full. Free some room.")


def test_one_failure_that_nobody_can_mend_makes_the_request_none_that_can(yard: Yard) -> None:
    yard.fake.fail("fork", CapacityExhausted("no room"), name="*-1")
    yard.fake.fail("fork", PermanentError("the parent is broken"))
    report = yard.scale(2)
    assert not report.refused
    assert report.message.endswith(" like this: the parent is broken")


def test_a_child_that_could_not_be_kept_says_why(yard: Yard) -> None:
    yard.fake.fail("restamp", CapacityExhausted("the disk is full"))
    report = yard.scale(1)
    assert report.refused
    assert "the disk is full" in report.message


def test_when_all_fail_the_fleet_is_as_it_was(yard: Yard) -> None:
    yard.scale(2)
    before = yard.names()
    yard.fake.fail("identify", VerificationFailed("no"))
    report = yard.scale(5)
    assert not report.ok
    assert yard.names() == before
    assert sorted(yard.serving()) == before
    assert "2 of 5 serving" in report.message


def test_a_child_that_registers_and_never_answers_does_not_count(yard: Yard) -> None:
    yard.fake.answers = lambda server: not server.name.endswith("-1")  # type: ignore[method-assign]
    report = yard.scale(2)
    assert report.ok
    assert [name[-2:] for name in yard.names()] == ["-2", "-3"]


def test_a_check_that_fails_for_a_moment_at_the_end_is_no_failed_child(yard: Yard) -> None:
    seen, flaps = yard.fake.seen, iter([False, False])

    def flapping(service: str) -> list[Registration]:
        entries = seen(service)
        # Only once the child is kept: before that it is waited for anyhow.
        if yard.fake.counted()["restamp"] and next(flaps, True) is False:
            return [replace(entry, status="critical") for entry in entries]
        return entries

    yard.fake.seen = flapping  # type: ignore[method-assign]
    assert yard.scale(1).ok


def test_a_child_that_never_registers_is_destroyed(yard: Yard) -> None:
    yard.fake.register_after = timedelta(seconds=60)
    report = yard.scale(1)
    assert not report.ok
    assert yard.names() == []
    assert any("not registered in Consul" in (child.error or "") for child in report.children)


def test_an_nginx_that_refuses_leaves_the_fleet_as_it_was(yard: Yard) -> None:
    yard.scale(1)
    before = yard.names()
    yard.fake.fail("apply", PermanentError("nginx: [emerg] invalid"), times=1)
    report, error = yard.run(yard.work(3))
    assert isinstance(error, PermanentError)
    assert "[emerg]" in report.message
    assert yard.names() == before
    assert yard.fake.intents["game"].wanted == 1


def test_a_held_lease_names_its_holder_and_changes_nothing(yard: Yard) -> None:
    other = replace(make_holder("r-other", who="anna", reason="sale"), host="elsewhere")
    with FakeRegistry(yard.fake).lease("game", other, wait=timedelta(0)):
        report, error = yard.run(yard.work(2))
    assert isinstance(error, LeaseHeld)
    assert "anna" in report.message
    assert yard.names() == []


def test_a_request_that_waits_for_another_says_for_whose(yard: Yard) -> None:
    work = yard.work(2)
    other = make_holder("r1", who="ada", reason="a sale")
    with ThreadPoolExecutor(1) as pool:
        with yard.world.registry.lease("game", other, wait=timedelta(seconds=1)):
            running = pool.submit(yard.run, work)
            until(lambda: describe_progress(work) == (0.0, "waits for ada: a sale"), seconds=5)
        assert running.result()[0].ok
    assert describe_progress(work)[0] == 100.0


def test_the_lease_of_a_dead_process_of_this_host_is_broken(yard: Yard) -> None:
    mine = make_holder("r-dead", who="killed", reason="")
    # The kernel's highest pid plus one: no such process.
    dead = replace(mine, pid=2**22 + 1)
    yard.fake.holders["game"], yard.fake.lost["game"] = dead, Event()
    assert yard.scale(1).ok


def test_a_registry_that_chooses_its_leader_when_a_request_begins_is_waited_for(yard: Yard) -> None:
    yard.fake.fail("holder", Unavailable("No cluster leader"), times=3)
    assert yard.scale(1).ok


def test_a_registry_that_is_away_is_told_with_a_next_step(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forkyard.holders.ELECTION", timedelta(seconds=0.2))
    yard.fake.fail("holder", Unavailable("consul at http://127.0.0.1:8500: no answer (Connection refused)"))
    assert yard.scale(1).message == (
        "consul at http://127.0.0.1:8500: no answer (Connection refused). "
        "`forkyard doctor` says what does not answer and what to do."
    )


def test_a_dry_run_changes_nothing_and_takes_no_lease(yard: Yard) -> None:
    report = yard.scale(3, dry_run=True)
    assert report.ok
    assert report.message == "would fork 3"
    assert not yard.fake.counted().keys() & {"lease", "fork", "record_intent", "apply", "set_draining"}


def test_above_the_maximum_is_refused_before_anything_is_made(yard: Yard) -> None:
    report, error = yard.run(yard.work(2001))
    assert isinstance(error, InvalidRequest)
    assert report.refused
    assert not yard.fake.counted().keys() & {"fork", "record_intent", "apply"}


def test_what_another_request_left_is_removed_first(yard: Yard) -> None:
    yard.fake.fail("identify", VerificationFailed("no"))
    yard.fake.fail("destroy", Unavailable("gone"))
    yard.scale(1)
    left = yard.names()
    yard.fake.mend()
    report = yard.scale(2)
    assert report.ok
    assert not set(left) & set(yard.names())


def test_a_dead_child_is_cleared_and_replaced(yard: Yard) -> None:
    yard.scale(2)
    dead = yard.names()[0]
    yard.fake.kill(dead)
    report = yard.scale(2)
    assert report.ok
    assert dead not in yard.names()
    assert len(yard.serving()) == 2


def test_the_intent_is_on_record_under_the_leases_fencing_value(yard: Yard) -> None:
    yard.scale(2)
    yard.scale(1)
    assert yard.fake.intents["game"] == Intent(1, yard.fake.intents["game"].request_id, 2)


def test_batches_of_fifty_make_a_thousand(yard: Yard) -> None:
    report = yard.scale(200)
    assert report.ok
    assert len(yard.serving()) == 200


@pytest.mark.parametrize("call", ["fork", "identify"])
def test_one_failure_in_three_still_ends_as_asked_or_says_so(yard: Yard, call: str) -> None:
    yard.fake.fail(call, Unavailable("now and then"), rate=0.3)
    report = yard.scale(20)
    assert report.serving == len(yard.serving()) == len(yard.names())
    assert report.ok == (report.serving == 20)
