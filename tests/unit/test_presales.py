"""The pre-sale calendar: what follows from it, around changes of the clocks, and what is said of a broken one."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import process_time

import pytest

from forkyard.errors import InvalidRequest
from forkyard.estimates import Lead, Run, estimate_seconds, find_lead
from forkyard.presales import Calendar, list_occurrences, parse_calendar, plan_steps
from forkyard.presales import find_lead as choose_lead
from forkyard.settings import ServiceSettings

NOW = datetime(2026, 10, 20, 12, 0, tzinfo=UTC)
SERVICES = {"game": ServiceSettings(maximum=300), "shop": ServiceSettings(maximum=300)}
NO_LEAD: dict[str, timedelta] = {}
DEPLOYED = Path(__file__).resolve().parents[2] / "deployments" / "presales.toml"

SALE = """
[services.game]
base = 2

[events.sale]
service = "game"
start = "2026-11-27T05:00"
zone = "America/New_York"
target = 200
hold = "6h"
"""


def read(text: str, *, now: datetime = NOW, new: bool = False) -> Calendar:
    return parse_calendar(text, SERVICES, now=now, new=new)


def refusal(text: str, *, new: bool = True) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(text, new=new)
    return str(caught.value)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


def event(**fields: str) -> str:
    given = {"service": '"game"', "start": '"2026-11-27T05:00"', "zone": '"Europe/Berlin"', "target": "9"}
    given |= {"hold": '"1h"'} if "end" not in fields else {}
    return "\n".join(["[events.sale]", *(f"{key} = {value}" for key, value in (given | fields).items())])


def starts(text: str, days: int = 30, *, now: datetime = NOW) -> list[datetime]:
    return [found.start for found in list_occurrences(read(text, now=now), now, now + timedelta(days=days))]


def test_an_event_becomes_its_start_with_a_lead_and_its_end() -> None:
    calendar = read(SALE)
    (sale,) = list_occurrences(calendar, NOW, NOW + timedelta(days=60))
    steps = plan_steps(calendar, sale, {"sale": timedelta(minutes=6)})
    assert [(step.at, step.number) for step in steps] == [
        (utc(2026, 11, 27, 9, 54), 200),
        (utc(2026, 11, 27, 16, 0), 2),
    ]
    assert sale.key == "sale@20261127T100000Z"


def test_an_event_whose_lead_is_longer_than_a_week_begins_with_its_target() -> None:
    calendar = read(SALE)
    (sale,) = list_occurrences(calendar, NOW, NOW + timedelta(days=60))
    steps = plan_steps(calendar, sale, {"sale": timedelta(days=30)})
    assert [(step.at, step.number) for step in steps] == [
        (utc(2026, 10, 28, 10, 0), 200),
        (utc(2026, 11, 27, 16, 0), 2),
    ]


def test_a_ramp_goes_up_in_steps() -> None:
    calendar = read(SALE + 'ramp = [{ before = "1h", to = 20 }, { before = "2h", to = 5 }]\n')
    (sale,) = list_occurrences(calendar, NOW, NOW + timedelta(days=60))
    steps = plan_steps(calendar, sale, {"sale": timedelta(minutes=10)})
    assert [(step.at.hour, step.at.minute, step.number) for step in steps] == [
        (8, 0, 5),
        (9, 0, 20),
        (9, 50, 200),
        (16, 0, 2),
    ]


def test_at_the_end_the_fleet_goes_to_what_the_calendar_wants_then() -> None:
    other = (
        '[events.other]\nservice = "game"\nstart = "2026-11-27T15:00Z"\ntarget = 50\nhold = "3h"\noverlap = "highest"\n'
    )
    calendar = read(SALE + 'overlap = "highest"\n' + other)
    sale, second = list_occurrences(calendar, NOW, NOW + timedelta(days=60))
    assert [step.number for step in plan_steps(calendar, sale, NO_LEAD)] == [200, 50]
    assert [step.number for step in plan_steps(calendar, second, NO_LEAD)] == [200, 2]


def test_a_weekly_event_keeps_its_local_time_across_the_clocks_change() -> None:
    weekly = event(start='"2026-10-18T20:00"', repeat='"FREQ=WEEKLY;BYDAY=SU"')
    assert starts(weekly, 14) == [utc(2026, 10, 25, 19, 0), utc(2026, 11, 1, 19, 0)]
    assert starts(weekly, 7, now=utc(2026, 10, 17))[0] == utc(2026, 10, 18, 18, 0)


@pytest.mark.parametrize(
    ("zone", "start", "day", "expected"),
    [
        # Berlin goes forward at 02:00 on 2027-03-28: 02:30 does not exist, 03:00 is the first moment after.
        ("Europe/Berlin", "2027-03-20T02:30", utc(2027, 3, 27, 12), utc(2027, 3, 28, 1, 0)),
        ("Europe/Berlin", "2027-03-20T03:00", utc(2027, 3, 27, 12), utc(2027, 3, 28, 1, 0)),
        # It goes back at 03:00 on 2026-10-25: 02:30 comes twice, the first one counts.
        ("Europe/Berlin", "2026-10-20T02:30", utc(2026, 10, 24, 12), utc(2026, 10, 25, 0, 30)),
        # New York: forward on 2027-03-14, back on 2026-11-01.
        ("America/New_York", "2027-03-10T02:30", utc(2027, 3, 13, 12), utc(2027, 3, 14, 7, 0)),
        ("America/New_York", "2026-10-25T01:30", utc(2026, 10, 31, 12), utc(2026, 11, 1, 5, 30)),
        # Half an hour only.
        ("Australia/Lord_Howe", "2026-10-01T02:10", utc(2026, 10, 3, 2), utc(2026, 10, 3, 15, 30)),
    ],
)
def test_a_daily_event_on_the_day_of_the_change_fires_once_at_a_moment_that_exists(
    zone: str, start: str, day: datetime, expected: datetime
) -> None:
    text = event(start=f'"{start}"', zone=f'"{zone}"', repeat='"FREQ=DAILY"')
    found = [moment for moment in starts(text, 2, now=day) if moment > day]
    assert found[0] == expected
    assert timedelta(hours=22) < found[1] - found[0] <= timedelta(hours=25)


def test_a_day_can_be_skipped() -> None:
    text = event(start='"2026-12-18T20:00"', repeat='"FREQ=WEEKLY;BYDAY=FR;COUNT=3"', skip='["2026-12-25"]')
    assert [moment.day for moment in starts(text, 90)] == [18, 1]


def test_an_event_over_a_change_of_the_clocks_ends_at_its_local_time() -> None:
    night = event(start='"2027-03-27T22:00"', end='"2027-03-28T06:00"')
    (found,) = list_occurrences(read(night), NOW, NOW + timedelta(days=200))
    assert (found.start, found.end) == (utc(2027, 3, 27, 21, 0), utc(2027, 3, 28, 4, 0))


def test_an_offset_says_which_of_the_two_hours() -> None:
    assert starts(event(start='"2026-10-25T02:30+02:00"')) == [utc(2026, 10, 25, 0, 30)]
    assert starts(event(start='"2026-10-25T02:30+01:00"')) == [utc(2026, 10, 25, 1, 30)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[events.sale\n", "presales.toml: line 1: this is not TOML"),
        (event(taget="3"), "line 7: events.sale.taget: no such key. Did you mean `target`?"),
        (
            event(service='"gmae"'),
            "line 2: events.sale.service: no service is called gmae in forkyard.toml. There are: game",
        ),
        (event(target="301"), "line 5: events.sale.target = 301: game may have 0 to 300"),
        (event(start='"noon"'), "line 3: events.sale.start: noon: is no time. Write it as 2026-11-27T05:00"),
        (
            event(zone='"Europe/Berln"'),
            "line 4: events.sale.zone: Europe/Berln: is no time zone. Did you mean Europe/Berlin?",
        ),
        (event(start='"2027-03-28T02:30"'), "does not exist in Europe/Berlin"),
        (event(start='"2026-10-25T02:30"'), "comes twice in Europe/Berlin"),
        (event(start='"2026-10-01T05:00"'), 'line 3: events.sale.start = "2026-10-01T05:00": is past'),
        (event(end='"2026-11-27T04:00"'), 'line 6: events.sale.end = "2026-11-27T04:00": is not after the start'),
        (event(end='"2026-11-27T05:00"'), "is not after the start"),
        (event(end='"2026-11-27T09:00"', hold='"1h"'), "says when it ends by one of"),
        (event(lead='"soon"'), "events.sale.lead: soon: is no duration"),
        (event(ramp='[{ before = "1h", to = 10 }]'), "above the target of 9"),
        (event(repeat='"FREQ=SECONDLY"'), "FREQ is one of DAILY, WEEKLY"),
        (event(repeat='"every friday"'), "FREQ is one of DAILY"),
        (event(repeat='"FREQ=WEEKLY;BYDAY=XX"'), "is no RRULE"),
        (
            event(repeat='"FREQ=DAILY;INTERVAL=0"'),
            'line 7: events.sale.repeat = "FREQ=DAILY;INTERVAL=0": INTERVAL=0: take 1 to 999.',
        ),
        (event(repeat='"FREQ=DAILY;INTERVAL=-1"'), "INTERVAL=-1: take 1 to 999."),
        (event(repeat='"FREQ=DAILY;COUNT=0"'), "COUNT=0: take 1 to 99999."),
        (event(repeat='"FREQ=DAILY;BYMONTHDAY=32"'), "BYMONTHDAY=32: take 1 to 31, or from -1 down."),
        (event(repeat='"FREQ=DAILY;BYMONTH=2;BYMONTHDAY=-30"'), "never fires"),
        (event(repeat='"FREQ=DAILY;UNTIL=2026-12-31Z"'), "is no RRULE"),
        (event(repeat='"FREQ=DAILY;BYMONTH=2,4;BYMONTHDAY=31"'), "never fires"),
        (event(start='"2025-11-27T05:00"', repeat='"FREQ=DAILY;COUNT=3"'), "does not fire within 400 days"),
        (event(skip='["christmas"]'), '"christmas" is no day'),
        (event(overlap='"lowest"'), "one of refuse, highest is wanted"),
        (event(repeat='"FREQ=DAILY"', hold='"25h"'), "overlaps itself"),
        (
            SALE + '[events.other]\nservice = "game"\nstart = "2026-11-27T15:59Z"\ntarget = 5\nhold = "3h"\n',
            "overlaps other",
        ),
    ],
)
def test_a_broken_calendar_is_told_by_line_and_key(text: str, says: str) -> None:
    assert says in refusal(text)


def test_a_calendar_of_many_events_is_judged_in_no_time() -> None:
    sales = [
        event(start=f'"2026-10-20T{2 * hour:02}:00"', repeat='"FREQ=DAILY"').replace("sale", f"sale-{hour}")
        for hour in range(12)
    ]
    before = process_time()
    assert len(read("\n".join(sales)).events) == 12
    assert process_time() - before < 1


def test_events_that_touch_or_want_other_services_do_not_overlap() -> None:
    read(SALE + '[events.other]\nservice = "game"\nstart = "2026-11-27T16:00Z"\ntarget = 5\nhold = "3h"\n')
    read(SALE + '[events.other]\nservice = "shop"\nstart = "2026-11-27T12:00Z"\ntarget = 5\nhold = "3h"\n')


def test_an_event_that_is_over_breaks_no_calendar_that_was_right() -> None:
    assert read(event(start='"2026-10-01T05:00"')).events


def test_a_series_that_is_over_breaks_no_calendar_that_was_right() -> None:
    assert read(event(start='"2025-11-27T05:00"', repeat='"FREQ=DAILY;COUNT=3"')).events
    with pytest.raises(InvalidRequest, match="does not fire"):
        read(event(start='"2025-11-27T05:00"', repeat='"FREQ=YEARLY;BYSETPOS=2"'))


def test_all_problems_are_told_at_once() -> None:
    both = event(target="999", ramp='[{ before = "1s", to = 1 }]') + "\n[services.none]\nbase = 1\n"
    assert "problems" in refusal(both) or "at least 60" in refusal(both)


def test_the_deployments_calendar_is_right() -> None:
    text = DEPLOYED.read_text()
    assert read(text).services["game"].base == 0
    example = text[text.index("[services") :].replace("\n# ", "\n").replace("\n#", "\n")
    assert set(read(example, new=True).events) == {"black-friday", "friday-raid"}


def test_the_lead_comes_from_the_last_runs_and_says_so() -> None:
    assert find_lead([Run(200, 94.0)], 200) == Lead(
        timedelta(minutes=6), "200 children took 94 s; starting 6 min before"
    )
    assert "no run tells yet" in find_lead([], 200).why
    assert estimate_seconds([Run(100, 50.0), Run(200, 80.0)], 200) == 100.0
    assert estimate_seconds([Run(200, 80.0)], 10) == 80.0


def test_a_lead_of_the_events_own_counts() -> None:
    own = read(event(lead='"10m"')).events["sale"]
    assert choose_lead(own, Lead(timedelta(minutes=6), "")).length == timedelta(minutes=10)
