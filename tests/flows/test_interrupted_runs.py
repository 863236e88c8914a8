"""A request that stops in the middle: interrupted, without its lease, or without Nginx. The fleet is as it was."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from prefect import Task

from flows.executors import DirectExecutor, Pending
from flows.runbook import scale_fleet
from forkyard.errors import (
    CapacityExhausted,
    PermanentError,
    Unavailable,
)
from forkyard.hypervisors.fake import FakeHypervisor
from forkyard.model import Placement
from forkyard.report import Report, render_markdown
from forkyard.waiting import wait_for
from tasks.work import Work
from tests.flows.yard import Yard

R = TypeVar("R")


def test_a_lost_lease_stops_all_changes(yard: Yard) -> None:
    yard.scale(1)
    yard.fake.delay("identify", timedelta(seconds=0.3))
    report = stopped_at("fork", yard, lambda: yard.fake.lose_lease("game"), yard.work(3))
    assert not report.ok
    assert "lease was lost" in report.message
    assert not yard.fake.counted()["destroy"]


@pytest.mark.parametrize("task", ["verify-consul-registration", "update-nginx", "keep-children"])
def test_a_request_that_is_interrupted_leaves_the_fleet_as_it_was(yard: Yard, task: str) -> None:
    yard.scale(2)
    before = yard.names()
    with InterruptedAt(task) as executor:
        report, error = scale_fleet(yard.work(6), executor)
    assert isinstance(error, KeyboardInterrupt)
    assert not report.ok
    assert report.serving == 2
    assert yard.names() == before
    assert sorted(yard.serving()) == before
    assert yard.fake.intents["game"].wanted == 2
    assert not yard.fake.holders


def test_a_cancelled_request_says_so_in_words_and_not_by_the_name_of_an_exception(yard: Yard) -> None:
    work = yard.work(2)
    with InterruptedAt("update-nginx") as executor:
        report, _ = scale_fleet(work, executor)
    assert report.message == "cancelled: 0 of 2 serving"
    late = work.attempt("game-a-1", None, lambda _: None, timedelta(seconds=1))
    assert late.error == "game-a-1: stopped before its next step: the request was cancelled"


@pytest.mark.parametrize("task", ["verify-consul-registration", "update-nginx", "keep-children"])
def test_a_first_request_that_is_interrupted_leaves_no_wish_on_record(yard: Yard, task: str) -> None:
    with InterruptedAt(task) as executor:
        scale_fleet(yard.work(4), executor)
    assert yard.names() == []
    assert yard.fake.intents["game"].wanted == 0


def test_without_nginx_nothing_is_made_and_nothing_recorded(yard: Yard) -> None:
    yard.fake.parents.clear()
    yard.fake.add_parent("game", frozen=False)
    yard.fake.fail("check_running", Unavailable("no nginx runs. Start it."))
    report, error = yard.run(yard.work(4))
    assert isinstance(error, Unavailable)
    assert report.message.startswith("no nginx runs. Start it.")
    assert not yard.fake.counted().keys() & {"freeze", "fork", "record_intent"}


def test_a_fleet_that_nobody_can_look_at_is_not_told_as_one_that_serves_nobody(yard: Yard) -> None:
    yard.scale(2)
    yard.fake.fail("registrations", Unavailable("no leader"))
    report, error = yard.run(yard.work(4))
    assert isinstance(error, Unavailable)
    assert report.serving is None
    assert "now **?** serve" in render_markdown(report)


def test_an_nginx_that_goes_down_meanwhile_keeps_no_child_alive_and_no_wish_on_record(yard: Yard) -> None:
    yard.scale(2)
    before = yard.names()
    yard.fake.fail("apply", Unavailable("no nginx runs"))
    report, error = yard.run(yard.work(4))
    assert isinstance(error, Unavailable)
    assert yard.names() == before
    assert yard.fake.intents["game"].wanted == 2
    assert report.notes == (
        "Nginx could not be brought in line with Consul: no nginx runs. `forkyard sync` does it when that is mended.",
    )


def test_children_kept_before_a_later_round_failed_are_counted_on_record_and_in_the_message(yard: Yard) -> None:
    # Two fit, two do not, and the second round finds no room to plan for.
    yard.fake.fail("fork", PermanentError("broken"), name="*-[34]")
    report, error = yard.run(crowded_after_a_round(yard, yard.work(4)))
    assert isinstance(error, CapacityExhausted)
    assert len(yard.names()) == yard.fake.intents["game"].wanted == report.serving == 2
    assert report.message.endswith(" 2 of 4 serving.")
    assert report.refused


def test_a_drain_that_is_interrupted_puts_the_children_back_to_work(yard: Yard) -> None:
    yard.scale(3)
    before = yard.names()
    with InterruptedAt("await-connections") as executor:
        scale_fleet(yard.work(1), executor)
    assert sorted(yard.serving()) == yard.names() == before


class InterruptedAt(DirectExecutor):
    """An executor in which somebody presses Ctrl-C when a certain task is begun."""

    def __init__(self, task: str) -> None:
        """Interrupt at *task*."""
        super().__init__()
        self._task = task

    def submit(self, task: Task[..., R], *args: Any) -> Pending[R]:  # noqa: ANN401 - each task has its own
        """Begin the task, or be interrupted."""
        if task.name == self._task:
            raise KeyboardInterrupt
        return super().submit(task, *args)


def crowded_after_a_round(yard: Yard, work: Work) -> Work:
    """Let the plan of a second round find no room."""

    class Crowded(FakeHypervisor):
        def placements(self, service: str) -> list[Placement]:
            found = super().placements(service)
            return [replace(place, room=0) for place in found] if self.world.counted()["restamp"] else found

    work.world = replace(work.world, hypervisor=Crowded(yard.fake))
    return work


def stopped_at(call: str, yard: Yard, stop: Callable[[], None], work: Work) -> Report:
    """Carry out a request and call *stop* as soon as *call* has been made."""
    made = yard.fake.counted()[call]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(yard.run, work)
        wait_for(lambda: True if yard.fake.counted()[call] > made else None, what=call, timeout=timedelta(seconds=5))
        stop()
        return running.result()[0]
