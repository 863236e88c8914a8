"""
Moments and durations as people write them: zones, offsets, the two hours a year that a clock says twice or never.

Pure: "now" and the writer's zone come in as values. A local time that does not exist is refused, one that comes
twice is asked about, and what is read can be written so that it reads as the same moment again.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from forkyard.errors import InvalidRequest

FARTHEST = timedelta(days=400)
"""A year and a bit: what lies farther ahead is a mistyped year."""

LONGEST = timedelta(days=30)
SHORTEST = timedelta(minutes=1)

_DURATION = re.compile(r"(?=\d)(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,5})m(?:in)?)?(?:(\d{1,6})s)?", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)", re.ASCII)
_TIME = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?", re.ASCII)
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_GLUED = re.compile(r"(\d{4}-\d\d-\d\d)T(\d{1,2}:\d\d(?::\d\d)?)(Z|[+-]\d\d:?\d\d)?", re.ASCII | re.IGNORECASE)

WHEN_FORMS = "2026-11-27T05:00 America/New_York, 2026-11-27T05:00Z, tomorrow 05:00, or in 45m"


class AmbiguousTime(InvalidRequest):
    """A local time that the clocks show twice; `choices` are the two moments, the earlier first."""

    def __init__(self, text: str, choices: "tuple[When, When]") -> None:
        """Say it, and offer both."""
        super().__init__(text)
        self.choices = choices


@dataclass(frozen=True, slots=True)
class When:
    """A moment, and the zone that it was written in."""

    moment: datetime
    """Aware, in UTC."""
    zone: str
    """An IANA name, `Z`, or an offset such as `-05:00`."""

    @property
    def local(self) -> datetime:
        """The moment on the clocks of its zone."""
        return self.moment.astimezone(find_zone(self.zone))

    def __str__(self) -> str:
        """The form that `read_when` reads as the same moment."""
        local = self.local
        spec = "seconds" if local.second else "minutes"
        return f"{local.replace(tzinfo=None).isoformat(timespec=spec)} {self.zone}"


def read_when(words: Sequence[str], now: datetime, zone: str) -> When:
    """
    Read a moment; without a zone of its own it is in *zone*.

    Raises:
        AmbiguousTime: the clocks show it twice that day.
        InvalidRequest: not understood, not existing, past, or too far ahead.
    """
    found = _read(list(words), now, zone)
    if found.moment <= now:
        text = f"{found} is past: it is {When(now.astimezone(UTC).replace(microsecond=0), found.zone)} now."
        raise InvalidRequest(text)
    if found.moment - now > FARTHEST:
        text = f"{found} is more than {FARTHEST.days} days ahead. Is the year right?"
        raise InvalidRequest(text)
    return found


def _read(words: list[str], now: datetime, zone: str) -> When:
    lowered = [word.lower() for word in words]
    match lowered:
        case ["in", duration]:
            return write_moment(now + read_duration(duration), zone)
        case [("today" | "tomorrow") as day, clock, *rest] if len(rest) <= 1:
            name = canonical_zone(words[2] if rest else zone)
            today = now.astimezone(find_zone(name)).date()
            return localize(today + timedelta(days=day == "tomorrow"), _read_time(clock), name)
        case [day, clock, *rest] if len(rest) <= 1 and _DATE.fullmatch(day) and _TIME.fullmatch(clock):
            return localize(_read_date(day), _read_time(clock), canonical_zone(words[2] if rest else zone))
        case [glued, *rest] if len(rest) <= 1 and (found := _GLUED.fullmatch(glued)):
            if found[3] and rest:
                text = f"{' '.join(words)}: has two zones. Leave one out."
                raise InvalidRequest(text)
            name = canonical_zone(found[3] or (words[1] if rest else zone))
            return localize(_read_date(found[1]), _read_time(found[2]), name)
        case _:
            text = f"{' '.join(words) or 'nothing'}: is no time. Write it as {WHEN_FORMS}."
            raise InvalidRequest(text)


def localize(day: date, clock: time, zone: str) -> When:
    """Take a local time of *zone* for the moment that it is; raises as `read_when`."""
    info = find_zone(zone)
    local = datetime.combine(day, clock)
    try:
        first, second = (local.replace(tzinfo=info, fold=fold).astimezone(UTC) for fold in (0, 1))
        back = first.astimezone(info).replace(tzinfo=None)
    except OverflowError as error:
        text = f"{day}: is no date of this age."
        raise InvalidRequest(text) from error
    if back != local:
        text = (
            f"{local:%Y-%m-%d %H:%M} does not exist in {zone}: the clocks are put forward over it. "
            f"Take {back:%H:%M}, or another time."
        )
        raise InvalidRequest(text)
    if first != second:
        choices = (When(first, _offset_of(first, info)), When(second, _offset_of(second, info)))
        text = (
            f"{local:%Y-%m-%d %H:%M} comes twice in {zone}, because the clocks go back. "
            f"Say which one: {choices[0]} is the earlier, {choices[1]} the later."
        )
        raise AmbiguousTime(text, choices)
    return When(first, zone)


def read_local(text: str) -> tuple[datetime, str]:
    """Read a date and time such as 2026-11-27T05:00, and the offset that it may have; raises InvalidRequest."""
    found = _GLUED.fullmatch(text.strip())
    if found is None:
        message = f"{text or 'nothing'}: is no time. Write it as 2026-11-27T05:00."
        raise InvalidRequest(message)
    return datetime.combine(_read_date(found[1]), _read_time(found[2])), found[3] or ""


def write_moment(moment: datetime, zone: str) -> When:
    """Write *moment* in *zone*, or with its offset where the zone's clocks show that time twice."""
    moment = moment.astimezone(UTC).replace(microsecond=0)
    name = canonical_zone(zone)
    info = find_zone(name)
    local = moment.astimezone(info)
    twice = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
    return When(moment, _offset_of(moment, info) if twice else name)


