"""One bot at a time: the second one is refused, and a lock that a database lost is taken again or left to another."""

from pathlib import Path

import pytest

from bot.checks import read_secrets
from bot.run import running_bot
from bot.sole import GONE, only_bot
from forkyard.errors import LeaseHeld, NotPermitted, Unavailable
from forkyard.settings import RequestSettings, Settings
from forkyard.waiting import patiently
from tests.bot.conftest import Stage
from tests.support.postgres import Postgres, running_postgres


def test_a_second_bot_is_refused_and_told_which_one_is_at_work(stage: Stage) -> None:
    second = running_bot(stage.load, read_secrets(stage.settings.chatops), opening=stage.open_world)
    with pytest.raises(NotPermitted, match=r"another bot is at work on .*pid \d+ on .*\. End that one first"), second:
        pytest.fail("two bots at once")


def at(server_url: str, folder: Path) -> Settings:
    return Settings(state_dir=folder, requests=RequestSettings(url=server_url))


def end_sessions(server: Postgres) -> None:
    with server.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'forkyard bot%'"
        )


def test_two_machines_on_one_database_have_one_bot(tmp_path: Path) -> None:
    with running_postgres() as server:
        url = server.make_database()
        with only_bot(at(url, tmp_path / "a")) as insist:
            insist()
            with (
                pytest.raises(NotPermitted, match=r"on the requests' database: forkyard bot, pid \d+ on "),
                only_bot(at(url, tmp_path / "b")),
            ):
                pytest.fail("two bots at once")
            end_sessions(server)
            with pytest.raises(Unavailable):
                insist()
            with only_bot(at(url, tmp_path / "b")):
                for _ in range(2):
                    with pytest.raises(LeaseHeld, match="another bot is at work"):
                        insist()
            patiently(insist, timeout=GONE)
        with only_bot(at(url, tmp_path / "b")):
            pass
