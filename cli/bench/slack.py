"""
The bench `slack-start`: from a slash command in the lab's Slack to the first task of its flow, and on to the last edit.

Real HTTP all the way: the command is typed, another person approves as soon as the plan is shown, the bot has the run
started. What a person would take to read and to decide is left out.
"""

import json
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cli.bench import Context, Run
from cli.bench.parts import SERVICE, require_room, scale_to
from flows.runs import Runs
from forkyard.waiting import wait_for
from lab.chat import slack_status

TARGET = 2
_PATIENCE = timedelta(minutes=2)
_LOOK = timedelta(milliseconds=50)
_SECONDS = 30.0

Message = Mapping[str, Any]
"""One message, as the page of the lab's Slack is given it."""


def measure_slack_start(context: Context) -> Sequence[Run]:
    """0 to 2 by `/fleet scale`; seconds from the command to the start of the flow's first task."""
    require_room(context, TARGET)
    return [_measure_once(context) for _ in range(context.runs)]


def _measure_once(context: Context) -> Run:
    scale_to(context, 0)
    people = _People(slack_status(context.settings).api)
    context.say(f"/fleet scale {SERVICE} to {TARGET}")
    last = people.newest()["ts"]
    typed = datetime.now(UTC)
    acknowledged = people.act("command", "anna", text=f'/fleet scale {SERVICE} to {TARGET} because "bench"')
    plan = people.wait_for("approve", after=last)
    planned = datetime.now(UTC)
    people.act("click", "ben", ts=plan["ts"], action_id="approve")
    runs = Runs(context.settings.prefect.api_url)
    begun = wait_for(
        lambda: runs.first_task(SERVICE, after=typed), what="the flow's first task", timeout=_PATIENCE, slowest=_LOOK
    )
    people.wait_for("rollback", after=last)
    shown = datetime.now(UTC)
    reported = runs.reported_at(SERVICE)
    details = {
        "acknowledged": float(acknowledged["ack_seconds"]),
        "plan_shown": (planned - typed).total_seconds(),
        "end_reported_to_shown": (shown - reported).total_seconds(),
    }
    scale_to(context, 0)
    return Run((begun - typed).total_seconds(), {name: round(value, 3) for name, value in details.items()})


class _People:
    """The hands and eyes of the people in the lab's Slack (lab/slack/README.md)."""

    def __init__(self, api: str) -> None:
        self._api = api

    def act(self, what: str, person: str, **asked: str) -> dict[str, Any]:
        body = json.dumps({"as": person, **asked}).encode()
        headers = {"Content-Type": "application/json"}
        return self._call(urllib.request.Request(self._api + what, body, headers))  # noqa: S310 - the lab's own

    def newest(self) -> Message:
        """The newest message of a request; one without a moment when there is none."""
        state = self._call(urllib.request.Request(f"{self._api}state?as=ben"))  # noqa: S310 - as above
        messages: list[Message] = state["channels"][0]["messages"]
        requests = [m for m in messages if any(b.get("block_id", "").startswith("request-") for b in m["blocks"])]
        return requests[-1] if requests else {"ts": "", "blocks": []}

    def wait_for(self, button: str, *, after: str) -> Message:
        """The newest message, once it is later than *after* and has the button."""

        def look() -> Message | None:
            found = self.newest()
            elements = [element for block in found["blocks"] for element in block.get("elements") or ()]
            has = any(element.get("action_id") == button for element in elements)
            return found if found["ts"] > after and has else None

        return wait_for(look, what=f"the button {button}", timeout=_PATIENCE, interval=_LOOK, slowest=_LOOK)

    def _call(self, request: urllib.request.Request) -> dict[str, Any]:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - as above
            found: dict[str, Any] = json.load(answer)
        return found
