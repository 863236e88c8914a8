"""What becomes of an event when the world is another: its calendar, its room, its moment, its watchers."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forkyard.errors import CapacityExhausted, InvalidRequest, Unavailable
from forkyard.moments import When
from forkyard.presales import Calendar, parse_calendar
from forkyard.requests import Notice, Request, State
from forkyard.requests.calendar import tick
from forkyard.requests.desk import Desk
from forkyard.requests.plans import PlanRecord
from forkyard.settings import Settings
from tests.flows.office import APPROVER, ASKER, Office, furnished

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
START = NOW + 30 * HOUR

OTHER = """
[events.other]
service = "game"
start = "{start:%Y-%m-%dT%H:%M}Z"
target = 5
lead = "5m"
hold = "2h"
overlap = "highest"
"""


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path) as made:
        made.clock.hands = NOW
        yield made


def calendar(office: Office, *, base: int = 1, start: datetime = START, extra: str = "", more: str = "") -> Calendar:
    text = f"""
    [services.game]
    base = {base}
    [events.sale]
    service = "game"
    start = "{start:%Y-%m-%dT%H:%M}Z"
    target = 6
    lead = "5m"
    hold = "2h"
    overlap = "highest"
    {extra}
    {more}
    """
    return parse_calendar(text, office.settings.services, now=NOW)


def look(office: Office, found: Calendar | None, now: datetime | None = None) -> list[Notice]:
    if now is not None:
        office.clock.hands = now
    return tick(office.desk, office.settings, found, now=office.clock(), channel="C1")


def approved(office: Office, found: Calendar, now: datetime | None = None) -> Request:
    (told,) = look(office, found, now)
    return office.desk.approve(APPROVER, told.request.token)


def steps(office: Office, first: Request, *states: State) -> list[tuple[datetime | None, int]]:
    rows = office.store.list_requests(parent=first.id, states=states or None)
    return sorted(((row.start_at, row.target) for row in rows), key=str)


@pytest.mark.parametrize("gap", [HOUR, 2 * HOUR, 2 * HOUR + timedelta(minutes=20)])
def test_a_step_that_the_calendar_no_longer_wants_is_taken_back_with_its_event(office: Office, gap: timedelta) -> None:
    alone, both = calendar(office), calendar(office, more=OTHER.format(start=START + gap))
    first = approved(office, alone)
    notices = look(office, both)
    assert office.state(first) is State.CANCELLED
    assert steps(office, first, State.SCHEDULED) == []
    sale = next(n.request for n in notices if n.request.raw == "sale" and n.request.state is State.AWAITING)
    office.desk.approve(APPROVER, sale.token)
    look(office, alone)
    assert office.state(sale) is State.CANCELLED


def test_an_event_far_from_the_changed_one_stays_approved(office: Office) -> None:
    first = approved(office, calendar(office))
    look(office, calendar(office, more=OTHER.format(start=START + 5 * HOUR)))
    assert office.state(first) is State.SCHEDULED


def test_an_event_taken_out_of_the_calendar_is_taken_back_whatever_its_name(office: Office) -> None:
    named = parse_calendar(
        OTHER.format(start=START).replace("events.other", 'events."a#b@c"'), office.settings.services, now=NOW
    )
    (told,) = look(office, named)
    look(office, calendar(office))
    assert office.state(told.request) is State.CANCELLED


def test_what_the_last_runs_took_makes_no_other_event(office: Office) -> None:
    auto = calendar(office)
    auto = replace(auto, events={"sale": replace(auto.events["sale"], lead="auto")})
    first = approved(office, auto)
    office.run(office.approved(3))
    assert look(office, auto) == []
    assert office.state(first) is State.SCHEDULED


def test_a_later_step_that_was_sent_back_waits_for_its_answer(office: Office) -> None:
    found = calendar(office)
    first = approved(office, found)
    office.clock.hands = START - timedelta(minutes=5)
    office.run(first)
    office.yard.scale(12)
    (end,) = office.store.list_requests(parent=first.id)
    look(office, found, START + 2 * HOUR)
    assert "12 children count now, and 6" in str(office.run(end, run_id="run-2")[1])
    assert office.state(end) is State.AWAITING
    look(office, found, START + 2 * HOUR + timedelta(minutes=1))
    assert office.run(office.desk.approve(APPROVER, end.token), run_id="run-3")[0].ok
    assert len(office.yard.serving()) == 1


def test_a_ramp_days_before_its_start_is_announced_two_days_before_it(office: Office) -> None:
    found = calendar(office, start=NOW + 8 * 24 * HOUR, extra='ramp = [{ before = "144h", to = 3 }]')
    (told,) = look(office, found, NOW + HOUR)
    assert told.request.start_at == NOW + 2 * 24 * HOUR
    assert "game to 3 at" in told.text


def test_an_event_without_room_stays_open_and_is_planned_when_there_is_some(office: Office) -> None:
    found = calendar(office)
    office.yard.fake.fail("placements", CapacityExhausted("game: no memory is left."), times=2)
    (told,) = look(office, found)
    assert "sale: cannot be done as things are: game: no memory is left." in told.text
    assert office.state(told.request) is State.AWAITING
    with pytest.raises(InvalidRequest, match="nothing to approve yet: game: no memory is left"):
        office.desk.approve(APPROVER, told.request.token)
    office.yard.fake.fail("placements", CapacityExhausted("game: no memory is left."), times=2)
    (day,) = look(office, found, START - timedelta(hours=24))
    assert "in 24 h" in day.text
    assert "cannot be done as things are" in day.text
    (ready,) = look(office, found, START - timedelta(hours=23))
    assert "sale: game to 6 is wanted and can be done now" in ready.text
    first = office.desk.approve(APPROVER, told.request.token)
    assert steps(office, first) == [(START + 2 * HOUR, 1)]


def test_an_event_that_never_found_room_says_so_at_its_end(office: Office) -> None:
    office.yard.fake.fail("placements", CapacityExhausted("game: no memory is left."))
    (told,) = look(office, calendar(office))
    office.clock.hands = START
    (waits,) = [office.desk.plan(row) for row in office.desk.sweep()]
    assert (waits.id, waits.unplanned, waits.plan_expires) == (told.request.id, True, START + 2 * HOUR)
    office.clock.hands = START + 3 * HOUR
    (over,) = office.desk.sweep()
    assert (over.id, over.error) == (told.request.id, "could not be planned in time: game: no memory is left.")


def test_an_event_that_nobody_approved_before_its_start_is_asked_about_until_its_end(office: Office) -> None:
    (told,) = look(office, calendar(office))
    office.clock.hands = START
    (waits,) = [office.desk.plan(row) for row in office.desk.sweep()]
    assert (waits.id, waits.state, waits.start_at) == (told.request.id, State.AWAITING, None)
    assert "nobody approved it before its start" in office.store.list_notices()[-1].text
    office.clock.hands = START + HOUR
    assert office.desk.sweep() == []
    first = office.desk.approve(APPROVER, waits.token)
    assert steps(office, first) == [(START + 2 * HOUR, 1)]
    assert office.run(first)[0].ok


def test_a_missed_event_waits_for_its_answer_until_its_end(office: Office) -> None:
    (told,) = look(office, calendar(office), START + timedelta(minutes=30))
    office.clock.hands = START + timedelta(minutes=110)
    assert office.desk.sweep() == []
    office.clock.hands = START + timedelta(minutes=121)
    assert [row.id for row in office.desk.sweep()] == [told.request.id]


def test_a_missed_event_asks_for_the_number_that_it_wants_by_then(office: Office) -> None:
    found = calendar(office, extra='ramp = [{ before = "1h", to = 3 }]')
    (told,) = look(office, found, START - timedelta(minutes=30))
    assert (told.request.target, told.request.start_at) == (3, None)
    (more,) = look(office, found, START)
    assert "sale: game to 6 is wanted" in more.text
    first = office.desk.approve(APPROVER, more.request.token)
    assert (first.id, first.target, steps(office, first)) == (told.request.id, 6, [(START + 2 * HOUR, 1)])


def test_a_start_that_nobody_began_is_sent_back_and_the_channel_told(office: Office) -> None:
    found = calendar(office)
    first = approved(office, found)
    office.clock.hands = START - timedelta(seconds=1)
    assert office.desk.sweep() == []
    office.clock.hands = START + timedelta(seconds=1)
    assert [row.id for row in office.desk.sweep()] == [first.id]
    assert office.desk.sweep() == []
    waiting = office.store.get(first.id)
    assert (waiting.state, waiting.start_at, waiting.plan_expires) == (State.AWAITING, None, START + 2 * HOUR)
    assert "was missed: nobody began its run. Approve it again" in office.store.list_notices()[-1].text
    assert steps(office, first, State.SCHEDULED) == []


def test_a_later_step_that_nobody_began_is_planned_and_asked_about(office: Office) -> None:
    first = approved(office, calendar(office))
    office.clock.hands = START - timedelta(minutes=5)
    office.run(first)
    office.clock.hands = START + 2 * HOUR + timedelta(minutes=6)
    (end,) = [office.desk.plan(row) for row in office.desk.sweep()]
    assert (end.parent, end.state, end.plan and end.plan.retires) == (first.id, State.AWAITING, 5)


def test_a_notice_is_kept_until_it_was_told(office: Office) -> None:
    found = calendar(office)
    (told,) = look(office, found)
    assert look(office, found) == []
    (kept,) = office.store.list_notices()
    assert (kept.text, kept.request.id) == (told.text, told.request.id)
    office.store.mark_told(kept.key)
    assert office.store.list_notices() == []


def test_one_that_cannot_be_looked_at_keeps_no_other_from_it(office: Office) -> None:
    later = When(NOW + 30 * HOUR, "Z")
    office.approved(4, at=later)
    office.approved(5, at=later)
    waiting = office.ask(6, at=later)

    def look_at(settings: Settings, request: Request) -> PlanRecord:
        if request.id == waiting.id:
            raise RuntimeError(request.id)
        return office.look(settings, request)

    office.clock.hands = NOW + 7 * HOUR
    broken = Desk(office.store, lambda: office.settings, look_at)
    assert len(tick(broken, office.settings, None, now=office.clock())) == 2
    assert [notice.request.id for notice in look(office, None)] == [waiting.id]
    assert look(office, None) == []


def test_a_fleet_that_cannot_be_seen_is_told_once_a_check(office: Office) -> None:
    office.approved(4, at=When(NOW + 30 * HOUR, "Z"))
    office.yard.fake.fail("list_vms", Unavailable("no answer"))
    (told,) = look(office, None, NOW + 7 * HOUR)
    assert "cannot be done as things are: no answer" in told.text


def test_a_later_step_is_told_beforehand_that_it_will_ask(office: Office) -> None:
    office.clock.hands = NOW
    first = office.approved(4, hold=2 * HOUR)
    office.run(first)
    office.yard.scale(12)
    (told,) = look(office, None, NOW + 2 * HOUR - timedelta(minutes=9))
    assert "12 count now, not 4: it will ask before it changes anything" in told.text
    assert ASKER.id == first.requested_by
