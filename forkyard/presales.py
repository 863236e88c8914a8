"""
The pre-sale calendar: events as people write them, and the moments and numbers that follow from them.

Pure: text, settings and "now" come in; what is wrong comes out with its line, its key and what would be right. A
repeating event's local times, of its start and of its `end`, are kept across changes of the clocks; where one does not
exist that day the first moment after is taken, where it comes twice the first one. An event of one day is asked about
instead. `hold` is a length, whatever the clocks show.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from itertools import chain

from forkyard.errors import InvalidRequest
from forkyard.estimates import Lead
from forkyard.moments import canonical_zone, find_zone, localize, read_duration, read_local, write_moment
from forkyard.recurrence import judge_rule, list_local, take_moment
from forkyard.settings import ServiceSettings
from forkyard.toml_reader import Problem, bounded, find_line, one_of, parse_toml, read_table

AHEAD = timedelta(days=400)
"""So far ahead are overlaps looked for, and so soon must a repeating event fire."""

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
    """Local time of its zone; of a repeating event that of its first day."""
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
    local, moment = _read_time(event.start, event.zone)
    if not event.repeat:
        yield from _around(Occurrence(name, event, moment, _end_of(event, moment)), since, until)
        return
    zone, length = canonical_zone(event.zone), _local_length(event, local)
    skipped = {date.fromisoformat(day) for day in event.skip}
    # A day more on both sides: between local times and UTC lies less.
    first, last = since - length - timedelta(days=1), until + timedelta(days=1)
    for found in list_local(event.repeat, local, zone, first.date(), last.date()):
        if found.date() in skipped:
            continue
        start = take_moment(found, zone)
        end = start + event.hold if event.hold is not None else take_moment(found + length, zone)
        # All of it may lie in the hour that the clocks leave out that day.
        if end > start:
            yield from _around(Occurrence(name, event, start, end), since, until)


def _around(occurrence: Occurrence, since: datetime, until: datetime) -> Iterator[Occurrence]:
    if occurrence.end >= since and occurrence.start <= until:
        yield occurrence


def _read_time(text: str, zone: str) -> tuple[datetime, datetime]:
    """The local time, and its moment; a time that carries its own offset is that moment."""
    local, offset = read_local(text)
    if offset:
        moment = localize(local.date(), local.time(), offset).moment
        return moment.astimezone(find_zone(canonical_zone(zone))).replace(tzinfo=None), moment
    return local, localize(local.date(), local.time(), canonical_zone(zone)).moment


def _end_of(event: Event, start: datetime) -> datetime:
    return start + event.hold if event.hold is not None else _read_time(event.end, event.zone)[1]


def _local_length(event: Event, start: datetime) -> timedelta:
    """From the local time *start* to that of the end, by the clocks; a hold is as long as it is."""
    return event.hold if event.hold is not None else _read_time(event.end, event.zone)[0] - start


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
        ("start", partial(_read_time, event.start, event.zone)),
        ("lead", partial(read_duration, event.lead) if event.lead != AUTO else None),
        ("end", partial(_read_time, event.end, event.zone) if event.end else None),
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
    local, start = _read_time(event.start, event.zone)
    end = _end_of(event, start)
    if end <= start or (event.repeat and _local_length(event, local) <= timedelta()):
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
        # A series that is over breaks no calendar that was right.
        yield from _judge_rule(path, event, local, now if new else min(now, start), now + AHEAD)


def _judge_rule(
    path: tuple[str, str], event: Event, local: datetime, since: datetime, until: datetime
) -> Iterator[Problem]:
    where = (*path, "repeat")
    wrong = judge_rule(event.repeat, local, canonical_zone(event.zone))
    if wrong is not None:
        yield Problem(where, f' = "{event.repeat}": {wrong}')
    elif not any(_occurrences("", event, since, until)):
        yield Problem(
            where, f' = "{event.repeat}": does not fire within {AHEAD.days} days. Mend it, or remove the event.'
        )


def _judge_overlaps(calendar: Calendar, now: datetime) -> Iterator[Problem]:
    by_service: dict[str, list[Occurrence]] = {}
    for occurrence in list_occurrences(calendar, now, now + AHEAD):
        by_service.setdefault(occurrence.event.service, []).append(occurrence)
    told: set[frozenset[str]] = set()
    for one, other in chain.from_iterable(map(_list_overlapping, by_service.values())):
        names = frozenset((one.name, other.name))
        if names not in told and {one.event.overlap, other.event.overlap} != {"highest"}:
            told.add(names)
            same = "itself" if one.name == other.name else other.name
            yield Problem(
                ("events", one.name),
                f": overlaps {same} on {other.start:%Y-%m-%d %H:%M} UTC, and both want {one.event.service}. "
                f'Move one, or give both overlap = "highest".',
            )


def _list_overlapping(occurrences: list[Occurrence]) -> Iterator[tuple[Occurrence, Occurrence]]:
    """Each two of a service's that take place at the same time, ramps included."""
    under_way: list[Occurrence] = []
    for one in sorted(occurrences, key=lambda occurrence: occurrence.begins(timedelta())):
        # Only with these is it compared: of a year's occurrences next to none last until the next.
        under_way = [before for before in under_way if before.end > one.begins(timedelta())]
        yield from ((before, one) for before in under_way)
        under_way.append(one)


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
