"""
Local times that repeat by an RRULE of RFC 5545, and the moments that they become.

Pure. dateutil follows the rules; what it would follow for ever, or until the year 9999, is refused before. A local time
that does not exist is taken for the first moment after, one that comes twice for the first of the two.
"""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache

from dateutil.rrule import rrule, rrulestr

from forkyard.moments import find_zone

FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")

_BOUNDS = {"INTERVAL": 999, "COUNT": 99_999, "BYMONTH": 12}
"""From 1 on."""

_SIGNED = {"BYMONTHDAY": 31, "BYYEARDAY": 366, "BYWEEKNO": 53, "BYSETPOS": 366}
"""From 1 on, or counted from the end: from -1 on."""

_UNTIL = "%Y%m%dT%H%M%S"


def judge_rule(text: str, start: datetime, zone: str) -> str | None:
    """Say what is wrong with a rule; None: it can be followed."""
    parts = _split(text)
    if parts.get("FREQ") not in FREQUENCIES:
        return f"FREQ is one of {', '.join(FREQUENCIES)}, such as FREQ=WEEKLY;BYDAY=FR."
    for name, value in parts.items():
        if not _is_bounded(name, value):
            least = f"1 to {_BOUNDS[name]}" if name in _BOUNDS else f"1 to {_SIGNED[name]}, or from -1 down"
            return f"{name}={value}: take {least}."
    if _names_no_day(parts):
        return "never fires: no month of BYMONTH has such a day."
    try:
        _make_rule(text, start, zone)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        # dateutil has no error of its own for a rule that it cannot read.
        return f"is no RRULE: {error}. Write it as FREQ=WEEKLY;BYDAY=FR."
    return None


@lru_cache(maxsize=256)
def list_local(text: str, start: datetime, zone: str, first: date, last: date) -> tuple[datetime, ...]:
    """
    Follow a rule that is right: the local times of a series that begins with *start*, from one day to another.

    Remembered: dateutil counts from the start each time, and one look at the calendar asks often for the same days.
    """
    rule, until = _make_rule(text, start, zone)
    found = rule.between(datetime.combine(first, time.min), datetime.combine(last, time.max), inc=True)
    return tuple(local for local in found if until is None or take_moment(local, zone) <= until)


def take_moment(local: datetime, zone: str) -> datetime:
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


def _make_rule(text: str, start: datetime, zone: str) -> tuple[rrule, datetime | None]:
    """The rule as dateutil reads it, and the moment until which it holds, where it names one."""
    parts, until = _split(text), None
    if parts.get("UNTIL", "").endswith("Z"):
        # The RFC's own form for local times of a zone; dateutil takes it only with a start that is no local time. To
        # dateutil a day more: the clocks may change between, and what is too late is left out by its moment.
        until = datetime.strptime(parts["UNTIL"], f"{_UNTIL}Z").replace(tzinfo=UTC)
        local = until.astimezone(find_zone(zone)).replace(tzinfo=None)
        parts["UNTIL"] = f"{local + timedelta(days=1):{_UNTIL}}"
    found = rrulestr(";".join(f"{name}={value}" for name, value in parts.items()), dtstart=start)
    if not isinstance(found, rrule):
        message = "one rule is wanted"
        raise ValueError(message)
    return found, until


def _split(text: str) -> dict[str, str]:
    parts = (part.partition("=") for part in text.upper().removeprefix("RRULE:").split(";"))
    return {name.strip(): value for name, _, value in parts}


def _is_bounded(name: str, value: str) -> bool:
    most = _BOUNDS.get(name) or _SIGNED.get(name)
    if most is None:
        return True
    try:
        numbers = [int(word) for word in value.split(",")]
    except ValueError:
        return False
    return all(1 <= (abs(number) if name in _SIGNED else number) <= most for number in numbers)


def _names_no_day(parts: dict[str, str]) -> bool:
    """Whether month and day contradict each other."""
    if "BYMONTH" not in parts or "BYMONTHDAY" not in parts:
        return False
    months, days = ([int(word) for word in parts[name].split(",")] for name in ("BYMONTH", "BYMONTHDAY"))
    longest = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
    return all(abs(day) > longest.get(month, 31) for month in months for day in days)


__all__ = ["FREQUENCIES", "judge_rule", "list_local", "take_moment"]
