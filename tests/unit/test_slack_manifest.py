"""The app's manifest asks for what the bot needs, and for nothing else."""

from pathlib import Path

import yaml  # type: ignore[import-untyped]  # its types are not worth a dependency for one test

from bot.answers import COMMAND
from bot.checks import NEEDED_SCOPES, PRIVATE_SCOPES
from lab.slack.state import SCOPES

ROOT = Path(__file__).parents[2]
MANIFEST = yaml.safe_load((ROOT / "deployments" / "slack-manifest.yaml").read_text())


def test_the_scopes_are_those_that_the_bot_checks_for() -> None:
    assert sorted(MANIFEST["oauth_config"]["scopes"]["bot"]) == sorted([*NEEDED_SCOPES, *PRIVATE_SCOPES])
    assert set(MANIFEST["oauth_config"]["scopes"]["bot"]) <= SCOPES


def test_command_events_and_mode_are_those_that_the_bot_listens_to() -> None:
    assert [one["command"] for one in MANIFEST["features"]["slash_commands"]] == [COMMAND]
    assert MANIFEST["settings"]["event_subscriptions"]["bot_events"] == ["app_home_opened"]
    assert MANIFEST["settings"]["socket_mode_enabled"] is True
    assert MANIFEST["settings"]["interactivity"]["is_enabled"] is True
