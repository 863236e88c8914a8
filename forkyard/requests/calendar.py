"""
From the calendar to requests: what comes within two days is put on record, planned, and waits for an approval.

Called again and again, by the bot or by `forkyard schedule sync`; an occurrence has one row, known by its event's text,
so that a moved or changed event is a new request and the old one is taken back. A missed start is asked about. A day
and ten minutes before a start everything is looked at once more, while there is time to do something about it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from forkyard.decisions import CALENDAR
from forkyard.errors import ForkyardError, InvalidRequest, NotPermitted
from forkyard.estimates import Lead, list_runs
from forkyard.estimates import find_lead as compute_lead
from forkyard.moments import canonical_zone, write_moment
from forkyard.names import new_request_id
from forkyard.presales import (
    Calendar,
    Event,
    Occurrence,
    Step,
    find_lead,
    find_wanted,
    list_occurrences,
    parse_calendar,
    plan_steps,
)
from forkyard.requests import Request, State, StateChanged
from forkyard.requests.desk import Desk
from forkyard.requests.gate import find_approval
from forkyard.requests.moves import SYSTEM, cancel_later, make_entry
from forkyard.requests.plans import PlanRecord
from forkyard.settings import Settings, find_config

HORIZON = timedelta(hours=48)
"""So long before its first step an occurrence becomes a request that can be approved."""

CHECKS = ((timedelta(minutes=10), "10 min"), (timedelta(hours=24), "24 h"))
"""How long before a start it is looked at once more; the nearest first."""

_WAITING = (State.DRAFTED, State.PLANNED, State.AWAITING, State.APPROVED, State.SCHEDULED)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the channel should know of a request."""

    request: Request
    text: str


def load_calendar(settings: Settings, config: Path | None, *, now: datetime) -> Calendar:
    """Read presales.toml from where [requests] says, or beside forkyard.toml; none is empty; raises InvalidRequest."""
    path = settings.requests.calendar or find_config(config).with_name("presales.toml")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Calendar()
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: cannot be read: {error}. Mend it, or name another one in requests.calendar."
        raise InvalidRequest(message) from error
    return parse_calendar(text, settings.services, source=str(path), now=now)


def tick(desk: Desk, settings: Settings, calendar: Calendar, *, now: datetime, channel: str = "") -> list[Notice]:
    """Bring the requests to what the calendar says, look at what is near; returns what is to be told, in order."""
    leads = find_leads(desk, calendar)
    lengths = {name: lead.length for name, lead in leads.items()}
    keys: dict[str, Occurrence] = {}
    for occurrence in list_occurrences(calendar, now, now + HORIZON + max(lengths.values(), default=timedelta())):
        if occurrence.end > now:
            keys[_make_key(occurrence)] = occurrence
    notices = _take_back(desk, keys)
    known = {row.event for row in desk.store.list_requests(origin=CALENDAR, limit=1000)}
    for key, occurrence in keys.items():
        steps = plan_steps(calendar, occurrence, lengths)
        if key in known or not steps or steps[0].at > now + HORIZON:
            continue
        row = _make_row(settings, calendar, occurrence, key, steps, lengths, now)
        row, fresh = desk.store.add(replace(row, channel=channel), make_entry(row, CALENDAR, "scale", detail=key))
        if fresh:
            notices.append(_introduce(desk, row, leads[occurrence.name]))
    return notices + _check_near(desk, settings, now)


def find_leads(desk: Desk, calendar: Calendar) -> dict[str, Lead]:
    """Each event's lead, from what the service's last runs took."""
    found: dict[str, Lead] = {}
    for name, event in calendar.events.items():
        done = desk.store.list_requests(states=[State.SUCCEEDED, State.ROLLED_BACK], service=event.service, limit=20)
        found[name] = find_lead(event, compute_lead(list_runs(done), event.target))
    return found


def _make_key(occurrence: Occurrence) -> str:
    text = repr(sorted(asdict(occurrence.event).items()))
    return f"{occurrence.key}#{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _make_row(
    settings: Settings,
    calendar: Calendar,
    occurrence: Occurrence,
    key: str,
    steps: tuple[Step, ...],
    leads: Mapping[str, timedelta],
    now: datetime,
) -> Request:
    event, first, rest = occurrence.event, steps[0], steps[1:]
    missed = first.at < now - settings.requests.late
    if missed:
        # Never run silently late: what it would want at this moment is asked about.
        first, rest = Step(now, find_wanted(calendar, event.service, now, leads)), tuple(s for s in rest if s.at > now)
    request_id = new_request_id()
    return Request(
        id=request_id,
        service=event.service,
        target=first.number,
        requested_by=CALENDAR,
        requested_at=now,
        origin=CALENDAR,
        raw=occurrence.name,
        reason=event.reason or occurrence.name,
        start_at=None if missed else first.at,
        zone=canonical_zone(event.zone),
        plan=_make_stub(request_id, event, first, rest),
        event=key,
        error=f"its start at {steps[0].at:%Y-%m-%d %H:%M} UTC was missed" if missed else "",
    )


