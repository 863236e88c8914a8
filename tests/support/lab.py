"""
A whole lab for tests: its own namespace, ports and directories, driven by the command line as a person drives it.

The frozen parent and the image stay in the cache between runs, because they are made from their inputs' hash;
all else is new for each lab and gone when it ends.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from forkyard.settings import Settings, load_settings
from forkyard.waiting import wait_for

FORKYARD = Path(sys.executable).with_name("forkyard")

_CONFIG = """
state_dir = "{state}"
run_dir = "{run}"
cache_dir = "{cache}"

[consul]
url = "http://127.0.0.1:{consul}"
join = ["{network}.0.11", "{network}.0.12", "{network}.0.13"]

[nginx]
directory = "{run}/nginx"
url = "http://127.0.0.1:{balancer}"
namespace = "{namespace}"

[prefect]
api_url = "http://127.0.0.1:{prefect}/api"

[qemu]
namespace = "{namespace}"
bridge = "fyt0"
network = "{network}.0.0/22"
first_address = "{network}.1.1"

[lab]
load_balancer_port = {balancer}
consul_port = {consul}
prefect_port = {prefect}
slack_port = {slack}
vcenter_port = {vcenter}

[services.game]
maximum = 12
drain_timeout = "10s"
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call of the command line gave."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the command says
        """The last JSON object on standard output."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab and the person in front of it."""

    config: Path
    settings: Settings

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Type a command and do not wait for it."""
        return subprocess.Popen(
            [FORKYARD, "--config", self.config, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, timeout: float = 300) -> Answer:
        """Type a command and wait for its end."""
        began = time.monotonic()
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Answer(process.returncode, out, err, time.monotonic() - began)

    def scale(self, target: int, *words: str) -> Answer:
        """Ask for *target* children of the game."""
        return self.run("scale", "game", "--to", str(target), "--json", *words)

    def game(self) -> Any:  # noqa: ANN401 - the command's own JSON
        """The game, as `forkyard status` sees it."""
        answer = self.run("status", "--json")
        assert answer.code == 0, answer.err
        return answer.json["services"]["game"]

    def ask(self) -> Any:  # noqa: ANN401 - the game's own JSON
        """Play: one request through the load balancer on a connection of its own."""
        answer = httpx.get(self.settings.nginx.url, headers={"Accept": "application/json"}, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def who_answers(self, requests: int) -> set[str]:
        """Names of the children behind *requests* answers."""
        return {self.ask()["child"] for _ in range(requests)}


def write_config(directory: Path, run: Path, cache: Path, *, namespace: str, network: str = "10.79") -> Path:
    """A forkyard.toml for a lab beside all others: free ports, its own names and directories; *network*: a /16."""
    ports = free_ports(5)
    path = directory / "forkyard.toml"
    path.write_text(
        _CONFIG.format(
            state=directory / "state",
            run=run,
            cache=cache,
            namespace=namespace,
            network=network,
            balancer=ports[0],
            consul=ports[1],
            prefect=ports[2],
            slack=ports[3],
            vcenter=ports[4],
        )
    )
    return path


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, each another."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def running_lab(config: Path, *words: str) -> Iterator[Lab]:
    """Bring the lab up, with these *words* after the command; take it down whatever happens."""
    lab = Lab(config, load_settings(config))
    up = lab.run("lab", "up", *words, timeout=1500)
    try:
        assert up.code == 0, f"{up.out}\n{up.err}"
        # Read anew: a lab on vSphere says in a file of its own where its vCenter is.
        yield Lab(config, load_settings(config))
    finally:
        down = lab.run("lab", "down", timeout=120)
        assert down.code == 0, f"{down.out}\n{down.err}"


def until(look: Callable[[], bool], *, seconds: float, what: str = "the awaited state") -> None:
    """Wait until *look* is true; fails the test when it is not in time."""
    wait_for(
        lambda: look() or None, what=what, timeout=timedelta(seconds=seconds), interval=timedelta(milliseconds=200)
    )