def canonical_zone(name: str) -> str:
    """
    Write a zone as forkyard does: IANA's capitals, `Z`, or `+hh:mm`.

    Raises:
        InvalidRequest: nobody knows it; the message says which is the nearest.
    """
    if offset := _OFFSET.fullmatch(name):
        hours, minutes = int(offset[2]), int(offset[3])
        if hours > 14 or minutes > 59:  # noqa: PLR2004 - no zone is farther from UTC
            text = f"{name}: no clock is so far from UTC."
            raise InvalidRequest(text)
        return "Z" if hours == minutes == 0 else f"{offset[1]}{hours:02}:{minutes:02}"
    if name.lower() in {"z", "utc", "gmt"}:
        return "Z"
    known = _zones()
    found = known.get(name.lower())
    if found is None:
        # A city alone is what people type: "new_york", "berlin".
        cities = {key.rpartition("/")[2]: full for key, full in known.items()}
        near = difflib.get_close_matches(name.lower(), [*known, *cities], n=1, cutoff=0.6)
        hint = f"Did you mean {known.get(near[0]) or cities[near[0]]}?" if near else "Write it as America/New_York."
        text = f"{name}: is no time zone. {hint}"
        raise InvalidRequest(text)
    return found


def find_zone(name: str) -> tzinfo:
    """The clocks of a zone that `canonical_zone` has written."""
    if name == "Z":
        return UTC
    if offset := _OFFSET.fullmatch(name):
        away = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return timezone(-away if offset[1] == "-" else away)
    return ZoneInfo(name)


@cache
def _zones() -> dict[str, str]:
    return {name.lower(): name for name in available_timezones() if name not in {"localtime", "Factory"}}


def _offset_of(moment: datetime, info: tzinfo) -> str:
    return canonical_zone(moment.astimezone(info).strftime("%z")[:5])


def _read_time(text: str) -> time:
    found = _TIME.fullmatch(text)
    try:
        return time(int(found[1]), int(found[2]), int(found[3] or 0)) if found else _no_time(text)
    except ValueError:
        return _no_time(text)


def _no_time(text: str) -> time:
    message = f"{text}: is no time of day. Write it as 05:00 or 17:30."
    raise InvalidRequest(message)


def _read_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        message = f"{text}: there is no such day. Write it as 2026-11-27."
        raise InvalidRequest(message) from error


def read_duration(text: str) -> timedelta:
    """Read a duration such as 45m, 2h, 1h30m or 3d; raises InvalidRequest, also for one out of reason."""
    found = _DURATION.fullmatch(text.lower())
    if found is None:
        message = f"{text}: is no duration. Write it as 45m, 2h, 1h30m or 3d."
        raise InvalidRequest(message)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not SHORTEST <= length <= LONGEST:
        message = (
            f"{text}: is {'too short' if length < SHORTEST else 'too long'}. Take 1m at the least, 30d at the most."
        )
        raise InvalidRequest(message)
    return length


def write_duration(length: timedelta) -> str:
    """Write a duration so that `read_duration` reads the same."""
    seconds = int(length.total_seconds())
    parts = ((seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
