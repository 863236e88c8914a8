"""The one grammar: what is understood, what is complained about and how, and that an echo reads as itself."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forkyard.commands import (
    Amount,
    Approve,
    Card,
    Deny,
    Help,
    Lock,
    Log,
    Plan,
    Scale,
    ScheduleCancel,
    ScheduleList,
    ScheduleMove,
    Status,
    Whoami,
)
from forkyard.grammar import Complaint, parse
from forkyard.moments import When
from forkyard.usages import USAGES

NOW = datetime(2026, 10, 20, 12, 0, tzinfo=UTC)
ZONE = "Europe/Berlin"
SERVICES = ("game", "shop")


def read(text: str, *, now: datetime = NOW, zone: str = ZONE) -> Any:  # noqa: ANN401 - any command, or a complaint
    return parse(text, now, zone, SERVICES)


def complain(text: str, *, zone: str = ZONE) -> Complaint:
    found = read(text, zone=zone)
    assert isinstance(found, Complaint), found
    return found


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("", Card()),
        ("  \u00a0 ", Card()),
        ("help", Help()),
        ("help scale", Help("scale")),
        ("status", Status()),
        ("Status Game", Status("game")),
        ("plan game to 200", Plan("game", Amount(200))),
        ("scale game to 0", Scale("game", Amount(0))),
        ("scale game by +5", Scale("game", Amount(5, relative=True))),
        ("scale game by 5", Scale("game", Amount(5, relative=True))),
        ("scale game up 3", Scale("game", Amount(3, relative=True))),
        ("scale game down 3", Scale("game", Amount(-3, relative=True))),
        ("scale game by \u22122", Scale("game", Amount(-2, relative=True))),
        ("scale game to 4 \u2014dry-run", Scale("game", Amount(4), dry_run=True)),
        ("scale game to 4 dry\u2011run", Scale("game", Amount(4), dry_run=True)),
        (
            "scale game to 4 because \u201cBlack \u2018Friday\u2019\u201d for 90m",
            Scale("game", Amount(4), hold=timedelta(minutes=90), reason="Black 'Friday'"),
        ),
        ("scale <http://game|game> to 4", Scale("game", Amount(4))),
        (
            'scale game to 4 because "see <https://a.example/?x=1&amp;y=2|the page> &lt;now&gt;"',
            Scale("game", Amount(4), reason="see the page <now>"),
        ),
        ("schedule list", ScheduleList()),
        ("schedule list shop", ScheduleList("shop")),
        ("schedule cancel 3FA9C1", ScheduleCancel("3fa9c1")),
        ("approve 3fa9c1", Approve("3fa9c1")),
        ('approve 3fa9c1 break-glass because "nobody is awake"', Approve("3fa9c1", "nobody is awake")),
        ("deny 3fa9c1 because 'it\u2019s late'", Deny("3fa9c1", "it's late")),
        ('lock game because "audit"', Lock("game", "audit")),
        ("log", Log()),
        ("log <@U012AB|bob> since 2h", Log("@U012AB", timedelta(hours=2))),
        ("log game", Log("game")),
        ("whoami", Whoami()),
    ],
)
def test_what_is_typed_is_understood(text: str, command: object) -> None:
    assert read(text) == command


@pytest.mark.parametrize(
    ("text", "moment", "zone"),
    [
        ("2026-11-27T05:00", datetime(2026, 11, 27, 4, 0, tzinfo=UTC), "Europe/Berlin"),
        ("2026-11-27 05:00", datetime(2026, 11, 27, 4, 0, tzinfo=UTC), "Europe/Berlin"),
        ("2026-11-27T05:00 america/new_york", datetime(2026, 11, 27, 10, 0, tzinfo=UTC), "America/New_York"),
        ("2026-11-27T05:00 \u221205:00", datetime(2026, 11, 27, 10, 0, tzinfo=UTC), "-05:00"),
        ("2026-11-27T05:00-05:00", datetime(2026, 11, 27, 10, 0, tzinfo=UTC), "-05:00"),
        ("2026-11-27T05:00Z", datetime(2026, 11, 27, 5, 0, tzinfo=UTC), "Z"),
        ("tomorrow 05:00", datetime(2026, 10, 21, 3, 0, tzinfo=UTC), "Europe/Berlin"),
        ("tomorrow 5:00 Asia/Tokyo", datetime(2026, 10, 20, 20, 0, tzinfo=UTC), "Asia/Tokyo"),
        ("in 45m", datetime(2026, 10, 20, 12, 45, tzinfo=UTC), "Europe/Berlin"),
    ],
)
def test_times_are_of_their_zone_or_the_callers(text: str, moment: datetime, zone: str) -> None:
    assert read(f"scale game to 4 at {text} for 2h") == Scale(
        "game", Amount(4), at=When(moment, zone), hold=timedelta(hours=2)
    )
    assert read(f"schedule move black-friday to {text}") == ScheduleMove("black-friday", When(moment, zone))


def test_in_needs_no_at() -> None:
    assert read("scale game to 4 in 45m") == read("scale game to 4 at in 45m")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2027-03-28T02:30", "does not exist in Europe/Berlin: the clocks are put forward over it. Take 03:30"),
        ("2026-10-20T13:59", "is past"),
        ("2036-11-27T05:00", "Is the year right?"),
        ("2026-02-30T05:00", "there is no such day"),
        ("tomorrow 25:00", "no time of day"),
        ("2026-11-27T05:00 new_yrok", "Did you mean America/New_York?"),
        ("2026-11-27T05:00 +25:00", "no clock is so far"),
        ("2026-11-27T05:00Z Europe/Berlin", "two zones"),
        ("noon", "is no time. Write it as 2026-11-27T05:00"),
        ("", "is no time"),
        ("in 5 minutes", "is no time"),
        ("in 0m", "too short"),
        ("in 31d", "too long"),
        ("0001-01-01T00:00 +14:00", "no date of this age"),
    ],
)
def test_a_time_that_cannot_be_is_refused_with_what_would_be_right(text: str, says: str) -> None:
    assert says in complain(f"scale game to 4 at {text}").text


def test_a_time_that_comes_twice_is_asked_about_with_both_as_whole_commands() -> None:
    asked = complain('scale game to 4 at 2026-10-25T02:30 for 2h because "x"')
    assert "comes twice in Europe/Berlin" in asked.text
    assert asked.choices == (
        'scale game to 4 at 2026-10-25T02:30 +02:00 for 2h because "x"',
        'scale game to 4 at 2026-10-25T02:30 +01:00 for 2h because "x"',
    )
    first, second = (read(choice).at.moment for choice in asked.choices)
    assert second - first == timedelta(hours=1)
    assert len(complain("schedule move abc to 2026-10-25T02:30").choices) == 2


def test_a_duration_that_ends_in_a_repeated_hour_is_written_so_that_it_is_one_moment() -> None:
    now = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)
    for text in ("in 30m", "in 90m"):
        command = read(f"scale game to 4 {text}", now=now)
        assert parse(str(command), now, ZONE, SERVICES) == command


@pytest.mark.parametrize(
    ("text", "says", "meant"),
    [
        ("scael game to 4", "there is no such command", "scale game to 4"),
        ("scale gaem to 4", "no service is called so. There are: game, shop", "scale game to 4"),
        ("scael gaem to 4", "Taken for `scale`", "scale game to 4"),
        ("scale game 4", "say `to`", "scale game to 4"),
        ("scale game to 4 becuase 'x'", "becuase: is not understood", 'scale game to 4 because "x"'),
        ("help scael", "no such command", "help scale"),
        ("schedule lst", "list, cancel or move", "schedule list"),
        ("dance", "There are: status, plan, scale", None),
        ("scale", "service is missing", None),
        ("scale game", "`to` and a number is missing", None),
        ("scale game to", "the number is missing", None),
        ("scale game to many", "is no number of servers", None),
        ("scale game to \u0664", "is no number of servers", None),
        ("scale game to 9999999", "at most 100000", None),
        ("scale game to -4", "is no number of servers", None),
        ("scale game by 0", "changes nothing", None),
        ("scale game to 4 to 5", "is not understood here", None),
        ("scale game to 4 dry-run dry-run", "twice", None),
        ("scale game to 4 because Black Friday dry-run", 'because "Black Friday dry-run"', None),
        ('scale game to 4 because ""', "reason is empty", None),
        ('scale game to 4 because "x', "has no end", None),
        (f'scale game to 4 because "{"x" * 501}"', "at most 500", None),
        ("x" * 3001, "at most 3000", None),
        ("scale game;rm to 4", "is no service", None),
        ("deny 3fa9c1", "A reason is wanted", None),
        ("approve", "ID is missing", None),
        ("approve ../../etc", "is no ID", None),
        ("whoami now", "is not understood after", None),
        ('"scale" game to 4', "there is no such command", None),
    ],
)
def test_a_complaint_says_what_would_be_right(text: str, says: str, meant: str | None) -> None:
    found = complain(text)
    assert says in str(found)
    assert found.meant == meant


def test_a_complaint_keeps_what_was_understood_for_a_form() -> None:
    found = complain('scale game to 4 because "sale" at noon')
    assert found.draft == {"service": "game", "number": "to 4", "reason": "sale", "at": "noon"}
    assert found.usage.startswith("scale SERVICE to N")


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        (
            'scale gmae to 4 at tomorrow 05:00 Z for 2h because "sale"',
            {"service": "game", "number": "to 4", "at": "2026-10-21T05:00 Z", "hold": "2h", "reason": "sale"},
        ),
        (
            'scale gmae to 4 at noon for 2h because "sale"',
            {"service": "game", "number": "to 4", "at": "noon", "hold": "2h", "reason": "sale"},
        ),
        (
            'scale game to many in 45m for 2h because "sale"',
            {"service": "game", "number": "to many", "at": "in 45m", "hold": "2h", "reason": "sale"},
        ),
        ("scale game to 4 for ever", {"service": "game", "number": "to 4", "hold": "ever"}),
        ("scale game to 4 at 2026-10-25T02:30 for 2h", {"service": "game", "number": "to 4", "at": "2026-10-25T02:30"}),
        ("scale nothing-like-it to 4", {"number": "to 4"}),
        ("lock game", {"service": "game"}),
    ],
)
def test_a_mistake_in_one_word_costs_the_form_no_other_field(text: str, draft: dict[str, str]) -> None:
    found = complain(text).draft
    assert {key: found.get(key) for key in draft} == draft


@pytest.mark.parametrize("verb", USAGES)
def test_every_example_that_help_shows_is_understood(verb: str) -> None:
    for text in USAGES[verb].examples:
        assert not isinstance(read(text), Complaint)


def test_what_only_hides_is_taken_out() -> None:
    assert read("sc\u200bale ga\u202eme to 4\u2066") == Scale("game", Amount(4))
    assert read('scale game to 4 because "a\x00b\nc \u202eevil"').reason == "ab c evil"


PIECES = st.sampled_from(
    [
        *USAGES,
        *("game", "shop", "to", "by", "up", "at", "in", "for", "because", "since", "dry-run", "break-glass", "list"),
        *("move", "4", "+5", "-3", "45m", "2h", "3fa9c1", "tomorrow", "05:00", "02:30", "2026-10-25T02:30", "Z"),
        *("2027-03-28T02:30", "2026-11-27T05:00", "Europe/Berlin", "+02:00", "@U1", '"a reason"', "'b'", '"', "\\"),
        *("\u201c", "\u2014dry-run", "<@U1|x>", "<http://a|b>", "&amp;lt;", "\u202e", "<", ">", "|", "&gt;"),
    ]
)
TYPED = st.one_of(
    st.text(max_size=80),
    st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=14).map(" ".join),
    st.lists(PIECES, max_size=8).map("".join),
)


@settings(max_examples=600, deadline=None)
@given(TYPED)
@example('scale game to 4 because "<http://<http://a|b>|c>"')
@example('scale game to 4 because "&amp;amp;lt;@U1&gt; \\\\\\" x"')
def test_whatever_is_typed_is_read_or_complained_about_and_every_echo_reads_as_itself(text: str) -> None:
    found = read(text)
    echoes = [*found.choices, *([found.meant] if found.meant else [])] if isinstance(found, Complaint) else [str(found)]
    for echo in echoes:
        again = read(echo)
        assert not isinstance(again, Complaint), (text, echo, again)
        assert str(again) == echo
    if not isinstance(found, Complaint):
        assert read(str(found)) == found


@settings(max_examples=300, deadline=None)
@given(
    st.text(min_size=1, max_size=60),
    st.integers(-20, 400),
    st.datetimes(datetime(2026, 10, 20, 13), datetime(2027, 11, 1)),  # noqa: DTZ001 - hypothesis wants naive bounds
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Z", "+05:45", "Africa/Casablanca"]),
)
def test_a_scale_with_everything_never_means_another_one_than_it_says(
    reason: str, number: int, moment: datetime, zone: str
) -> None:
    quoted = reason.replace("\\", "\\\\").replace('"', '\\"')
    change = f"by {number:+d}" if number < 0 else f"to {number}"
    found = read(f'scale game {change} at {moment:%Y-%m-%dT%H:%M} {zone} because "{quoted}" dry-run')
    for text in found.choices if isinstance(found, Complaint) else [str(found)]:
        command = read(text)
        assert read(str(command)) == command
        assert command.amount.number == number
        assert command.at.local.strftime("%Y-%m-%dT%H:%M") == f"{moment:%Y-%m-%dT%H:%M}"
        assert command.dry_run
