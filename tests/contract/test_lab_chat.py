"""The lab's Slack as a daemon of the lab: started once, found, ended without a trace."""

from pathlib import Path

import httpx
import pytest

from forkyard.errors import CapacityExhausted
from forkyard.settings import LabSettings, Settings
from lab.chat import slack_home, slack_status, slack_trouble, start_slack, stop_slack
from tests.support.lab import free_ports


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(run_dir=tmp_path, lab=LabSettings(slack_port=free_ports(1)[0]))


def test_it_is_started_once_answers_and_is_gone_afterwards(settings: Settings) -> None:
    try:
        assert start_slack(settings)
        assert not start_slack(settings)
        assert slack_trouble(settings) == ""
        status = slack_status(settings)
        state = httpx.get(f"{status.api}state", params={"as": status.users[1].name}).json()
        assert state["me"]["name"] == "ben"
        assert (slack_home(settings) / "bot.token").stat().st_mode & 0o077 == 0
    finally:
        stop_slack(settings)
    assert "does not run" in slack_trouble(settings)
    stop_slack(settings)


def test_a_port_in_use_is_named_with_its_holder(settings: Settings, tmp_path: Path) -> None:
    other = Settings(run_dir=tmp_path / "other", lab=settings.lab)
    try:
        start_slack(settings)
        with pytest.raises(CapacityExhausted, match=rf"port {settings.lab.slack_port} .* in use by python"):
            start_slack(other)
    finally:
        stop_slack(settings)
