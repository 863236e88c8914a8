"""The lab's bot as a daemon: the command itself, connected to the lab's Slack, with nothing else of the lab running."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from forkyard.settings import load_settings
from lab.chat import slack_status, start_slack, stop_slack
from lab.resident import BOT, resident_trouble, start_resident, stop_resident
from tests.support.lab import until, write_config


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    # A run directory's path is short, because sockets' paths are.
    with tempfile.TemporaryDirectory(prefix="fy-bot-") as run:
        yield write_config(tmp_path, Path(run), tmp_path, namespace="fy-nobody")


def test_it_connects_answers_and_ends(config: Path) -> None:
    settings = load_settings(config)
    api = slack_status(settings).api
    try:
        start_slack(settings)
        assert start_resident(settings, config, BOT)
        assert not start_resident(settings, config, BOT)
        until(lambda: httpx.get(f"{api}state").json()["app"]["connections"] == 1, seconds=40)
        asked = {"as": "anna", "text": "/fleet whoami"}
        assert httpx.post(f"{api}command", json=asked, timeout=10).json()["ok"]
        until(lambda: "requesters" in str(httpx.get(f"{api}state").json()["channels"]), seconds=10)
        assert resident_trouble(settings, BOT) == ""
    finally:
        stop_resident(settings, BOT)
        stop_slack(settings)
    assert "forkyard bot does not run" in resident_trouble(settings, BOT)
