"""From the calendar to runs: what is put on record, when it is looked at again, and what becomes of a missed start."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forkyard.approvals import Approval, Kind, sign
from forkyard.errors import CapacityExhausted, NotPermitted
from forkyard.presales import Calendar, parse_calendar
from forkyard.requests import Notice, Request, State
from forkyard.requests.calendar import tick
from forkyard.requests.starting import start_due
from tests.flows.office import APPROVER, NOBODY, Office, Server, furnished

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path) as made:
        yield made


def calendar(office: Office, *, start: datetime, target: int = 6, extra: str = "", zone: str = "Z") -> Calendar:
    text = f"""
    [services.game]
    base = 1
    [events.sale]
    service = "game"
    start = "{start:%Y-%m-%dT%H:%M:%S}Z"
    zone = "{zone}"
    target = {target}
    lead = "5m"
    hold = "2h"
    {extra}
    """
    return parse_calendar(text, office.settings.services, now=NOW)


def look(office: Office, found: Calendar, now: datetime = NOW) -> list[Notice]:
    return tick(office.desk, office.settings, found, now=now, channel="C1")


def rows(office: Office, *states: State) -> list[Request]:
    return sorted(office.store.list_requests(states=states or None), key=lambda row: str(row.start_at))


def test_an_event_waits_for_approval_and_becomes_runs_that_can_be_seen(office: Office) -> None:
    start = NOW + timedelta(hours=30)
    found = calendar(office, start=start, extra='ramp = [{ before = "1h", to = 3 }]')
    (told,) = look(office, found)
    assert "sale: game to 3 at" in told.text
    assert told.text.endswith(f"Approve it: approve {told.request.token}")
    assert look(office, found) == []
    with pytest.raises(NotPermitted):
        office.desk.approve(NOBODY, told.request.token)
    office.desk.approve(APPROVER, told.request.token)
    server = Server()
    start_due(office.desk, server)
    start_due(office.desk, server)
    assert sorted((at, target) for _, target, at in server.runs.values() if at) == [
        (start - timedelta(hours=1), 3),
        (start - timedelta(minutes=5), 6),
        (start + timedelta(hours=2), 1),
    ]
    assert [row.state for row in rows(office)] == [State.SCHEDULED] * 3


def test_what_is_far_away_is_not_yet_on_record(office: Office) -> None:
    assert look(office, calendar(office, start=NOW + timedelta(days=4))) == []
    assert rows(office) == []


def test_a_moved_event_takes_its_request_back_and_makes_another(office: Office) -> None:
    (told,) = look(office, calendar(office, start=NOW + timedelta(hours=30)))
    office.desk.approve(APPROVER, told.request.token)
    notices = look(office, calendar(office, start=NOW + timedelta(hours=31)))
    assert [notice.request.state for notice in notices] == [State.CANCELLED, State.AWAITING]
    assert rows(office, State.SCHEDULED) == []


def test_an_event_that_was_removed_is_cancelled_with_its_steps(office: Office) -> None:
    (told,) = look(office, calendar(office, start=NOW + timedelta(hours=30)))
    office.desk.approve(APPROVER, told.request.token)
    (gone,) = look(office, Calendar())
    assert "is cancelled: the calendar has it no more" in gone.text
    assert {row.state for row in rows(office)} == {State.CANCELLED}


def test_what_a_person_cancelled_does_not_come_back(office: Office) -> None:
    found = calendar(office, start=NOW + timedelta(hours=30))
    (told,) = look(office, found)
    office.desk.cancel(APPROVER, told.request.token)
    assert look(office, found) == []


def test_a_missed_start_is_asked_about(office: Office) -> None:
    (told,) = look(office, calendar(office, start=NOW - timedelta(minutes=30)))
    assert "was missed. Approve" in told.text
    assert (told.request.state, told.request.start_at, told.request.target) == (State.AWAITING, None, 6)
    approved = office.desk.approve(APPROVER, told.request.token)
    assert office.run(approved)[0].ok
    (end,) = office.store.list_requests(parent=approved.id)
    assert (end.target, end.start_at) == (1, NOW + timedelta(minutes=90))


def test_an_event_that_is_over_is_left_alone(office: Office) -> None:
    assert look(office, calendar(office, start=NOW - timedelta(hours=3))) == []


def test_a_day_and_ten_minutes_before_it_is_looked_at_once_more(office: Office) -> None:
    start = NOW + timedelta(hours=40)
    found = calendar(office, start=start)
    (told,) = look(office, found)
    begins = start - timedelta(minutes=5)
    (early,) = look(office, found, begins - timedelta(hours=23))
    assert "in 24 h" in early.text
    assert "nobody has approved it yet" in early.text
    office.desk.approve(APPROVER, told.request.token)
    (last,) = look(office, found, begins - timedelta(minutes=9))
    assert "in 10 min" in last.text
    assert "6 to fork, room for" in last.text
    assert "approved by U2" in last.text
    assert look(office, found, begins - timedelta(minutes=8)) == []


def test_a_fleet_that_drifted_before_the_start_must_be_approved_again_in_time(office: Office) -> None:
    start = NOW + timedelta(hours=40)
    found = calendar(office, start=start)
    (told,) = look(office, found)
    office.desk.approve(APPROVER, told.request.token)
    office.yard.scale(4)
    (early,) = look(office, found, start - timedelta(hours=24))
    assert "4 count now, not 0. Approve it" in early.text
    assert office.state(told.request) is State.AWAITING
    office.desk.approve(APPROVER, told.request.token)
    assert len(rows(office, State.SCHEDULED)) == 2


def test_missing_room_is_told_before_the_start(office: Office) -> None:
    start = NOW + timedelta(hours=40)
    found = calendar(office, start=start)
    (told,) = look(office, found)
    office.desk.approve(APPROVER, told.request.token)
    office.yard.fake.fail("placements", CapacityExhausted("game: no memory is left"))
    (early,) = look(office, found, start - timedelta(hours=24))
    assert "cannot be done as things are: game: no memory is left" in early.text


def test_approved_once_more_it_is_another_run(office: Office) -> None:
    server = Server()
    approved = office.approved(4)
    (first,) = start_due(office.desk, server).rows
    office.desk.lock(APPROVER, "game", "audit")
    assert first.run_id is not None
    office.run(approved, run_id=first.run_id)
    office.desk.unlock(APPROVER, "game")
    office.desk.approve(APPROVER, approved.token)
    (second,) = start_due(office.desk, server).rows
    assert second.run_id != first.run_id


def test_the_run_before_its_time_is_refused_and_the_approval_stands(office: Office) -> None:
    (told,) = look(office, calendar(office, start=NOW + timedelta(hours=30)))
    scheduled = office.desk.approve(APPROVER, told.request.token)
    _, error = office.run(scheduled)
    assert "its start is only at" in str(error)
    assert office.state(scheduled) is State.SCHEDULED


def test_an_end_that_was_approved_with_its_start_runs_without_another_approval(office: Office) -> None:
    (told,) = look(office, calendar(office, start=NOW - timedelta(minutes=30)))
    first = office.desk.approve(APPROVER, told.request.token)
    office.run(first)
    assert len(office.yard.serving()) == 6
    first = office.store.get(first.id)
    (end,) = office.store.list_requests(parent=first.id)
    # As if its time had come: the plan, its approval and the step, all two hours earlier.
    assert first.plan is not None
    now = datetime.now(UTC).replace(microsecond=0)
    plan = replace(first.plan, later=((now, 1),))
    signed = Approval(request_id=first.id, plan_hash=plan.hash, approver="U2", at=now, kind=Kind.OTHER)
    office.store.keep(sign(office.store.key, signed))
    office.store.amend(first, plan=plan)
    report, error = office.run(office.store.amend(end, start_at=now), run_id="run-2")
    assert (report.ok, error) == (True, None)
    assert len(office.yard.serving()) == 1
