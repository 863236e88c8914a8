"""A request and what follows it: moved, repeated, undone, beside those of others; and what the log keeps of that."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forkyard.errors import InvalidRequest, NotFound
from forkyard.moments import When
from forkyard.presales import Calendar, parse_calendar
from forkyard.requests import Need, Notice, Request, State
from forkyard.requests.calendar import tick
from forkyard.requests.moves import make_entry
from forkyard.requests.starting import drop_unwanted
from tests.flows.office import APPROVER, ASKER, Office, furnished

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
START = NOW + 30 * HOUR
BEGINS = START - timedelta(minutes=5)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path) as made:
        made.clock.hands = NOW
        yield made


def calendar(office: Office, *, ramp: str = "") -> Calendar:
    text = f"""
    [services.game]
    base = 1
    [events.sale]
    service = "game"
    start = "{START:%Y-%m-%dT%H:%M}Z"
    target = 6
    lead = "5m"
    hold = "2h"
    {ramp}
    """
    return parse_calendar(text, office.settings.services, now=NOW)


def look(office: Office, found: Calendar, now: datetime = NOW) -> list[Notice]:
    office.clock.hands = now
    return tick(office.desk, office.settings, found, now=now)


def steps(office: Office, first: Request, *states: State) -> list[tuple[datetime | None, int]]:
    rows = office.store.list_requests(parent=first.id, states=states or None)
    return sorted(((row.start_at, row.target) for row in rows if row.kind == "later"), key=str)


def test_an_event_that_is_asked_for_again_keeps_its_end(office: Office) -> None:
    (told,) = look(office, calendar(office))
    denied = office.desk.deny(APPROVER, told.request.token, "not yet")
    again = office.desk.plan(office.desk.retry(ASKER, denied.token)[0])
    assert look(office, calendar(office), NOW + HOUR) == []
    approved = office.desk.approve(APPROVER, again.token)
    assert (approved.target, steps(office, approved)) == (6, [(START + 2 * HOUR, 1)])


def test_an_event_that_is_asked_for_again_is_at_the_number_of_that_moment(office: Office) -> None:
    found = calendar(office, ramp='ramp = [{ before = "2h", to = 3 }]')
    (told,) = look(office, found)
    denied = office.desk.deny(APPROVER, told.request.token, "not yet")
    office.clock.hands = START
    again, _ = office.desk.retry(ASKER, denied.token)
    planned = office.desk.plan(again)
    assert (planned.target, planned.plan and planned.plan.later) == (6, ((START + 2 * HOUR, 1),))


def test_a_start_that_failed_and_is_repeated_has_one_end(office: Office) -> None:
    (told,) = look(office, calendar(office))
    first = office.desk.approve(APPROVER, told.request.token)
    office.clock.hands = BEGINS
    office.yard.fake.fail("fork", InvalidRequest("no"))
    assert not office.run(first)[0].ok
    again = office.desk.plan(office.desk.retry(ASKER, first.token)[0])
    office.desk.approve(APPROVER, again.token)
    assert steps(office, first, State.SCHEDULED) == []
    assert steps(office, again, State.SCHEDULED) == [(START + 2 * HOUR, 1)]


def test_a_request_for_a_while_that_is_repeated_goes_back_once_to_what_there_was_before_the_first(
    office: Office,
) -> None:
    first = failed_for_an_hour(office)
    office.yard.scale(4)
    office.clock.hands = NOW + HOUR / 2
    denied = office.desk.plan(office.desk.retry(ASKER, first.token)[0])
    office.desk.deny(APPROVER, denied.token, "not yet")
    assert steps(office, first, State.SCHEDULED) == [(NOW + HOUR, 1)]
    again = office.desk.plan(office.desk.retry(ASKER, denied.token)[0])
    assert again.plan is not None
    assert (again.plan.current, again.plan.later) == (4, ((NOW + 1.5 * HOUR, 1),))
    office.clock.hands += timedelta(minutes=5)
    office.desk.approve(APPROVER, again.token)
    assert steps(office, first, State.SCHEDULED) == []
    assert steps(office, again, State.SCHEDULED) == [(NOW + timedelta(minutes=95), 1)]


def test_one_that_is_repeated_when_its_time_is_over_goes_back_to_what_there_is_by_then(office: Office) -> None:
    first = failed_for_an_hour(office)
    (end,) = office.store.list_requests(parent=first.id)
    office.clock.hands = NOW + HOUR
    assert office.run(end, run_id="run-2")[0].ok
    office.yard.scale(3)
    office.clock.hands = NOW + 5 * HOUR
    again = office.desk.plan(office.desk.retry(ASKER, first.token)[0])
    assert again.plan is not None
    assert again.plan.later == ((NOW + 6 * HOUR, 3),)


def failed_for_an_hour(office: Office) -> Request:
    """One that was to have 6 for an hour, there was 1, and it failed."""
    office.yard.scale(1)
    first = office.approved(6, hold=HOUR)
    office.yard.fake.fail("fork", InvalidRequest("no"))
    assert not office.run(first)[0].ok
    office.yard.fake.mend()
    assert (office.state(first), steps(office, first)) == (State.FAILED, [(NOW + HOUR, 1)])
    return first


def test_a_moved_event_takes_its_ramp_and_its_end_along(office: Office) -> None:
    found = calendar(office, ramp='ramp = [{ before = "1h", to = 3 }]')
    (told,) = look(office, found)
    office.desk.approve(APPROVER, told.request.token)
    moved = office.desk.move(ASKER, told.request.token, When(START + 3 * HOUR, "Z"))
    office.desk.approve(APPROVER, moved.token)
    shifted = [(BEGINS + 4 * HOUR, 6), (START + 6 * HOUR, 1)]
    assert steps(office, moved, State.SCHEDULED) == shifted
    look(office, found, START + timedelta(hours=2, minutes=30))
    assert (office.state(moved), steps(office, moved, State.SCHEDULED)) == (State.SCHEDULED, shifted)


def test_an_event_that_has_begun_is_not_moved(office: Office) -> None:
    (missed,) = look(office, calendar(office), START)
    with pytest.raises(InvalidRequest, match="or move the event in the calendar"):
        office.desk.move(ASKER, missed.request.token, When(START + 9 * HOUR, "Z"))


class Ahead:
    """Runs that are still to begin, one of which cannot be taken back."""

    def __init__(self, stuck: str, **of: str) -> None:
        """Know the request of each run; *stuck* is the one."""
        self.stuck, self.of = stuck, of
        self.cancelled: list[str] = []

    def list_ahead(self) -> dict[str, str]:
        return self.of

    def cancel(self, run_id: str) -> None:
        if run_id == self.stuck:
            raise NotFound(run_id)
        self.cancelled.append(run_id)


def test_a_run_that_cannot_be_taken_back_keeps_no_other_from_it(office: Office) -> None:
    gone, wanted, running = office.ask(2), office.approved(4), office.approved(3)
    office.desk.cancel(ASKER, gone.token)
    office.store.move(running, State.RUNNING, make_entry(running, "forkyard", "start"), run_id="run-9")
    runs = Ahead("run-1", **{"run-1": gone.id, "run-2": gone.id, "run-3": wanted.id, "run-4": running.id, "run-5": "x"})
    with pytest.raises(NotFound, match="run-1"):
        drop_unwanted(office.desk, runs)
    # The fourth is not the run that the request has.
    assert runs.cancelled == ["run-2", "run-4"]


def test_a_rollback_goes_back_to_what_the_run_found(office: Office) -> None:
    office.yard.scale(1)
    first = office.approved(6)
    office.yard.scale(3)
    office.run(first)
    assert office.desk.rollback(ASKER, first.token)[0].target == 3


def test_a_rollback_of_an_event_can_be_approved_no_longer_than_any_other(office: Office) -> None:
    (told,) = look(office, calendar(office))
    first = office.desk.approve(APPROVER, told.request.token)
    office.clock.hands = BEGINS
    office.run(first)
    back = office.desk.plan(office.desk.rollback(ASKER, first.token)[0])
    assert back.plan_expires == BEGINS + office.settings.requests.plan_ttl


def test_a_request_that_was_rolled_back_finished_when_its_own_run_did(office: Office) -> None:
    first = office.approved(4)
    office.run(first)
    office.clock.hands = NOW + HOUR
    back = office.desk.plan(office.desk.rollback(ASKER, first.token)[0])
    office.run(office.desk.approve(APPROVER, back.token), run_id="run-2")
    undone, undoing = office.store.get(first.id), office.store.get(back.id)
    assert undone.state is State.ROLLED_BACK
    assert (undone.finished_at, undoing.finished_at) == (NOW, NOW + HOUR)


def test_a_request_into_an_event_is_warned_of_it(office: Office) -> None:
    (told,) = look(office, calendar(office))
    inside = office.ask(9, at=When(START + HOUR, "Z"))
    outside = office.ask(9, at=When(START + 5 * HOUR, "Z"))
    assert inside.plan is not None
    assert outside.plan is not None
    (note,) = inside.plan.notes
    assert note.startswith(f"{told.request.token} wants game to 6 at 2026-11-21 17:55 UTC until 2026-11-21 20:00 UTC")
    assert outside.plan.notes == ()


def test_a_request_that_begins_after_another_is_planned_for_what_that_leaves(office: Office) -> None:
    office.yard.scale(1)
    office.approved(6, at=When(NOW + HOUR, "Z"))
    office.clock.hands = NOW + timedelta(minutes=1)
    after = office.ask(7, at=When(NOW + 3 * HOUR, "Z"), hold=HOUR)
    assert after.plan is not None
    assert (after.plan.current, after.plan.forks, after.plan.later) == (6, 1, ((NOW + 4 * HOUR, 6),))
    assert any("at 6 from 2026-11-20 13:00 UTC on: it is planned for that" in note for note in after.plan.notes)
    before = office.ask(2, at=When(NOW + HOUR / 2, "Z"))
    assert before.plan is not None
    assert (before.plan.current, before.plan.forks) == (1, 1)
    office.desk.cancel(ASKER, before.token)
    assert office.desk.preview(after).plan == after.plan


def test_a_small_step_from_now_that_is_a_large_one_by_then_needs_another_person(office: Office) -> None:
    office.yard.scale(6)
    office.approved(0, at=When(NOW + HOUR, "Z"))
    office.clock.hands = NOW + timedelta(minutes=1)
    asked = office.ask(7, at=When(NOW + 2 * HOUR, "Z"))
    assert (asked.need, asked.plan and asked.plan.forks) == (Need.OTHER, 7)
    approved = office.desk.approve(APPROVER, asked.token)
    office.yard.scale(0)
    office.clock.hands = NOW + 2 * HOUR
    assert office.run(approved)[0].ok


def test_an_event_over_a_request_is_warned_of_it_and_so_is_one_into_an_event_that_runs(office: Office) -> None:
    asked = office.ask(9, at=When(START + HOUR, "Z"))
    (told,) = look(office, calendar(office))
    assert f"{asked.token} wants game to 9 at" in told.text
    first = office.desk.approve(APPROVER, told.request.token)
    office.clock.hands = BEGINS
    office.run(first)
    now = office.ask(7)
    assert now.plan is not None
    assert any(f"{first.token} wants game to 6" in note for note in now.plan.notes)


def test_the_log_keeps_what_was_typed(office: Office) -> None:
    waiting, other = office.ask(4), office.ask(5)
    office.desk.approve(APPROVER, waiting.token, raw="approve it")
    office.desk.deny(APPROVER, other.token, "no", raw="deny it")
    office.desk.cancel(ASKER, waiting.token, raw="cancel it")
    office.desk.retry(ASKER, waiting.token, raw="once more")
    office.desk.lock(APPROVER, "game", "audit", raw="lock it")
    office.desk.unlock(APPROVER, "game", raw="unlock it")
    typed = {logged.entry.raw for logged in office.store.read_log(limit=200)}
    assert {"approve it", "deny it", "cancel it", "once more", "lock it", "unlock it"} <= typed


@pytest.mark.parametrize(
    ("zone", "local", "lasts", "start", "end"),
    [
        # Back from summer time in the night of the event: 02:30 comes twice, and the first one counts; six real hours.
        ("Europe/Berlin", "2026-10-24T02:30", 'hold = "6h"', "2026-10-25T00:30:00", "2026-10-25T06:30:00"),
        ("America/New_York", "2026-10-31T01:30", 'hold = "6h"', "2026-11-01T05:30:00", "2026-11-01T11:30:00"),
        # Forward: 02:30 does not exist, and 03:00 is the first moment after.
        ("Europe/Berlin", "2027-03-27T02:30", 'hold = "6h"', "2027-03-28T01:00:00", "2027-03-28T07:00:00"),
        ("America/New_York", "2027-03-13T02:30", 'hold = "6h"', "2027-03-14T07:00:00", "2027-03-14T13:00:00"),
        # The evening after: the local time stays.
        ("Europe/Berlin", "2026-10-24T20:00", 'hold = "6h"', "2026-10-25T19:00:00", "2026-10-26T01:00:00"),
        ("America/New_York", "2027-03-13T20:00", 'hold = "6h"', "2027-03-15T00:00:00", "2027-03-15T06:00:00"),
        # Until six in the morning, in a night that is an hour longer, and in one that is an hour shorter.
        ("Europe/Berlin", "2026-10-23T22:00", 'end = "2026-10-24T06:00"', "2026-10-24T20:00:00", "2026-10-25T05:00:00"),
        ("Europe/Berlin", "2027-03-26T22:00", 'end = "2027-03-27T06:00"', "2027-03-27T21:00:00", "2027-03-28T04:00:00"),
    ],
)
def test_an_event_on_the_day_of_the_clocks_change_begins_and_ends_at_the_right_second(
    office: Office, zone: str, local: str, lasts: str, start: str, end: str
) -> None:
    begins, ends = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (start, end))
    text = f"""
    [events.sale]
    service = "game"
    start = "{local}"
    zone = "{zone}"
    target = 6
    lead = "1m"
    {lasts}
    repeat = "FREQ=DAILY;COUNT=2"
    """
    found = parse_calendar(text, office.settings.services, now=begins - 24 * HOUR)
    second, late = timedelta(seconds=1), office.settings.requests.late
    scaled = begins - timedelta(minutes=1)
    (row,) = [n.request for n in look(office, found, begins - 10 * HOUR) if n.request.start_at == scaled]
    first = office.desk.approve(APPROVER, row.token)
    office.clock.hands = scaled - late - second
    assert "its start is only at" in str(office.run(first)[1])
    office.clock.hands = scaled
    assert office.desk.sweep() == []
    assert office.run(first)[0].ok
    (step,) = office.store.list_requests(parent=first.id)
    assert step.start_at == ends
    office.clock.hands = ends - late - second
    assert "its start is only at" in str(office.run(step, run_id="run-2")[1])
    office.clock.hands = ends
    assert office.desk.sweep() == []
    assert office.run(step, run_id="run-2")[0].ok
    assert office.yard.serving() == []
