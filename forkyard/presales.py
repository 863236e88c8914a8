"""
The pre-sale calendar: events as people write them, and the moments and numbers that follow from them.

Pure: text, settings and "now" come in; what is wrong comes out with its line, its key and what would be right. A
repeating event's local time is kept across changes of the clocks; where it does not exist that day the first moment
after is taken, where it comes twice the first one. An event of one day is asked about instead.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import partial
from itertools import combinations

from dateutil.rrule import rrule, rrulestr

from forkyard.errors import InvalidRequest
from forkyard.estimates import Lead
from forkyard.moments import canonical_zone, find_zone, localize, read_duration, read_local, write_moment
from forkyard.settings import ServiceSettings
from forkyard.toml_reader import Problem, bounded, find_line, one_of, parse_toml, read_table

AHEAD = timedelta(days=400)
"""So far ahead are overlaps looked for, and so soon must a repeating event fire."""

FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """A smaller number some time before the start."""

    before: timedelta = bounded(timedelta(hours=1), at_least=60, at_most=7 * 86400)
    to: int = bounded(1, at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What a service has when no event wants more."""

    base: int = bounded(0, at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event as it is written."""

    service: str
    start: str
    """Local time of its zone, such as 2026-11-27T05:00; when the children must serve."""
    zone: str = "Z"
    target: int = bounded(1, at_least=0)
    lead: str = AUTO
    """How long before its start the scaling begins: such as "10m", or "auto", from how long the last runs took."""
    ramp: tuple[Ramp, ...] = ()
    hold: timedelta | None = None
    """How long from the start to the end; or `end`."""
    end: str = ""
    repeat: str = ""
    """An RRULE of RFC 5545, such as FREQ=WEEKLY;BYDAY=FR."""
    skip: tuple[str, ...] = ()
    """Days, such as 2026-12-25, on which a repeating event does not take place."""
    overlap: str = one_of("refuse", "refuse", "highest")
    """What to do where another event wants the service too: `highest` takes the larger number."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """All of presales.toml."""

    events: dict[str, Event] = field(default_factory=dict[str, Event])
    services: dict[str, Base] = field(default_factory=dict[str, Base])


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An event on one day."""

    name: str
    event: Event
    start: datetime
    end: datetime

    @property
    def key(self) -> str:
        """What it is called on record."""
        return f"{self.name}@{self.start:%Y%m%dT%H%M%SZ}"

    def begins(self, lead: timedelta) -> datetime:
        """When its first step is due."""
        return min([self.start - lead, *(self.start - ramp.before for ramp in self.event.ramp)])

    def wants(self, at: datetime, lead: timedelta) -> int | None:
        """The number that it wants at a moment; None: none."""
        if not self.begins(lead) <= at < self.end:
            return None
        if at >= self.start - lead:
            return self.event.target
        return max(ramp.to for ramp in self.event.ramp if self.start - ramp.before <= at)


@dataclass(frozen=True, slots=True)
class Step:
    """A number from a moment on."""

    at: datetime
    number: int


def parse_calendar(
    text: str,
    services: Mapping[str, ServiceSettings],
    *,
    source: str = "presales.toml",
    now: datetime,
    new: bool = False,
) -> Calendar:
    """
    Read a calendar; with *new* an event that is over is a mistake too.

    Raises:
        InvalidRequest: each problem with its line, its key and what would be right.
    """
    try:
        table = parse_toml(text)
    except ValueError as error:
        message = f"{source}: {error}"
        raise InvalidRequest(message) from error
    problems: list[Problem] = []
    calendar = read_table(Calendar, table, problems)
    if calendar is not None:
        problems.extend(_judge(calendar, services, now, new=new))
    if calendar is None or problems:
        in_order = sorted(problems, key=lambda problem: find_line(text, problem.path) or 0)
        lines = [problem.render(text) for problem in in_order]
        found = lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} problems", *(f"  {line}" for line in lines)])
        message = f"{source}: {found}"
        raise InvalidRequest(message)
    return calendar


def list_occurrences(calendar: Calendar, since: datetime, until: datetime) -> list[Occurrence]:
    """All that take place, wholly or partly, between two moments, in order; none of them is left out for its lead."""
    found = [
        occurrence for name, event in calendar.events.items() for occurrence in _occurrences(name, event, since, until)
    ]
    return sorted(found, key=lambda occurrence: (occurrence.start, occurrence.name))


def plan_steps(calendar: Calendar, occurrence: Occurrence, leads: Mapping[str, timedelta]) -> tuple[Step, ...]:
    """
    What is to be done for an occurrence, in order: ramp, start, end; *leads* are by event.

    Where another event of the service wants more, its number counts, and after the end what the calendar wants then.
    """
    lead = leads.get(occurrence.name, timedelta())
    moments = {occurrence.start - ramp.before for ramp in occurrence.event.ramp} | {
        occurrence.start - lead,
        occurrence.end,
    }
    steps: list[Step] = []
    for moment in sorted(moments):
        number = find_wanted(calendar, occurrence.event.service, moment, leads)
        if not steps or steps[-1].number != number:
            steps.append(Step(moment, number))
    return tuple(steps)


