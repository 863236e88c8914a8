"""
From the calendar to requests: what comes within two days is put on record, planned, and waits for an approval.

Called again and again, by the bot or by `forkyard schedule sync`; an occurrence has one row, known by its event's text
and its steps, so that a moved or changed event is a new request and the old one is taken back. What was taken back here
is asked for anew when the calendar has it again; what a person cancelled is not. The end of what has begun stays as it
was approved until the next is: the fleet must come down. A missed start is asked about. A day and ten minutes before a
start everything is looked at once more, while something can be done about it.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

from forkyard.decisions import CALENDAR
from forkyard.errors import ForkyardError, NotPermitted
from forkyard.estimates import Lead
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
    plan_steps,
)
from forkyard.requests import STANDING, Notice, Request, State, StateChanged
from forkyard.requests.desk import Desk
from forkyard.requests.gate import find_approval, find_approved
from forkyard.requests.looking import learn_from
from forkyard.requests.moves import SYSTEM, make_entry
from forkyard.requests.plans import PlanRecord
from forkyard.requests.series import catch_up
from forkyard.settings import Settings

logger = logging.getLogger(__name__)

HORIZON = timedelta(hours=48)
"""So long before its first step an occurrence becomes a request that can be approved."""

CHECKS = ((timedelta(minutes=10), "10 min"), (timedelta(hours=24), "24 h"))
"""How long before a start it is looked at once more; the nearest first."""

_KEY_LEADS = (timedelta(), timedelta(hours=1))

_WAITING = (State.DRAFTED, State.PLANNED, State.AWAITING, State.APPROVED, State.SCHEDULED)

_BEGUN = STANDING.difference(_WAITING)


def tick(
    desk: Desk, settings: Settings, calendar: Calendar | None, *, now: datetime, channel: str = ""
) -> list[Notice]:
    """
    Bring the requests to what the calendar says, look at what is near; returns what is new to be told, in order.

    It is kept in the store until somebody tells it. Without a calendar, for it cannot be read, only what is on record
    is looked at.
    """
    told: list[Notice] = []
    if calendar is not None:
        leads = find_leads(desk, calendar)
        keys = _list_keys(calendar, leads, now)
        told += _take_back(desk, calendar, keys, now)
        told += _keep(desk, _follow(desk, calendar, keys, leads, now, channel))
    return [*told, *_keep(desk, _look(desk, settings, now))]


def _keep(desk: Desk, notices: Iterator[Notice]) -> list[Notice]:
    return [notice for notice in notices if desk.store.announce(notice)]


def _look(desk: Desk, settings: Settings, now: datetime) -> Iterator[Notice]:
    for row in desk.store.list_requests(states=[State.SCHEDULED, State.AWAITING], limit=1000):
        try:
            yield from _check_near(desk, settings, row, now)
        except Exception:
            # One that cannot be looked at must not keep the others from it: it is tried again, and the log has why.
            logger.exception("%s: could not be looked at before its start", row.token)


def _list_keys(calendar: Calendar, leads: Mapping[str, Lead], now: datetime) -> dict[str, Occurrence]:
    """What the calendar wants as far as it is looked ahead, by what makes each the same one at the next look."""
    ramps = [ramp.before for event in calendar.events.values() for ramp in event.ramp]
    ahead = HORIZON + max([timedelta(), *(lead.length for lead in leads.values())]) + max([timedelta(), *ramps])
    occurrences = [found for found in list_occurrences(calendar, now, now + ahead) if found.end > now]
    return {_make_key(calendar, occurrence): occurrence for occurrence in occurrences}


def _follow(
    desk: Desk,
    calendar: Calendar,
    keys: Mapping[str, Occurrence],
    leads: Mapping[str, Lead],
    now: datetime,
    channel: str,
) -> Iterator[Notice]:
    """Put on record what is not there yet."""
    lengths = {name: lead.length for name, lead in leads.items()}
    known = {row.event or "" for row in desk.store.list_requests(origin=CALENDAR, limit=1000)}
    for key, occurrence in keys.items():
        if key in known:
            continue
        steps = plan_steps(calendar, occurrence, lengths)
        if not steps or steps[0].at > now + HORIZON:
            continue
        begun = any(event.startswith(f"{occurrence.key}#") for event in known)
        row = _make_row(calendar, occurrence, key, steps, lengths, now, begun=begun)
        row, fresh = desk.store.add(replace(row, channel=channel), make_entry(row, CALENDAR, "scale", detail=key))
        if fresh:
            yield _introduce(desk, row, leads[occurrence.name])


def find_leads(desk: Desk, calendar: Calendar) -> dict[str, Lead]:
    """Each event's lead, from what the service's last runs took."""
    return {
        name: find_lead(event, compute_lead(learn_from(desk.store, event.service), event.target))
        for name, event in calendar.events.items()
    }


def _make_key(calendar: Calendar, occurrence: Occurrence) -> str:
    # Its steps too, which come from the whole calendar; by leads that do not move, as those of the last runs do. With
    # the long one, what begins soon after a step counts at that step.
    steps = [plan_steps(calendar, occurrence, dict.fromkeys(calendar.events, lead)) for lead in _KEY_LEADS]
    text = repr((sorted(asdict(occurrence.event).items()), steps))
    return f"{occurrence.key}#{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _make_row(
    calendar: Calendar,
    occurrence: Occurrence,
    key: str,
    steps: tuple[Step, ...],
    leads: Mapping[str, timedelta],
    now: datetime,
    *,
    begun: bool,
) -> Request:
    event, first, rest = occurrence.event, steps[0], steps[1:]
    missed = first.at <= now
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
        error=_say_missed(steps[0].at, begun=begun) if missed else "",
    )


def _say_missed(at: datetime, *, begun: bool) -> str:
    moment = f"its start at {at:%Y-%m-%d %H:%M} UTC"
    return f"the calendar was changed after {moment}" if begun else f"{moment} was missed"


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
    if row.unplanned or row.state is State.FAILED:
        return Notice(row, f"{row.raw}: cannot be done as things are: {row.error} It is planned again by itself.")
    notes = "".join(f" {note}" for note in row.plan.notes) if row.plan else ""
    if missed or row.start_at is None:
        text = f"{row.raw}: {missed}. Approve {row.token} to have {row.target} now, or cancel it.{notes}"
        return Notice(row, text)
    when = f"{write_moment(row.start_at, row.zone)} ({row.start_at:%Y-%m-%d %H:%M} UTC)"
    text = f"{row.raw}: {row.service} to {row.target} at {when}; {lead.why}.{notes} Approve it: approve {row.token}"
    return Notice(row, text)


def _take_back(desk: Desk, calendar: Calendar, keys: Mapping[str, Occurrence], now: datetime) -> Iterator[Notice]:
    """Cancel what waits for an occurrence that the calendar has no more, or has otherwise; its notices are kept."""
    rows = desk.store.list_requests(states=_WAITING, origin=CALENDAR, limit=1000)
    for row in sorted(rows, key=lambda row: row.parent is not None):  # with the first of them its later ones go
        first = _find_first(desk, row)
        # What follows an occurrence is its own only ahead of its time: a rollback, or an end sent back, is a person's.
        ahead = row.start_at is not None and row.start_at > now
        if first.event in keys or (row.parent is not None and not ahead) or _is_over(calendar, first.event or ""):
            continue
        why = "the calendar has it no more, or has it otherwise"
        if _ends_what_began(desk, row) and not _is_decided(desk, keys, first, row):
            yield from _keep(desk, iter([_stand_by(first, row, why)]))
            continue
        text = f"{first.raw}: {row.token} is cancelled: {why}."
        entry = make_entry(row, SYSTEM, "cancel", decision=State.CANCELLED.value, detail=why)
        if row.parent is not None:
            _free(desk, first)
        freed = {"event": _make_free(row)} if row.parent is None else {}
        try:
            moved = desk.store.move(row, State.CANCELLED, entry, telling=text, error=why, **freed)
        except StateChanged:
            continue  # it began in this moment, or went with its first step
        yield Notice(moved, text)


def _free(desk: Desk, first: Request) -> None:
    """Have it asked for anew, should the calendar have it again as it was: only what a person cancelled stays away."""
    while (event := _make_free(first)) != first.event:
        try:
            first = desk.store.amend(first, event=event)
        except StateChanged as error:
            first = error.now


def _make_free(first: Request) -> str:
    event = first.event or ""
    return event if event.endswith(first.id) else f"{event}~{first.id}"


def _ends_what_began(desk: Desk, row: Request) -> bool:
    """Whether it brings the fleet down again after something that has begun."""
    if row.parent is None:
        return False
    begun = desk.store.get(row.parent)
    if begun.state not in _BEGUN or begun.plan is None or (row.start_at, row.target) not in begun.plan.later[-1:]:
        return False
    return row.target < [begun.target, *(number for _, number in begun.plan.later)][-2]


def _is_decided(desk: Desk, keys: Mapping[str, Occurrence], first: Request, end: Request) -> bool:
    """Whether what the calendar has now, and is approved, decides then: the same event, or one that wants more."""
    at = end.start_at or desk.store.now()
    for other in desk.store.list_requests(states=STANDING, service=end.service, origin=CALENDAR, limit=1000):
        event = _find_first(desk, other).event or ""
        if event not in keys or other.kind in {"later", "rollback"} or other.plan is None:
            continue
        if event.rpartition("#")[0] == (first.event or "").rpartition("#")[0]:
            return True
        by_then = catch_up(other.plan, at)
        if (other.start_at or at) <= at and by_then.later and by_then.target > end.target:
            return True
    return False


def _stand_by(first: Request, end: Request, why: str) -> Notice:
    when = write_moment(end.start_at or end.requested_at, end.zone)
    text = (
        f"{first.raw}: {why}, but it has begun: {end.token} still brings {end.service} to {end.target} at {when}, "
        f"unless the calendar's next is approved before. If it is to stay: cancel {end.token}"
    )
    return Notice(end, text, key=f"stands {end.id}")


def _is_over(calendar: Calendar, key: str) -> bool:
    """Whether the calendar still has an occurrence that has passed: what came of it may have been moved, or missed."""
    name = key.rpartition("#")[0]
    text = name.rpartition("@")[2]
    start = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    found = list_occurrences(calendar, start, start)
    return any(_make_key(calendar, occurrence) == key for occurrence in found if occurrence.key == name)


def _find_first(desk: Desk, row: Request) -> Request:
    """The request that the calendar made, of all that came of it."""
    while row.parent is not None:
        row = desk.store.get(row.parent)
    return row


def _check_near(desk: Desk, settings: Settings, row: Request, now: datetime) -> Iterator[Notice]:
    if row.origin == CALENDAR and row.state is State.AWAITING:
        row, notice = _follow_waiting(desk, row, now)
        if notice is not None:
            yield notice
    start = row.start_at
    if start is None or start <= now:
        return
    # A step that follows was looked at with its first: once more only just before it.
    for length, name in CHECKS[:1] if row.kind == "later" else CHECKS:
        if start - now <= length:
            key = f"check {name} {row.id} {start:%Y%m%dT%H%M%S}"
            # What was asked for since needs no second look at once.
            if row.requested_at <= start - length and not desk.store.is_announced(key):
                yield replace(_check_one(desk, settings, row, name, now), key=key)
            return


def _follow_waiting(desk: Desk, row: Request, now: datetime) -> tuple[Request, Notice | None]:
    """Plan again what could not be planned, and what was missed for so long that the event wants another number."""
    wanted = catch_up(row.plan, now) if row.plan is not None and row.start_at is None else row.plan
    if wanted is not None and wanted.later and wanted != row.plan:
        entry = make_entry(row, SYSTEM, "plan", decision=State.PLANNED.value, detail=f"to {wanted.target} by now")
        row = desk.store.move(row, State.PLANNED, entry, target=wanted.target, plan=wanted)
    elif not row.unplanned:
        return row, None
    row = desk.plan(row)
    if row.unplanned:
        return row, None
    about = f"{_find_first(desk, row).raw}: {row.service} to {row.target}"
    return row, Notice(row, f"{about} is wanted and can be done now. Approve it: approve {row.token}")


def _check_one(desk: Desk, settings: Settings, row: Request, name: str, now: datetime) -> Notice:
    """Plan again, see that it fits and that the approval still stands; what has drifted wants a new approval."""
    about = f"{row.service} to {row.target} in {name} ({row.token})"
    try:
        record = desk.look(row)
    except ForkyardError as error:
        return Notice(row, f"{about}: cannot be done as things are: {error}")
    approved = find_approved(desk.store, row) or record
    moved = abs(record.current - approved.current) > settings.requests.drift
    if row.kind != "later" and (row.state is State.AWAITING or moved):
        row = desk.plan(row)
        counted = f"{record.current} count now, not {approved.current}"
        why = "nobody has approved it yet" if record.current == approved.current else counted
        return Notice(row, f"{about}: {why}. Approve it: approve {row.token}")
    if row.kind == "later" and moved and record.change and not _waits_for_another(desk, row, now):
        return Notice(
            row, f"{about}: {record.current} count now, not {approved.current}: it will ask before it changes anything."
        )
    room = sum(place.room_after for place in record.places)
    fits = f"{record.forks} to fork, room for {room} more after"
    return Notice(row, f"{about}: {fits}; {_judge_approval(desk, settings, row)}.")


def _waits_for_another(desk: Desk, row: Request, now: datetime) -> bool:
    """Whether what a step follows is still to come, or under way, so that the fleet cannot be what it expects."""
    if row.parent is None or row.start_at is None:
        return False
    first = desk.store.get(row.parent)
    steps = [first, *desk.store.list_requests(parent=first.id)]
    return any(step.open and step.id != row.id and (step.start_at or now) < row.start_at for step in steps)


def _judge_approval(desk: Desk, settings: Settings, row: Request) -> str:
    try:
        approval = find_approval(desk.store, settings, row)
    except NotPermitted as error:
        return str(error)
    return f"approved by {approval.approver} at {approval.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


__all__ = ["find_leads", "tick"]
