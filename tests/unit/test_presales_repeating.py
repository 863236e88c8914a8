"""Events that repeat: when each of them begins and ends, in the nights of the clocks' change above all."""

from datetime import UTC, datetime, timedelta

import pytest

from forkyard.errors import InvalidRequest
from forkyard.presales import list_occurrences, parse_calendar
from forkyard.settings import ServiceSettings

SERVICES = {"game": ServiceSettings(maximum=300)}


def spans(
    start: str, *, zone: str = "Europe/Berlin", repeat: str = "FREQ=DAILY", days: int = 3, **end: str
) -> list[tuple[str, str]]:
    """The first occurrences' starts and ends, in UTC."""
    (key, value), *_ = end.items()
    text = f"""
    [events.sale]
    service = "game"
    start = "{start}"
    zone = "{zone}"
    target = 9
    {key} = "{value}"
    repeat = "{repeat}"
    """
    since = datetime.fromisoformat(start[:16]).replace(tzinfo=UTC) - timedelta(days=1)
    found = list_occurrences(parse_calendar(text, SERVICES, now=since), since, since + timedelta(days=days))
    return [(f"{one.start:%d %H:%M}", f"{one.end:%d %H:%M}") for one in found]


def test_the_end_keeps_its_local_time_when_the_first_night_is_that_of_the_change() -> None:
    # The first night is an hour shorter, and no other is.
    assert spans("2026-03-28T22:00", end="2026-03-29T06:00") == [
        ("28 21:00", "29 04:00"),
        ("29 20:00", "30 04:00"),
        ("30 20:00", "31 04:00"),
    ]


def test_the_end_keeps_its_local_time_over_a_later_change() -> None:
    assert spans("2026-10-23T22:00", end="2026-10-24T06:00", days=4) == [
        ("23 20:00", "24 04:00"),
        ("24 20:00", "25 05:00"),
        ("25 21:00", "26 05:00"),
        ("26 21:00", "27 05:00"),
    ]


def test_a_hold_is_as_long_in_the_night_of_the_change() -> None:
    assert spans("2026-10-23T22:00", hold="8h") == [
        ("23 20:00", "24 04:00"),
        ("24 20:00", "25 04:00"),
        ("25 21:00", "26 05:00"),
    ]


@pytest.mark.parametrize(
    ("zone", "start", "end", "night"),
    [
        # Forward from 02:00 to 03:00: 02:30 does not exist, and 03:00 is the first moment after.
        ("Europe/Berlin", "2026-03-27T22:00", "2026-03-28T02:30", ("28 21:00", "29 01:00")),
        ("America/New_York", "2026-03-06T22:00", "2026-03-07T02:30", ("08 03:00", "08 07:00")),
        # Back from 03:00 to 02:00: 02:30 comes twice, and the first one counts.
        ("Europe/Berlin", "2026-10-23T22:00", "2026-10-24T02:30", ("24 20:00", "25 00:30")),
        ("America/New_York", "2026-10-30T22:00", "2026-10-31T01:30", ("01 02:00", "01 05:30")),
    ],
)
def test_a_local_end_that_comes_twice_or_not_at_all_is_taken_as_a_start_is(
    zone: str, start: str, end: str, night: tuple[str, str]
) -> None:
    assert night in spans(start, zone=zone, end=end)


def test_one_that_lies_wholly_in_the_hour_that_is_left_out_does_not_take_place() -> None:
    assert spans("2026-03-28T02:10", end="2026-03-28T02:40", days=4) == [
        ("28 01:10", "28 01:40"),
        ("30 00:10", "30 00:40"),
        ("31 00:10", "31 00:40"),
    ]


def test_an_end_that_is_after_the_start_in_the_first_night_only_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"events\.sale\.end = .* is not after the start"):
        spans("2026-10-25T02:50+02:00", end="2026-10-25T02:10+01:00")


@pytest.mark.parametrize(
    ("until", "nights"),
    [
        ("20261025T003000Z", 3),
        ("20261025T002959Z", 2),
        # The second 02:30 of that night, by the clocks the same.
        ("20261025T013000Z", 3),
        ("20261025T023000", 3),
    ],
)
def test_a_series_ends_at_a_moment_in_utc_or_at_a_local_time(until: str, nights: int) -> None:
    found = spans("2026-10-23T02:30", hold="1h", repeat=f"FREQ=DAILY;UNTIL={until}", days=9)
    assert found == [("23 00:30", "23 01:30"), ("24 00:30", "24 01:30"), ("25 00:30", "25 01:30")][:nights]


def test_a_zone_is_found_however_it_is_written() -> None:
    assert spans("2026-11-20T20:00", zone="europe/berlin", hold="1h", days=1) == [("20 19:00", "20 20:00")]
