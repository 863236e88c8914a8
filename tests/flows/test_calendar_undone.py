"""What the calendar takes back and has again, and how the fleet comes down after an event that it has no more."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forkyard.presales import Calendar, parse_calendar
from forkyard.requests import Notice, Request, State
from forkyard.requests.calendar import tick
from forkyard.requests.moves import make_entry
from tests.flows.office import APPROVER, Office, furnished

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
START = NOW + 30 * HOUR
BEGINS = START - timedelta(minutes=5)
END = START + 2 * HOUR
NOTHING = Calendar()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path) as made:
        made.clock.hands = NOW
        yield made


def event(name: str, start: datetime, *, target: int, hold: str = "2h", extra: str = "") -> str:
    return f"""
    [events.{name}]
    service = "game"
    start = "{start:%Y-%m-%dT%H:%M}Z"
    target = {target}
    lead = "5m"
    hold = "{hold}"
    overlap = "highest"
    {extra}
    """


def calendar(office: Office, *, base: int = 1, hold: str = "2h", extra: str = "", more: str = "") -> Calendar:
    sale = event("sale", START, target=6, hold=hold, extra=extra)
    return parse_calendar(f"[services.game]\nbase = {base}\n{sale}{more}", office.settings.services, now=NOW)


def look(office: Office, found: Calendar, now: datetime | None = None) -> list[Notice]:
    office.clock.hands = now or office.clock.hands
    return tick(office.desk, office.settings, found, now=office.clock())


def approved(office: Office, found: Calendar) -> Request:
    (told,) = look(office, found)
    return office.desk.approve(APPROVER, told.request.token)


def begun(office: Office, found: Calendar) -> Request:
    """An event of *found* whose first step was done."""
    first = approved(office, found)
    office.clock.hands = first.start_at
    assert office.run(first)[0].ok
    return office.store.get(first.id)


def steps(office: Office, first: Request) -> list[tuple[datetime | None, int]]:
    rows = office.store.list_requests(parent=first.id, states=[State.SCHEDULED])
    return sorted(((row.start_at, row.target) for row in rows), key=str)


def finish(office: Office, first: Request) -> None:
    """Let the end of an event come."""
    (end,) = office.store.list_requests(parent=first.id, states=[State.SCHEDULED])
    office.clock.hands = end.start_at
    assert office.run(end, run_id="the end")[0].ok


def test_an_event_is_asked_for_anew_when_its_change_is_undone(office: Office) -> None:
    plain, changed = calendar(office), calendar(office, base=2)
    approved(office, plain)
    for found in (changed, plain, changed, plain):
        assert [notice.request.state for notice in look(office, found)] == [State.CANCELLED, State.AWAITING]
        assert look(office, found) == []
    (asked,) = office.store.list_requests(states=[State.AWAITING])
    assert steps(office, office.desk.approve(APPROVER, asked.token)) == [(END, 1)]


def test_an_event_that_was_away_for_one_look_is_asked_for_anew(office: Office) -> None:
    first = approved(office, calendar(office))
    look(office, NOTHING)
    assert office.state(first) is State.CANCELLED
    (asked,) = look(office, calendar(office))
    assert asked.text.endswith(f"Approve it: approve {asked.request.token}")


def test_an_event_that_a_person_cancelled_stays_away_when_a_change_is_undone(office: Office) -> None:
    plain, changed = calendar(office), calendar(office, base=2)
    (told,) = look(office, plain)
    office.desk.cancel(APPROVER, told.request.token)
    (asked,) = look(office, changed)
    assert asked.request.state is State.AWAITING
    (cancelled,) = look(office, plain)
    assert (cancelled.request.id, cancelled.request.state) == (asked.request.id, State.CANCELLED)


def test_the_end_of_an_event_that_has_begun_comes_although_the_calendar_has_it_no_more(office: Office) -> None:
    first = begun(office, calendar(office))
    (told,) = look(office, NOTHING, START)
    assert "but it has begun" in told.text
    assert "still brings game to 1 at 2026-11-21T20:00 Z" in told.text
    assert look(office, NOTHING, START + HOUR) == []
    finish(office, first)
    assert len(office.yard.serving()) == 1


def test_the_end_stays_when_the_calendar_is_away_while_the_start_runs(office: Office) -> None:
    first = approved(office, calendar(office))
    office.clock.hands = BEGINS
    running = office.store.move(first, State.RUNNING, make_entry(first, "forkyard", "start"))
    look(office, NOTHING)
    assert (office.state(running), steps(office, first)) == (State.RUNNING, [(END, 1)])
    assert look(office, calendar(office)) == []


def test_an_end_changed_during_the_event_is_asked_about_and_the_old_one_comes_until_it_is_approved(
    office: Office,
) -> None:
    first = begun(office, calendar(office))
    stays, asked = look(office, calendar(office, base=3), START + HOUR)
    assert "but it has begun" in stays.text
    assert "the calendar was changed after its start" in asked.text
    assert look(office, calendar(office, base=3)) == []
    assert steps(office, first) == [(END, 1)]
    again = office.desk.approve(APPROVER, asked.request.token)
    (gone,) = look(office, calendar(office, base=3))
    assert "is cancelled" in gone.text
    assert steps(office, first) == []
    assert (again.target, steps(office, again)) == (6, [(END, 3)])


def test_a_longer_event_that_nobody_approved_ends_as_it_was_approved(office: Office) -> None:
    first = begun(office, calendar(office))
    look(office, calendar(office, hold="4h"), START + HOUR)
    finish(office, first)
    assert len(office.yard.serving()) == 1


def test_a_change_during_the_event_that_is_undone_leaves_its_end(office: Office) -> None:
    plain, changed = calendar(office), calendar(office, base=3)
    first = begun(office, plain)
    look(office, changed, START + HOUR)
    (cancelled,) = look(office, plain)
    assert cancelled.request.state is State.CANCELLED
    assert steps(office, first) == [(END, 1)]


def test_a_change_during_the_event_that_is_undone_after_its_approval_is_asked_about_too(office: Office) -> None:
    plain, changed = calendar(office), calendar(office, base=3)
    begun(office, plain)
    _, asked = look(office, changed, START + HOUR)
    second = office.desk.approve(APPROVER, asked.request.token)
    assert office.run(second)[0].ok
    look(office, changed)
    _, back = look(office, plain)
    third = office.desk.approve(APPROVER, back.request.token)
    look(office, plain)
    assert (steps(office, second), steps(office, third)) == ([], [(END, 1)])


def test_the_old_end_does_not_come_into_an_approved_event_that_wants_more(office: Office) -> None:
    first = begun(office, calendar(office))
    both = calendar(office, more=event("more", START + HOUR, target=9, hold="3h"))
    look(office, both, START)
    assert steps(office, first) == [(END, 1)]
    (other,) = [row for row in office.store.list_requests(states=[State.AWAITING]) if row.raw == "more"]
    office.desk.approve(APPROVER, other.token)
    look(office, both)
    assert steps(office, first) == []


def test_an_event_taken_out_after_its_ramp_goes_no_higher_and_comes_down(office: Office) -> None:
    ramped = calendar(office, extra='ramp = [{ before = "1h", to = 3 }]')
    first = begun(office, ramped)
    gone, stays = sorted(look(office, NOTHING), key=lambda notice: notice.request.target, reverse=True)
    assert (gone.request.state, gone.request.target) == (State.CANCELLED, 6)
    assert "still brings game to 1" in stays.text
    assert steps(office, first) == [(END, 1)]
    (asked,) = look(office, ramped)
    again = office.desk.approve(APPROVER, asked.request.token)
    look(office, ramped)
    assert steps(office, first) == []
    assert (again.target, steps(office, again)) == (3, [(BEGINS, 6), (END, 1)])