def _make_stub(request_id: str, event: Event, first: Step, rest: tuple[Step, ...]) -> PlanRecord:
    """What is known before the fleet is looked at: the numbers and their moments."""
    return PlanRecord(
        request_id=request_id,
        service=event.service,
        current=0,
        target=first.number,
        forks=0,
        retires=0,
        removes=0,
        start_at=first.at,
        later=tuple((step.at, step.number) for step in rest),
    )


def _introduce(desk: Desk, row: Request, lead: Lead) -> Notice:
    missed = row.error
    try:
        row = desk.plan(row)
    except ForkyardError as error:
        return Notice(row, f"{row.raw}: could not be planned yet: {error}")
    if missed:
        text = f"{row.raw}: {missed}. Approve {row.token} to have {row.target} now, or cancel it."
        return Notice(row, text)
    if row.state is State.FAILED or row.start_at is None:
        return Notice(row, f"{row.raw}: cannot be done: {row.error}")
    when = f"{write_moment(row.start_at, row.zone)} ({row.start_at:%Y-%m-%d %H:%M} UTC)"
    return Notice(
        row, f"{row.raw}: {row.service} to {row.target} at {when}; {lead.why}. Approve it: approve {row.token}"
    )


def _take_back(desk: Desk, keys: Mapping[str, Occurrence]) -> list[Notice]:
    """Cancel what waits for an occurrence that the calendar has no more, or has otherwise."""
    notices: list[Notice] = []
    for row in desk.store.list_requests(states=_WAITING, origin=CALENDAR, limit=1000):
        if row.kind or row.event in keys:
            continue
        why = "the calendar has it no more, or has it otherwise"
        entry = make_entry(row, SYSTEM, "cancel", decision=State.CANCELLED.value, detail=why)
        try:
            row = desk.store.move(row, State.CANCELLED, entry, error=why)  # noqa: PLW2901 - the same row, later
        except StateChanged:
            continue  # it began in this moment
        cancel_later(desk.store, SYSTEM, row)
        notices.append(Notice(row, f"{row.raw}: {row.token} is cancelled: {why}."))
    return notices


def _check_near(desk: Desk, settings: Settings, now: datetime) -> list[Notice]:
    notices: list[Notice] = []
    for row in desk.store.list_requests(states=[State.SCHEDULED, State.AWAITING], limit=1000):
        start = row.start_at
        if start is None or start <= now:
            continue
        # A step that follows was looked at with its first: once more only just before it.
        for length, name in CHECKS[:1] if row.kind == "later" else CHECKS:
            if start - now <= length:
                # What was asked for since needs no second look at once.
                asked_before = row.requested_at <= start - length
                if asked_before and desk.store.deliver(f"check {name} {row.id} {start:%Y%m%dT%H%M%S}"):
                    notices.append(_check_one(desk, settings, row, name))
                break
    return notices


def _check_one(desk: Desk, settings: Settings, row: Request, name: str) -> Notice:
    """Plan again, see that it fits and that the approval still stands; what has drifted wants a new approval."""
    about = f"{row.service} to {row.target} in {name} ({row.token})"
    try:
        record = desk.look(row)
    except ForkyardError as error:
        return Notice(row, f"{about}: cannot be done as things are: {error}")
    planned = row.plan.current if row.plan is not None else record.current
    if row.kind != "later" and (row.state is State.AWAITING or abs(record.current - planned) > settings.requests.drift):
        row = desk.plan(row)
        why = (
            "nobody has approved it yet" if record.current == planned else f"{record.current} count now, not {planned}"
        )
        return Notice(row, f"{about}: {why}. Approve it: approve {row.token}")
    room = sum(place.room_after for place in record.places)
    fits = f"{record.forks} to fork, room for {room} more after"
    return Notice(row, f"{about}: {fits}; {_judge_approval(desk, settings, row)}.")


def _judge_approval(desk: Desk, settings: Settings, row: Request) -> str:
    try:
        approval = find_approval(desk.store, settings, row)
    except NotPermitted as error:
        return str(error)
    return f"approved by {approval.approver} at {approval.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


__all__ = ["Notice", "find_leads", "load_calendar", "tick"]
