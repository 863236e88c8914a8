"""Requests for more than one request may change at once: what was asked is kept, and what is signed is what runs."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forkyard.commands import Amount, Scale
from forkyard.moments import When
from forkyard.requests import Request, State
from forkyard.requests.looking import to_scale_request
from forkyard.requests.starting import start_due
from tests.flows.office import APPROVER, ASKER, Office, Server, furnished

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
STEP = 4


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path) as made:
        made.clock.hands = NOW
        policy = replace(made.settings.services["game"], step=STEP)
        made.settings = replace(made.settings, services={"game": policy})
        made.yard.world = replace(made.yard.world, settings=made.settings)
        yield made


def grow(office: Office, number: int) -> None:
    """Have so many, by as many requests of others as it takes."""
    for target in (*range(STEP, number, STEP), number):
        office.yard.scale(target)


def goes(request: Request) -> tuple[int, int]:
    """From how many to how many its plan goes."""
    assert request.plan is not None
    return request.plan.current, request.plan.target


def test_a_request_for_more_than_a_step_goes_a_part_of_the_way_and_keeps_what_was_asked(office: Office) -> None:
    approved = office.approved(10)
    assert (approved.target, goes(approved)) == (10, (0, 4))
    server = Server()
    start_due(office.desk, server)
    assert [target for _, target, _ in server.runs.values()] == [4]
    assert office.run(approved)[0].ok
    again = office.desk.plan(office.desk.retry(ASKER, approved.token)[0])
    assert (again.target, goes(again)) == (10, (4, 8))


def test_a_change_by_more_than_a_step_is_resolved_to_all_that_was_asked(office: Office) -> None:
    grow(office, 2)
    request = office.desk.plan(office.desk.ask(ASKER, Scale("game", Amount(9, relative=True)))[0])
    assert (request.target, request.change, goes(request)) == (11, None, (2, 6))


def test_what_is_planned_again_for_a_fleet_that_has_grown_does_not_make_it_smaller(office: Office) -> None:
    scheduled = office.approved(10, at=When(NOW + 30 * HOUR, "Z"))
    grow(office, 8)
    assert goes(office.desk.plan(scheduled)) == (8, 10)
    moved = office.desk.move(ASKER, scheduled.token, When(NOW + 40 * HOUR, "Z"))
    assert (moved.target, goes(moved)) == (10, (8, 10))


def test_a_run_that_finds_a_fleet_that_has_grown_asks_for_the_rest_and_not_for_a_smaller_one(office: Office) -> None:
    approved = office.approved(10)
    grow(office, 8)
    assert "8 children count now, and 0 when it was approved" in str(office.run(approved)[1])
    waiting = office.store.get(approved.id)
    assert (waiting.state, goes(waiting)) == (State.AWAITING, (8, 10))


def test_a_part_that_was_sent_back_for_another_part_runs_once_it_is_approved(office: Office) -> None:
    grow(office, 3)
    approved = office.approved(10)
    assert goes(approved) == (3, 7)
    office.yard.scale(2)
    assert "the plan now goes to 6, and 7 was approved" in str(office.run(approved)[1])
    again = office.desk.approve(APPROVER, approved.token)
    assert (again.target, goes(again)) == (10, (2, 6))
    assert office.run(again, run_id="run-2")[0].ok
    assert len(office.yard.serving()) == 6


def test_an_end_of_more_than_a_step_is_told_at_the_approval_asked_about_in_its_time_and_done(office: Office) -> None:
    first = office.approved(10, hold=HOUR)
    assert first.plan is not None
    assert not any("asks for another approval" in note for note in first.plan.notes)
    office.run(first)
    again = office.desk.plan(office.desk.retry(ASKER, first.token)[0])
    assert again.plan is not None
    (note,) = [note for note in again.plan.notes if "asks for another approval" in note]
    assert note.startswith("from 8 to 0 at 2026-11-20 13:00 UTC: one request changes at most 4 children")
    assert office.run(office.desk.approve(APPROVER, again.token), run_id="run-2")[0].ok
    (end,) = office.store.list_requests(parent=again.id)
    office.clock.hands = NOW + HOUR
    assert "the plan now goes to 4, and 0 was approved" in str(office.run(end, run_id="run-3")[1])
    assert office.run(office.desk.approve(APPROVER, end.token), run_id="run-4")[0].ok
    assert len(office.yard.serving()) == 4


def test_what_begins_after_another_goes_a_step_from_what_that_leaves(office: Office) -> None:
    grow(office, 4)
    office.approved(8, at=When(NOW + HOUR, "Z"))
    after = office.ask(9, at=When(NOW + 2 * HOUR, "Z"))
    assert (after.target, goes(after)) == (9, (8, 9))
    far = office.ask(20, at=When(NOW + 3 * HOUR, "Z"))
    assert (far.target, goes(far)) == (20, (8, 12))
    assert far.plan is not None
    assert any("20 was asked for; one request changes at most 4" in note for note in far.plan.notes)


def test_a_plan_that_is_only_a_part_has_the_hash_that_it_would_have_by_itself(office: Office) -> None:
    plan = office.ask(10).plan
    assert plan is not None
    assert plan.asked == 10
    assert replace(plan, asked=None).hash == plan.hash


def test_the_run_of_a_part_is_for_that_part_alone(office: Office) -> None:
    approved = office.approved(10)
    whole = replace(approved, plan=None)
    assert (to_scale_request(approved).target, to_scale_request(whole).target) == (4, 10)
    assert "the request is for game to 4" in str(office.run(whole)[1])
    assert office.untouched()