def find_wanted(calendar: Calendar, service: str, at: datetime, leads: Mapping[str, timedelta]) -> int:
    """The number that the calendar wants of a service at a moment."""
    own = {name: event for name, event in calendar.events.items() if event.service == service}
    # What has begun by then starts at the latest so much later.
    begun = max([timedelta(), *leads.values(), *(ramp.before for event in own.values() for ramp in event.ramp)])
    around = list_occurrences(replace(calendar, events=own), at, at + begun)
    wanted = [
        number
        for occurrence in around
        if (number := occurrence.wants(at, leads.get(occurrence.name, timedelta()))) is not None
    ]
    base = calendar.services.get(service)
    return max(wanted) if wanted else base.base if base is not None else 0


def find_lead(event: Event, computed: Lead) -> Lead:
    """The event's own lead, or the computed one; never after a step of its ramp."""
    if event.lead == AUTO:
        return computed
    return Lead(read_duration(event.lead), f"starting {event.lead} before, as the calendar says")


def _occurrences(name: str, event: Event, since: datetime, until: datetime) -> Iterator[Occurrence]:
    local, moment = _read_start(event.start, event.zone)
    if not event.repeat:
        if moment is None:
            return
        yield from _around(Occurrence(name, event, moment, _end_of(event, moment)), since, until)
        return
    length = _end_of(event, _take(local, event.zone)) - _take(local, event.zone)
    zone = find_zone(event.zone)
    skipped = {date.fromisoformat(day) for day in event.skip}
    # A day more on both sides: between local times and UTC lies less.
    first, last = (m.astimezone(zone).replace(tzinfo=None) for m in (since - length, until))
    day = timedelta(days=1)
    for found in _rule(event.repeat, local).between(first - day, last + day, inc=True):
        if found.date() not in skipped:
            start = _take(found, event.zone)
            yield from _around(Occurrence(name, event, start, start + length), since, until)


def _around(occurrence: Occurrence, since: datetime, until: datetime) -> Iterator[Occurrence]:
    if occurrence.end >= since and occurrence.start <= until:
        yield occurrence


def _take(local: datetime, zone: str) -> datetime:
    """The moment of a local time that nobody can be asked about (see the module's promise)."""
    info = find_zone(zone)
    # By PEP 495 a time inside a gap, read with the old offset, is a moment after the gap, at most its length away.
    moment = local.replace(tzinfo=info, fold=0).astimezone(UTC)
    if moment.astimezone(info).replace(tzinfo=None) == local:
        return moment
    return _find_gap_end(moment, info)


def _find_gap_end(moment: datetime, info: tzinfo) -> datetime:
    """The minute in which the clocks were put forward, looked for before a moment that lies within the gap's length."""
    after, minute = moment.astimezone(info).utcoffset(), moment.replace(second=0, microsecond=0)
    while (minute - timedelta(minutes=1)).astimezone(info).utcoffset() == after:
        minute -= timedelta(minutes=1)
    return minute


def _rule(text: str, start: datetime) -> rrule:
    found = rrulestr(text.upper().removeprefix("RRULE:"), dtstart=start)
    if not isinstance(found, rrule):
        message = "one rule is wanted"
        raise ValueError(message)
    return found


def _read_start(text: str, zone: str) -> tuple[datetime, datetime | None]:
    """The local time, and its moment; a time that carries its own offset is that moment."""
    local, offset = read_local(text)
    if offset:
        moment = localize(local.date(), local.time(), offset).moment
        return moment.astimezone(find_zone(canonical_zone(zone))).replace(tzinfo=None), moment
    return local, localize(local.date(), local.time(), canonical_zone(zone)).moment


def _end_of(event: Event, start: datetime) -> datetime:
    if event.hold is not None:
        return start + event.hold
    moment = _read_start(event.end, event.zone)[1]
    return moment if moment is not None else start


def _judge(calendar: Calendar, services: Mapping[str, ServiceSettings], now: datetime, *, new: bool) -> list[Problem]:
    problems: list[Problem] = []
    for name, base in calendar.services.items():
        problems.extend(_judge_number(("services", name, "base"), name, base.base, services))
    for name, event in calendar.events.items():
        found = list(_judge_event(("events", name), event, services, now, new=new))
        problems.extend(found)
    return problems or list(_judge_overlaps(calendar, now))


def _judge_number(
    path: tuple[str, ...], service: str, number: int, services: Mapping[str, ServiceSettings]
) -> Iterator[Problem]:
    policy = services.get(service)
    if policy is None:
        known = ", ".join(sorted(services)) or "none"
        yield Problem(
            (*path[:-1], "service"), f": no service is called {service} in forkyard.toml. There are: {known}."
        )
    elif not policy.minimum <= number <= policy.maximum:
        yield Problem(path, f" = {number}: {service} may have {policy.minimum} to {policy.maximum} (forkyard.toml).")


