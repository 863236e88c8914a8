"""Steps that follow a request by themselves: approved with it, gone with it, and stopped by a fleet that is another."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from forkyard.moments import When
from forkyard.requests import Request, State, StateChanged
from forkyard.requests.moves import make_entry, send_back
from forkyard.requests.starting import settle_ended, start_due
from tests.flows.office import APPROVER, ASKER, Office, Server, furnished

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOLD = timedelta(minutes=30)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path) as made:
        made.clock.hands = NOW
        made.yard.scale(1)
        yield made


def held(office: Office, number: int = 4) -> tuple[Request, Request]:
    """A request with a hold that was carried out, and the step that ends it."""
    first = office.approved(number, hold=HOLD)
    assert office.run(first)[0].ok
    (step,) = office.store.list_requests(parent=first.id)
    return office.store.get(first.id), step


def at_its_time(office: Office, step: Request) -> Request:
    assert step.start_at is not None
    office.clock.hands = step.start_at
    return step


@contextmanager
def dying_at(office: Office, point: str) -> Iterator[None]:
    """A process that dies where this is about to be written."""
    with office.store._write() as connection:  # noqa: SLF001 - what no call of its own makes
        connection.execute(text(f"CREATE TRIGGER crash BEFORE {point} BEGIN SELECT RAISE(ABORT, ''); END"))
    with pytest.raises(IntegrityError):
        yield
    with office.store._write() as connection:  # noqa: SLF001 - as above
        connection.execute(text("DROP TRIGGER crash"))


def test_the_end_of_a_hold_goes_back_without_another_approval(office: Office) -> None:
    _, step = held(office)
    assert office.run(at_its_time(office, step), run_id="run-2")[0].ok
    assert len(office.yard.serving()) == 1


def test_the_end_of_a_hold_is_asked_about_when_another_request_has_changed_the_fleet(office: Office) -> None:
    _, step = held(office)
    assert office.run(office.approved(12), run_id="run-2")[0].ok
    report, error = office.run(at_its_time(office, step), run_id="run-3")
    assert "12 children count now, and 4 when it was approved" in str(error)
    assert (report.refused, len(office.yard.serving())) == (True, 12)
    waiting = office.store.get(step.id)
    assert (waiting.state, waiting.plan and waiting.plan.retires) == (State.AWAITING, 11)
    assert office.run(office.desk.approve(APPROVER, waiting.token), run_id="run-4")[0].ok
    assert len(office.yard.serving()) == 1


def test_the_end_of_a_hold_that_was_reached_otherwise_asks_nobody(office: Office) -> None:
    _, step = held(office, 8)
    office.yard.scale(1)
    assert office.run(at_its_time(office, step), run_id="run-2")[0].ok
    assert office.state(step) is State.SUCCEEDED


def test_a_request_cancelled_while_it_ran_takes_its_later_steps_with_it(office: Office) -> None:
    first = office.approved(4, hold=HOLD)
    running = office.store.move(first, State.RUNNING, make_entry(first, "forkyard", "start"), run_id="run-1")
    office.desk.cancel(ASKER, running.token)
    server = Server()
    server.runs["run-1"], server.states["run-1"] = ("", 4, None), "CANCELLED"
    settle_ended(office.desk, server)
    (step,) = office.store.list_requests(parent=first.id)
    assert (office.state(first), step.state) == (State.CANCELLED, State.CANCELLED)


def test_a_scheduled_request_cancelled_in_the_workflow_server_takes_its_later_steps_with_it(office: Office) -> None:
    first = office.approved(4, hold=HOLD)
    server = Server()
    for request in start_due(office.desk, server).rows:
        if request.id == first.id:
            server.states[str(request.run_id)] = "CANCELLED"
    settle_ended(office.desk, server)
    (step,) = office.store.list_requests(parent=first.id)
    assert (office.state(first), step.state) == (State.CANCELLED, State.CANCELLED)


def test_a_step_of_a_cancelled_request_is_refused_at_the_gate(office: Office) -> None:
    first = office.approved(4, hold=HOLD)
    (step,) = office.store.list_requests(parent=first.id)
    with office.store._write() as connection:  # noqa: SLF001 - a move of which only this half is there
        connection.execute(text("UPDATE requests SET state = 'cancelled' WHERE kind = ''"))
    assert office.state(first) is State.CANCELLED
    _, error = office.run(at_its_time(office, step), run_id="run-2")
    assert "not part of what was approved" in str(error)
    assert office.state(step) is State.SCHEDULED


def test_a_request_that_was_rolled_back_takes_its_later_steps_with_it(office: Office) -> None:
    first, step = held(office)
    back = office.desk.plan(office.desk.rollback(ASKER, first.token)[0])
    office.run(office.desk.approve(APPROVER, back.token), run_id="run-2")
    assert office.state(step) is State.CANCELLED
    with pytest.raises(StateChanged):
        office.desk.cancel(ASKER, step.token)


def test_an_approval_and_its_later_steps_are_on_record_together_or_not_at_all(office: Office) -> None:
    waiting = office.ask(4, hold=HOLD)
    with dying_at(office, "INSERT ON requests WHEN NEW.kind = 'later'"):
        office.desk.approve(APPROVER, waiting.token)
    assert (office.state(waiting), office.store.approvals(waiting.id)) == (State.AWAITING, [])
    office.desk.approve(APPROVER, waiting.token)
    assert len(office.store.list_requests(parent=waiting.id, states=[State.SCHEDULED])) == 1


def test_the_same_plan_approved_once_more_has_its_later_steps_again(office: Office) -> None:
    first = office.approved(4, at=When(NOW + timedelta(hours=1), "Z"), hold=HOLD)
    assert first.plan is not None
    again = send_back(office.store, office.settings, first, "a test", first.plan)
    office.store.amend(again, start_at=first.start_at)
    office.desk.approve(APPROVER, first.token)
    steps = office.store.list_requests(parent=first.id)
    assert sorted(step.state.value for step in steps) == ["cancelled", "scheduled"]


@pytest.mark.parametrize("point", ["NEW.state IN ('planned', 'awaiting approval')", "NEW.kind = 'later'"])
def test_what_is_planned_again_or_sent_back_loses_its_approval_and_its_later_steps_together_or_neither(
    office: Office, point: str
) -> None:
    first = office.approved(4, at=When(NOW + timedelta(hours=1), "Z"), hold=HOLD)
    (step,) = office.store.list_requests(parent=first.id)
    with dying_at(office, f"UPDATE ON requests WHEN {point}"):
        office.desk.plan(first)
    with dying_at(office, f"UPDATE ON requests WHEN {point}"):
        send_back(office.store, office.settings, first, "a test", first.plan)
    with dying_at(office, f"UPDATE ON requests WHEN {point}"):
        office.desk.move(ASKER, first.token, When(NOW + timedelta(hours=2), "Z"))
    assert (office.state(first), office.state(step)) == (State.SCHEDULED, State.SCHEDULED)
    office.desk.plan(first)
    assert (office.state(first), office.state(step)) == (State.AWAITING, State.CANCELLED)
    assert office.store.verify_log().whole


def test_a_rollback_that_died_before_it_said_what_it_undid_says_so_when_it_is_settled(office: Office) -> None:
    first, step = held(office)
    back = office.desk.approve(APPROVER, office.desk.plan(office.desk.rollback(ASKER, first.token)[0]).token)
    with dying_at(office, "UPDATE ON requests WHEN NEW.state = 'rolled back'"):
        office.run(back, run_id="run-2")
    assert len(office.yard.serving()) == 1
    server = Server()
    server.runs["run-2"], server.states["run-2"] = ("", 1, None), "COMPLETED"
    settle_ended(office.desk, server)
    states = [office.state(row) for row in (back, first, step)]
    assert states == [State.SUCCEEDED, State.ROLLED_BACK, State.CANCELLED]


def test_the_steps_of_a_repeated_request_are_there_in_place_of_the_first_ones_or_not_at_all(office: Office) -> None:
    first, step = held(office)
    office.yard.scale(3)
    again = office.desk.plan(office.desk.retry(ASKER, first.token)[0])
    with dying_at(office, "UPDATE ON requests WHEN NEW.state = 'cancelled'"):
        office.desk.approve(APPROVER, again.token)
    assert (office.state(again), office.state(step)) == (State.AWAITING, State.SCHEDULED)
    assert office.store.list_requests(parent=again.id) == []
    office.desk.approve(APPROVER, again.token)
    (other,) = office.store.list_requests(parent=again.id)
    assert (office.state(step), other.state) == (State.CANCELLED, State.SCHEDULED)
