"""`forkyard schedule`: what is going to happen by itself, and the pre-sale calendar that it comes from."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cli.output import emit, make_console, say
from cli.requests import (
    drop_runs,
    find_person,
    local_zone,
    open_desk,
    request_shape,
    run_cancel,
    show_request,
    start_runs,
)
from flows.runs import Runs
from forkyard.commands import ScheduleMove
from forkyard.decisions import CALENDAR
from forkyard.errors import InvalidRequest, TransientError
from forkyard.moments import read_when, write_moment
from forkyard.presales import Calendar, Occurrence, list_occurrences, parse_calendar, plan_steps
from forkyard.requests import Request, State, StateChanged
from forkyard.requests.calendar import find_leads, tick
from forkyard.requests.calendar_file import CalendarFile
from forkyard.requests.desk import Desk
from forkyard.requests.starting import settle_ended
from forkyard.requests.store import Store
from forkyard.settings import Settings, load_settings

_AHEAD = timedelta(days=400)
_SHOWN = 20
_LISTED = (State.RUNNING, State.APPROVED, State.SCHEDULED, State.AWAITING)


def run_list(config: Path | None, service: str | None, *, as_json: bool) -> int:
    """Show what is scheduled and what waits for approval, then what the calendar has beyond."""
    now = datetime.now(UTC)
    with open_desk(config) as (desk, settings):
        found = desk.store.list_requests(states=_LISTED, service=service, limit=1000)
        found.sort(key=lambda row: row.start_at or row.requested_at)
        rows = [row for row in found if row.start_at is not None and row.state in {State.SCHEDULED, State.AWAITING}]
        waiting = [row for row in found if row.state is State.AWAITING]
        known = {row.event: row for row in desk.store.list_requests(origin=CALENDAR, limit=1000) if row.parent is None}
        calendar, broken = _read_calendar(desk.store, settings, config, now)
        leads = find_leads(desk, calendar or Calendar())
    if broken is not None and as_json:
        raise broken
    occurrences = [
        found
        for found in list_occurrences(calendar or Calendar(), now, now + _AHEAD)
        if service is None or found.event.service == service
    ][:_SHOWN]
    if as_json:
        events = [
            {
                "event": o.name,
                "service": o.event.service,
                "start": o.start.isoformat(),
                "end": o.end.isoformat(),
                "target": o.event.target,
                "lead": leads[o.name].why,
                "request": row.token if (row := _find_row(known, o)) else None,
                "state": row.state.value if row else None,
            }
            for o in occurrences
        ]
        shapes = {"requests": [request_shape(row) for row in rows], "waiting": [request_shape(row) for row in waiting]}
        under_way = [request_shape(row) for row in found if row.state in {State.RUNNING, State.APPROVED}]
        emit({**shapes, "under_way": under_way, "events": events})
        return 0
    lines = [_line(row) for row in sorted(found, key=lambda row: _LISTED.index(row.state))]
    lines += [
        f"{o.name}: {o.event.service} to {o.event.target} at {write_moment(o.start, o.event.zone)}, "
        f"until {write_moment(o.end, o.event.zone)}; {leads[o.name].why}{_describe(_find_row(known, o))}"
        for o in occurrences
    ]
    make_console().print(
        "\n".join(lines or ["Nothing is scheduled, and nothing waits for approval."]), markup=False, soft_wrap=True
    )
    if broken is not None:
        # Only now: what is on record does not depend on it.
        raise broken
    return 0


def _find_row(known: Mapping[str | None, Request], occurrence: Occurrence) -> Request | None:
    """The newest request that stands for it; None: the calendar's request for it is still to come."""
    begin = f"{occurrence.key}#"
    # What the calendar itself took back, and asked for anew since, has its mark behind the key.
    found = [row for event, row in known.items() if event and event.startswith(begin) and "~" not in event]
    return max(found, key=lambda row: row.requested_at, default=None)


def _describe(row: Request | None) -> str:
    if row is None:
        return ""
    moved = f" at {write_moment(row.start_at, row.zone)}" if row.open and row.start_at else ""
    return f"; {row.token} is {row.state.value}{moved}"


