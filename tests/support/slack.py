"""The lab's small Slack as a process of its own, and the hands of its people: all over real HTTP."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from forkyard.waiting import wait_for

Json = dict[str, Any]

FLEET, GENERAL = "C0LABFLEET", "C0LABOTHER"
ANNA, BEN, CARO = "U0LABANNA1", "U0LABBEN01", "U0LABCARO1"
"""Who asks, who approves, and who may nothing."""


@dataclass(slots=True)
class LabSlack:
    """A running small Slack."""

    url: str
    directory: Path
    http: httpx.Client = field(repr=False)

    @property
    def api_url(self) -> str:
        """Where the Web API is."""
        return f"{self.url}/api/"

    def secret(self, name: str) -> str:
        """One of `bot.token`, `app.token`, `signing.secret`."""
        return (self.directory / name).read_text()

    def act(self, what: str, person: str = "", **asked: Any) -> Json:  # noqa: ANN401 - JSON
        """Do something as a person."""
        body = {"as": person, **asked} if person else asked
        return dict(self.http.post(f"{self.url}/lab/{what}", json=body).json())

    def command(self, text: str, person: str = "anna", **asked: Any) -> Json:  # noqa: ANN401 - JSON
        """Type `/fleet TEXT`."""
        return self.act("command", person, text=f"/fleet {text}".strip(), **asked)

    def click(self, message: Json, action_id: str, person: str = "anna", **asked: Any) -> Json:  # noqa: ANN401 - JSON
        """Click a button of a message."""
        return self.act("click", person, ts=message["ts"], action_id=action_id, **asked)

    def faults(self, **asked: Any) -> None:  # noqa: ANN401 - JSON
        """Let something go wrong, or right again."""
        assert self.act("faults", **asked)["ok"]

    def state(self, person: str = "anna") -> Json:
        """What a person sees."""
        return dict(self.http.get(f"{self.url}/lab/state", params={"as": person}).json())

    def messages(self, person: str = "anna", channel: str = FLEET) -> list[Json]:
        """The messages that a person sees in a channel."""
        found = [one for one in self.state(person)["channels"] if one["id"] == channel]
        return list(found[0]["messages"]) if found else []

    def calls(self, method: str = "") -> list[Json]:
        """What the app has called."""
        calls: list[Json] = self.http.get(f"{self.url}/lab/calls").json()["calls"]
        return [call for call in calls if method in {"", call["method"]}]

    def api(self, method: str, *, token: str = "bot.token", **arguments: Any) -> httpx.Response:  # noqa: ANN401, S107 - JSON; a file's name
        """Call the Web API as the app does."""
        headers = {"Authorization": f"Bearer {self.secret(token)}"}
        return self.http.post(f"{self.api_url}{method}", json=arguments, headers=headers)


@contextmanager
def running_slack(directory: Path, port: int = 0) -> Iterator[LabSlack]:
    """Start one at *port*, or at a free one; end it whatever happens."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.slack", str(port), str(directory)], stdout=log, stderr=log
        )
    try:

        def bound() -> str | None:
            assert process.poll() is None, (directory / "log").read_text()
            path = directory / "port"
            return path.read_text() if path.exists() and path.read_text() else None

        found = wait_for(bound, what="the small Slack", timeout=timedelta(seconds=30))
        with httpx.Client(timeout=30, trust_env=False) as http:
            yield LabSlack(f"http://127.0.0.1:{found}", directory, http)
    finally:
        process.terminate()
        process.wait(timeout=10)
