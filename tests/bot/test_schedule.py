"""What the channel is told of the pre-sale calendar, by a driven clock: announced, checked, missed, broken."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot.checks import read_secrets
from bot.memory import open_memory
from bot.schedule import Schedule
from bot.slack_api import make_client
from forkyard.requests import Request
from forkyard.requests.calendar import tick
from forkyard.requests.calendar_file import CalendarFile
from forkyard.requests.desk import Desk
from forkyard.requests.looking import plan_now
from forkyard.requests.plans import PlanRecord
from forkyard.roles import Person
from forkyard.settings import RequestSettings, Settings
from lab.slack.state import GROUPS
from tests.bot.conftest import Stage, text_of
from tests.support.slack import BEN

NOW = datetime.now(UTC).replace(microsecond=0)
START = NOW + timedelta(hours=30)

_SALE = """
[services.game]
base = 0
[events.launch]
service = "game"
start = "{start:%Y-%m-%dT%H:%M:%S}"
zone = "Z"
target = 4
lead = "1m"
hold = "2h"
"""


@dataclass
class Hall:
    """The calendar's part of the bot, and the clock on the wall."""

    stage: Stage
    schedule: Schedule
    desk: Desk
    path: Path
    now: datetime = NOW

    def look(self, now: datetime) -> list[str]:
        """Let the calendar be looked at; what the channel is told then."""
        before = len(self.stage.slack.messages())
        self.now = now
        self.schedule.look()
        return [text_of(message["text"]) for message in self.stage.slack.messages()[before:]]


@pytest.fixture
def hall(quiet_stage: Stage, tmp_path: Path) -> Iterator[Hall]:
    stage, path = quiet_stage, tmp_path / "presales.toml"
    stage.settings = replace(stage.settings, requests=RequestSettings(calendar=path))

    def look(settings: Settings, request: Request) -> PlanRecord:
        return plan_now(settings, request, opening=stage.open_world)

    desk = Desk(stage.store, stage.load, look)
    secrets = read_secrets(stage.settings.chatops)
    client = make_client(secrets.bot_token, stage.settings.chatops.api_url)
    with ExitStack() as stack:
        memory = stack.enter_context(open_memory(stage.settings))
        schedule = Schedule(stage.load, None, desk, client, memory, clock=lambda: made.now)
        made = Hall(stage, schedule, desk, path)
        yield made


def test_a_sale_is_announced_once_then_checked_a_day_and_ten_minutes_before(hall: Hall) -> None:
    hall.path.write_text(_SALE.format(start=START))
    (announced,) = hall.look(NOW)
    assert "launch: game to 4 at" in announced
    assert "Approve it: approve" in announced
    assert hall.look(NOW + timedelta(minutes=1)) == []

    (row,) = hall.stage.store.list_requests()
    hall.desk.approve(Person(BEN, frozenset(GROUPS)), row.token)
    begins = START - timedelta(minutes=1)
    (day,) = hall.look(begins - timedelta(hours=24))
    assert f"game to 4 in 24 h ({row.token}): 4 to fork, room for" in day
    assert f"approved by <@{BEN}>" in day
    (minutes,) = hall.look(begins - timedelta(minutes=10))
    assert f"game to 4 in 10 min ({row.token})" in minutes
    assert hall.look(begins - timedelta(minutes=9)) == []


def test_a_sale_that_nobody_approved_is_asked_for_again_before_it(hall: Hall) -> None:
    hall.path.write_text(_SALE.format(start=START))
    hall.look(NOW)

    (minutes,) = hall.look(START - timedelta(minutes=11))

    (row,) = hall.stage.store.list_requests()
    assert "nobody has approved it yet" in minutes
    assert minutes.endswith(f"approve {row.token}")


def test_a_missed_start_is_asked_about_and_nothing_runs(hall: Hall) -> None:
    hall.path.write_text(_SALE.format(start=START))

    (asked,) = hall.look(START + timedelta(minutes=20))

    (row,) = hall.stage.store.list_requests()
    assert "was missed" in asked
    assert f"Approve {row.token} to have 4 now, or cancel it." in asked
    assert hall.desk.due() == []


def test_a_broken_calendar_is_told_once_by_its_line_and_its_end_is_noticed(hall: Hall) -> None:
    hall.path.write_text(_SALE.format(start=START).replace("target = 4", "target = -4"))
    (told,) = hall.look(NOW)
    assert "line 8: events.launch.target" in told
    assert hall.look(NOW + timedelta(minutes=1)) == []

    hall.path.write_text(_SALE.format(start=START))
    (announced,) = hall.look(NOW + timedelta(minutes=2))
    assert "launch: game to 4" in announced


def test_an_event_taken_out_of_the_calendar_is_cancelled_and_the_channel_told(hall: Hall) -> None:
    hall.path.write_text(_SALE.format(start=START))
    hall.look(NOW)
    hall.path.write_text("[services.game]\nbase = 0\n")

    (told,) = hall.look(NOW + timedelta(minutes=5))

    (row,) = hall.stage.store.list_requests()
    assert f"{row.token} is cancelled" in told
    assert row.state.value == "cancelled"


def test_what_the_channel_could_not_be_told_is_told_when_slack_is_back(hall: Hall) -> None:
    hall.path.write_text(_SALE.format(start=START))
    hall.stage.slack.faults(down=30)
    assert hall.look(NOW) == []
    hall.stage.slack.faults(down=0)

    (announced,) = hall.look(NOW + timedelta(minutes=1))

    assert "launch: game to 4 at" in announced
    assert hall.look(NOW + timedelta(minutes=2)) == []


def test_what_the_command_line_found_is_told_in_the_channel(hall: Hall) -> None:
    hall.path.write_text(_SALE.format(start=START))
    calendar = CalendarFile(None).load(hall.stage.store, hall.stage.settings, now=NOW)
    (found,) = tick(hall.desk, hall.stage.settings, calendar, now=NOW)

    (told,) = hall.look(NOW + timedelta(minutes=1))

    assert found.request.token in told


def test_a_broken_calendar_keeps_no_start_from_being_checked(hall: Hall) -> None:
    hall.path.write_text(_SALE.format(start=START))
    hall.look(NOW)
    hall.path.write_text("[events")

    complaint, checked = hall.look(START - timedelta(minutes=11))

    assert "this is not TOML" in complaint
    assert "game to 4 in 10 min" in checked


def test_a_calendar_that_is_away_for_a_moment_calls_nothing_off(hall: Hall) -> None:
    hall.path.write_text(_SALE.format(start=START))
    hall.look(NOW)
    away = hall.path.rename(hall.path.with_name("away.toml"))
    (told,) = hall.look(NOW + timedelta(seconds=30))
    assert "is gone, but requests that came from it are open" in told
    assert hall.look(NOW + timedelta(seconds=60)) == []

    away.rename(hall.path)

    assert hall.look(NOW + timedelta(seconds=90)) == []
    (row,) = hall.stage.store.list_requests()
    assert row.state.value == "awaiting approval"
