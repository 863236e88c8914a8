"""What several benches need: the command itself as a process, a player, and a wait."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Self

from cli.bench import Context, Json
from forkyard.errors import InvalidRequest, PermanentError
from forkyard.phases import observe_fleet
from forkyard.reap import LeavesRemnants
from forkyard.world import open_world

SERVICE = "game"
COMMAND_TIMEOUT = timedelta(minutes=10)
_UNDER_WAY = timedelta(seconds=5)
"""What is younger may be a process that the run before starts ahead right now; what was killed is older."""


def command(context: Context, *arguments: str) -> list[str]:
    """Make the command line of a forkyard command, with this one's configuration."""
    config = ["--config", str(context.config)] if context.config is not None else []
    return [sys.executable, "-m", "cli.main", *config, *arguments]


def run_command(context: Context, *arguments: str) -> Json:
    """Run a forkyard command to its end and return its JSON; raises PermanentError with its words when it fails."""
    done = subprocess.run(
        command(context, *arguments, "--json"),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT.total_seconds(),
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        text = f"forkyard {' '.join(arguments)} ended with code {done.returncode}: {done.stderr.strip()[-600:]}"
        raise PermanentError(text)
    answer = json.loads(lines[-1])
    if not isinstance(answer, dict):
        text = f"forkyard {' '.join(arguments)} --json gave no object"
        raise PermanentError(text)
    return answer


def scale_to(context: Context, target: int) -> Json:
    """Bring the game to *target* through the real command."""
    context.say(f"{SERVICE}: to {target}")
    return run_command(context, "scale", SERVICE, "--to", str(target), "--yes", "--because", "bench")


def require_room(context: Context, target: int) -> None:
    """Refuse a bench that this configuration does not allow."""
    maximum = context.settings.service(SERVICE).maximum
    if target > maximum:
        text = f"the bench needs {target} children: raise services.{SERVICE}.maximum ({maximum}) in forkyard.toml."
        raise InvalidRequest(text)


def find_excess(context: Context, wanted: int) -> list[str]:
    """Say everything in which the fleet is not exactly as asked; an empty list is the good answer."""
    with open_world(context.settings, SERVICE) as world:
        fleet = observe_fleet(world)
        upstream = world.balancer.upstream(SERVICE)
        keeper = world.hypervisor if isinstance(world.hypervisor, LeavesRemnants) else None
        remnants = keeper.list_strays(older_than=_UNDER_WAY) if keeper is not None else ()
    names = {child.vm.name for child in fleet.children}
    servers = {server.name for server in upstream.servers} if upstream is not None else set()
    found = []
    if len(fleet.serving) != wanted or len(names) != wanted:
        found.append(f"{len(fleet.serving)} of {len(names)} children serve, {wanted} are wanted")
    found += [f"{child.vm.name} is not kept" for child in fleet.children if child.vm.stamp.expires is not None]
    found += [f"stray registration of {stray.node}" for stray in fleet.strays]
    found += [f"{remnant.path}: {remnant.what}" for remnant in remnants]
    found += [f"upstream line of {name}, which is no child" for name in sorted(servers - names)]
    return found


@dataclass
class Player:
    """Asks through the load balancer, over and over, and notes when each child was first met."""

    url: str
    started: float = field(default_factory=time.monotonic)
    met: dict[str, float] = field(default_factory=dict)
    answers: int = 0
    _stop: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def __enter__(self) -> Self:
        """Begin to ask."""
        self._thread = Thread(target=self._play, name="player", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop asking."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def wait_for(self, number: int, timeout: timedelta) -> float:
        """Seconds until *number* different children had answered; raises PermanentError after *timeout*."""
        deadline = self.started + timeout.total_seconds()
        while len(self.met) < number:
            if time.monotonic() > deadline or self._stop.wait(0.02):
                text = f"only {len(self.met)} of {number} children answered within {timeout.total_seconds():g} s"
                raise PermanentError(text)
        return sorted(self.met.values())[number - 1]

    def _play(self) -> None:
        while not self._stop.is_set():
            child = ask_once(self.url)
            if child is not None:
                self.answers += 1
                self.met.setdefault(child, time.monotonic() - self.started)
            # Gentle on purpose: on two cores a busy player would take the guests' time.
            self._stop.wait(0.05)


def ask_once(url: str) -> str | None:
    """Which child answers one request, or None when none does."""
    answer = ask(url)
    child = answer.get("child") if answer is not None else None
    return str(child) if child else None


def ask(url: str) -> Json | None:
    """One answer of the game, as JSON."""
    request = urllib.request.Request(url, headers={"Accept": "application/json", "Connection": "close"})  # noqa: S310 - from forkyard.toml
    try:
        with urllib.request.urlopen(request, timeout=2) as response:  # noqa: S310 - as above
            answer = json.load(response)
    except (OSError, urllib.error.URLError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None