def _line(row: Request) -> str:
    when = f"at {write_moment(row.start_at, row.zone)}" if row.start_at else "now"
    return f"{row.token}: {row.service} to {row.target} {when}: {row.state.value}"


def run_check(config: Path | None, file: Path | None, *, as_json: bool) -> int:
    """Say what is wrong with a calendar, or what follows from it; changes nothing."""
    now, settings = datetime.now(UTC), load_settings(config)
    new = _read_new(file, settings, now) if file is not None else None
    with open_desk(config) as (desk, _):
        calendar = new or CalendarFile(config).load(desk.store, settings, now=now)
        leads = find_leads(desk, calendar)
    lengths = {name: lead.length for name, lead in leads.items()}
    found = list_occurrences(calendar, now, now + _AHEAD)[:_SHOWN]
    steps = [(o, plan_steps(calendar, o, lengths)) for o in found]
    if as_json:
        emit(
            {
                "events": sorted(calendar.events),
                "occurrences": [
                    {"event": o.name, "steps": [[step.at.isoformat(), step.number] for step in planned]}
                    for o, planned in steps
                ],
            }
        )
        return 0
    lines = [f"The calendar is right: {len(calendar.events)} events."]
    for o, planned in steps:
        lines.append(f"{o.name}: {leads[o.name].why}")
        lines += [f"  {write_moment(s.at, o.event.zone)} ({s.at:%Y-%m-%d %H:%M} UTC): {s.number}" for s in planned]
    make_console().print("\n".join(lines), markup=False, soft_wrap=True)
    return 0


def _read_new(file: Path, settings: Settings, now: datetime) -> Calendar:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file}: cannot be read: {error}"
        raise InvalidRequest(message) from error
    return parse_calendar(text, settings.services, source=str(file), now=now, new=True)


def run_sync(config: Path | None, *, as_json: bool) -> int:
    """Put on record what the calendar wants soon, start what is due; the bot does the same all the time."""
    with open_desk(config) as (desk, settings):
        now = desk.store.now()
        calendar, broken = _read_calendar(desk.store, settings, config, now)
        notices = tick(desk, settings, calendar, now=now)
        runs = Runs(settings.prefect.api_url)
        settle_ended(desk, runs)
        swept = desk.sweep()
        _plan_waiting(desk)
        drop_runs(desk, settings)
        started = start_runs(desk, runs)
    if broken is not None:
        # Only now: what is on record does not depend on it.
        raise broken
    if as_json:
        emit({"notices": [notice.text for notice in notices], "started": [request_shape(row) for row in started]})
        return 0
    for notice in notices:
        say(notice.text)
    for row in swept:
        say(f"{row.token}: {row.service} to {row.target}: {row.state.value}: {row.error or row.need_why}")
    make_console().print(f"{len(notices)} to be told, {len(started)} runs put on the schedule.", soft_wrap=True)
    return 0


def _plan_waiting(desk: Desk) -> None:
    """Plan what was sent back without a plan, or could not be planned when it was: the bot does that all the time."""
    for row in desk.store.list_requests(states=[State.PLANNED]):
        try:
            desk.plan(row)
        except TransientError as error:
            say(f"{row.token}: cannot be planned now: {error}")
        except StateChanged:
            continue


def _read_calendar(
    store: Store, settings: Settings, config: Path | None, now: datetime
) -> tuple[Calendar | None, InvalidRequest | None]:
    try:
        return CalendarFile(config).load(store, settings, now=now), None
    except InvalidRequest as error:
        return None, error


def run_move(config: Path | None, name: str, to: str, *, as_json: bool) -> int:
    """Have it start at another time; it must be approved anew."""
    when = read_when(to.split(), datetime.now(UTC), local_zone())
    with open_desk(config) as (desk, settings):
        request = desk.move(find_person(), name, when, where="terminal", raw=f"{ScheduleMove(name, when)}")
        drop_runs(desk, settings)
    return show_request(request, as_json=as_json)


__all__ = ["run_cancel", "run_check", "run_list", "run_move", "run_sync"]