def _judge_event(
    path: tuple[str, str], event: Event, services: Mapping[str, ServiceSettings], now: datetime, *, new: bool
) -> Iterator[Problem]:
    yield from _judge_number((*path, "target"), event.service, event.target, services)
    for key, check in (
        ("zone", partial(canonical_zone, event.zone)),
        ("start", partial(_read_start, event.start, event.zone)),
        ("lead", partial(read_duration, event.lead) if event.lead != AUTO else None),
        ("end", partial(_read_start, event.end, event.zone) if event.end else None),
    ):
        try:
            if check is not None:
                check()
        except InvalidRequest as error:
            yield Problem((*path, key), f": {error}")
            return
    if (event.hold is None) == (not event.end):
        yield Problem(path, ': says when it ends by one of hold = "6h" and end = "2026-11-27T11:00".')
        return
    yield from _judge_times(path, event, now, new=new)
    for ramp in event.ramp:
        if ramp.to > event.target:
            yield Problem((*path, "ramp"), f": goes to {ramp.to} before the start, above the target of {event.target}.")


def _judge_times(path: tuple[str, str], event: Event, now: datetime, *, new: bool) -> Iterator[Problem]:
    local, moment = _read_start(event.start, event.zone)
    start = moment if moment is not None else _take(local, event.zone)
    end = _end_of(event, start)
    if end <= start:
        yield Problem((*path, "end"), f' = "{event.end}": is not after the start, {event.start}.')
    elif new and not event.repeat and end <= now:
        yield Problem((*path, "start"), f' = "{event.start}": is past: it is {write_moment(now, event.zone)} now.')
    for day in event.skip:
        try:
            date.fromisoformat(day)
        except ValueError:
            yield Problem((*path, "skip"), f': "{day}" is no day. Write it as 2026-12-25.')
            return
    if event.repeat:
        yield from _judge_rule(path, event, local, now)


def _judge_rule(path: tuple[str, str], event: Event, local: datetime, now: datetime) -> Iterator[Problem]:
    where = (*path, "repeat")
    parts = event.repeat.upper().removeprefix("RRULE:").split(";")
    if not any(f"FREQ={frequency}" in parts for frequency in FREQUENCIES):
        yield Problem(
            where, f' = "{event.repeat}": FREQ is one of {", ".join(FREQUENCIES)}, such as FREQ=WEEKLY;BYDAY=FR.'
        )
        return
    if _names_no_day(parts):
        yield Problem(where, f' = "{event.repeat}": never fires: no month of BYMONTH has such a day.')
        return
    try:
        _rule(event.repeat, local)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        # dateutil has no error of its own for a rule that it cannot read.
        yield Problem(where, f' = "{event.repeat}": is no RRULE: {error}. Write it as FREQ=WEEKLY;BYDAY=FR.')
        return
    if not any(_occurrences("", event, now, now + AHEAD)):
        yield Problem(
            where, f' = "{event.repeat}": does not fire within {AHEAD.days} days. Mend it, or remove the event.'
        )


def _names_no_day(parts: list[str]) -> bool:
    """Whether month and day contradict each other; dateutil would search for it until the year 9999."""
    given = {name: value.split(",") for name, _, value in (part.partition("=") for part in parts)}
    months, days = given.get("BYMONTH"), given.get("BYMONTHDAY")
    if not months or not days or not all(word.isdecimal() for word in (*months, *days)):
        return False
    longest = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
    return all(int(day) > longest.get(int(month), 31) for month in months for day in days)


def _judge_overlaps(calendar: Calendar, now: datetime) -> Iterator[Problem]:
    by_service: dict[str, list[Occurrence]] = {}
    for occurrence in list_occurrences(calendar, now, now + AHEAD):
        by_service.setdefault(occurrence.event.service, []).append(occurrence)
    told: set[frozenset[str]] = set()
    for occurrences in by_service.values():
        for one, other in combinations(occurrences, 2):
            names = frozenset((one.name, other.name))
            apart = other.begins(timedelta()) >= one.end or one.begins(timedelta()) >= other.end
            if apart or names in told or {one.event.overlap, other.event.overlap} == {"highest"}:
                continue
            told.add(names)
            same = "itself" if one.name == other.name else other.name
            yield Problem(
                ("events", one.name),
                f": overlaps {same} on {other.start:%Y-%m-%d %H:%M} UTC, and both want {one.event.service}. "
                f'Move one, or give both overlap = "highest".',
            )


__all__ = [
    "Base",
    "Calendar",
    "Event",
    "Occurrence",
    "Ramp",
    "Step",
    "find_lead",
    "find_wanted",
    "list_occurrences",
    "parse_calendar",
    "plan_steps",
]
