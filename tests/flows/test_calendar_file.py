"""presales.toml on disk: where it is found, when it is read again, and what a file that is away calls off: nothing."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forkyard.errors import InvalidRequest
from forkyard.presales import Calendar
from forkyard.requests import Request
from forkyard.requests.calendar import tick
from forkyard.requests.calendar_file import CalendarFile
from forkyard.settings import RequestSettings
from tests.flows.office import Office, furnished

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

SALE = """
[events.sale]
service = "game"
start = "2026-11-21T18:00"
target = 6
hold = "2h"
"""


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path) as made:
        made.clock.hands = NOW
        yield made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "presales.toml"


@pytest.fixture
def file(path: Path) -> CalendarFile:
    return CalendarFile(path.with_name("forkyard.toml"))


def load(office: Office, file: CalendarFile, *, now: datetime = NOW) -> Calendar:
    return file.load(office.store, office.settings, now=now)


def asked(office: Office, file: CalendarFile, path: Path) -> Request:
    """What waits for approval because the calendar wants it."""
    path.write_text(SALE)
    (told,) = tick(office.desk, office.settings, load(office, file), now=NOW)
    return told.request


def test_it_is_found_beside_the_settings_or_where_they_say(office: Office, file: CalendarFile, path: Path) -> None:
    assert load(office, file) == Calendar()
    path.write_text("[services.game]\nbase = 3\n")
    assert load(office, file).services["game"].base == 3
    elsewhere = path.with_name("elsewhere.toml")
    elsewhere.write_text("[services.game]\nbase = 4\n")
    office.settings = replace(office.settings, requests=RequestSettings(calendar=elsewhere))
    assert load(office, file).services["game"].base == 4


def test_one_that_is_gone_while_its_requests_are_open_is_no_empty_one(
    office: Office, file: CalendarFile, path: Path
) -> None:
    request = asked(office, file, path)
    path.unlink()
    with pytest.raises(InvalidRequest, match=f"is gone, but .* such as {request.token}: they stay as they are"):
        load(office, file)
    path.write_text("# There will be no sale.\n")
    assert load(office, file) == Calendar()


def test_one_that_is_just_being_written_is_no_empty_one(office: Office, file: CalendarFile, path: Path) -> None:
    asked(office, file, path)
    path.write_text("")
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="is empty, but requests that came from it are open"):
            load(office, file)
    path.write_text(SALE)
    assert set(load(office, file).events) == {"sale"}


def test_an_empty_one_that_nothing_came_from_is_empty(office: Office, file: CalendarFile, path: Path) -> None:
    path.write_text("")
    assert load(office, file) == Calendar()


def test_one_that_the_settings_name_must_be_there(office: Office, file: CalendarFile, path: Path) -> None:
    office.settings = replace(office.settings, requests=RequestSettings(calendar=path))
    with pytest.raises(InvalidRequest, match=r"is gone, but requests\.calendar in forkyard\.toml names it"):
        load(office, file)


def test_it_is_not_read_again_while_it_is_the_same(office: Office, file: CalendarFile, path: Path) -> None:
    path.write_text(SALE)
    first = load(office, file)
    assert load(office, file, now=NOW + timedelta(hours=1)) is first
    # Of the same size, but another file.
    path.with_name("new.toml").write_text(SALE.replace("target = 6", "target = 7"))
    path.with_name("new.toml").replace(path)
    assert load(office, file).events["sale"].target == 7


def test_a_broken_one_is_broken_until_it_is_mended(office: Office, file: CalendarFile, path: Path) -> None:
    path.write_text(SALE.replace("target = 6", "target = -6"))
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=r"line 5: events\.sale\.target"):
            load(office, file)
    path.write_text(SALE)
    assert load(office, file).events["sale"].target == 6


def test_it_is_judged_again_when_the_services_or_the_day_are_others(
    office: Office, file: CalendarFile, path: Path
) -> None:
    path.write_text(SALE)
    first = load(office, file)
    assert load(office, file, now=NOW + timedelta(days=1)) is not first
    game = replace(office.settings.services["game"], maximum=5)
    office.settings = replace(office.settings, services={"game": game})
    with pytest.raises(InvalidRequest, match="game may have"):
        load(office, file, now=NOW + timedelta(days=1))
