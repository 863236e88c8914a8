"""The lab's Slack as a daemon: where it is, who its people are, and the settings with which the bot talks to it."""

import os
import shutil
import sys
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from forkyard.errors import NotReady
from forkyard.processes import end, tail
from forkyard.settings import ChatopsSettings, RoleSettings, Settings
from forkyard.waiting import wait_for
from lab.daemons import read_ref, start_daemon
from lab.ports import refuse_taken_ports
from lab.slack.state import GROUPS, PEOPLE, TEAM

START_TIMEOUT = timedelta(seconds=60)
STOP_TIMEOUT = timedelta(seconds=5)

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class SlackUser:
    """One person of the lab's Slack."""

    name: str
    role: str


@dataclass(frozen=True, slots=True)
class SlackStatus:
    """Where the lab's Slack is, and who can be played there."""

    page: str
    api: str
    """Below it a script types, clicks and reads: see lab/slack/README.md."""
    users: tuple[SlackUser, ...]


def slack_home(settings: Settings) -> Path:
    """Where its tokens, its port and its log are."""
    return settings.run_dir / "lab" / "slack"


def lab_chatops(settings: Settings) -> ChatopsSettings:
    """The settings with which the bot listens to the lab's Slack, where each person has the role that the page says."""
    home = slack_home(settings)
    by_role = {person.role: person.id for person in PEOPLE}
    mine = ("status", "plan", "scale", "schedule", "cancel", "retry", "rollback", "log")
    theirs = (*mine, "approve", "deny", "lock", "unlock")
    return replace(
        settings.chatops,
        teams=(TEAM["id"],),
        channels=("C0LABFLEET",),
        roles={
            "requesters": RoleSettings(users=(by_role["requester"],), services=("*",), verbs=mine),
            "approvers": RoleSettings(groups=tuple(GROUPS), services=("*",), verbs=theirs),
        },
        api_url=f"http://127.0.0.1:{settings.lab.slack_port}/api/",
        bot_token_file=home / "bot.token",
        app_token_file=home / "app.token",
        signing_secret_file=home / "signing.secret",
    )


def slack_status(settings: Settings) -> SlackStatus:
    """Where it is when it runs."""
    page = f"http://127.0.0.1:{settings.lab.slack_port}/"
    return SlackStatus(page, f"{page}lab/", tuple(SlackUser(person.name, person.role) for person in PEOPLE))


def start_slack(settings: Settings) -> bool:
    """
    Start it unless it runs; say whether it was started.

    Raises:
        CapacityExhausted: the port is in use; the message names it and who holds it.
        NotReady: it does not come up; the message has its last lines.
    """
    if not slack_trouble(settings):
        return False
    home, port = slack_home(settings), settings.lab.slack_port
    refuse_taken_ports([("slack", port)])
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    # A checkout is enough: the module need not be installed.
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}  # noqa: TID251 - handed on, not read for settings
    argv = [sys.executable, "-m", "lab.slack", str(port), str(home)]
    start_daemon(home / "pid", argv, log=home / "log", env=environment)

    def look() -> bool | None:
        if read_ref(home / "pid") is None:
            text = f"the lab's Slack ended while it started: {tail(home / 'log')}"
            raise NotReady(text)
        return not slack_trouble(settings) or None

    wait_for(look, what="the lab's Slack", timeout=START_TIMEOUT)
    return True


def slack_ports(settings: Settings) -> list[int]:
    """The ports that a start would open now."""
    return [] if read_ref(slack_home(settings) / "pid") else [settings.lab.slack_port]


def slack_trouble(settings: Settings) -> str:
    """What is wrong with it; empty text when nothing is."""
    home = slack_home(settings)
    if read_ref(home / "pid") is None:
        return f"the lab's Slack does not run: {tail(home / 'log', 2)}"
    return "" if (home / "port").exists() else "the lab's Slack has only just been started"


def stop_slack(settings: Settings) -> None:
    """End it; absent is success."""
    ref = read_ref(slack_home(settings) / "pid")
    if ref is not None:
        end(ref, timeout=STOP_TIMEOUT)
    shutil.rmtree(slack_home(settings), ignore_errors=True)
