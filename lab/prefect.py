"""
The lab's Prefect: its server on SQLite, and the process that serves the deployments.

A run whose process dies has crashed at once: the runner sees it, or, if that died too, the next one. An automation
on heartbeats would say so as well, and is not used here: its triggers and the runs' states write to one SQLite
file, and calls were seen to wait a minute for its lock. Everything is below the state directory; nothing is sent
anywhere. `forkyard lab up` may be called with it running.
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from flows.serve import make_environment as make_run_environment
from forkyard.errors import NotReady
from forkyard.processes import ProcessRef, end, tail
from forkyard.settings import CONFIG_VARIABLE, Settings
from forkyard.waiting import wait_for
from lab.daemons import read_ref, start_daemon
from lab.ports import refuse_taken_ports

START_TIMEOUT = timedelta(seconds=240)
"""Its imports and first migration are 20 s of CPU, which on two busy cores take long."""

STOP_TIMEOUT = timedelta(seconds=40)
"""A run under way has 30 s to undo what is half made."""

_ROOT = Path(__file__).resolve().parents[1]

SERVER, RUNNER = "prefect-server", "prefect-runner"


def start_prefect(settings: Settings, config: Path | None = None) -> bool:
    """
    Start server and runner unless they run; say whether anything was started. Runs read *config*, a forkyard.toml.

    Raises:
        CapacityExhausted: the port is in use; the message names it and who holds it.
        NotReady: they do not come up; the message has their last lines.
    """
    if not prefect_status(settings):
        return False
    for folder in (_home(settings), settings.run_dir / "lab"):
        folder.mkdir(parents=True, exist_ok=True)
    if _ref(settings, SERVER) is None:
        refuse_taken_ports(("prefect", port) for port in prefect_ports(settings))
        port = str(settings.lab.prefect_port)
        _spawn(settings, SERVER, ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port], config)
    if _ref(settings, RUNNER) is None:
        # At the same time: its imports take as long as the server's, and it waits for the server by itself.
        _ready_file(settings).unlink(missing_ok=True)
        arguments = [str(_ready_file(settings)), *([str(config.resolve())] if config else [])]
        _spawn(settings, RUNNER, ["-m", "flows.serve", *arguments], config)
    _wait(settings)
    return True


def prefect_ports(settings: Settings) -> list[int]:
    """The ports that a start would open now."""
    return [] if _ref(settings, SERVER) else [settings.lab.prefect_port]


def prefect_status(settings: Settings) -> str:
    """What is wrong with it; empty text when nothing is."""
    for name in (SERVER, RUNNER):
        if _ref(settings, name) is None:
            return f"{name} does not run: {tail(_log(settings, name), 2)}"
    if not _answers(settings):
        return f"{SERVER} does not answer at {settings.prefect.api_url}"
    return "" if _ready_file(settings).exists() else f"{RUNNER} has not registered the deployments yet"


def stop_prefect(settings: Settings) -> None:
    """End runner and server; absent is success."""
    # The runner first, while the server is there to be told how its runs ended.
    for name in (RUNNER, SERVER):
        ref = _ref(settings, name)
        if ref is not None:
            end(ref, timeout=STOP_TIMEOUT)
        _pid_file(settings, name).unlink(missing_ok=True)
    _ready_file(settings).unlink(missing_ok=True)


def make_environment(settings: Settings, config: Path | None) -> dict[str, str]:
    """Make the environment of server and runner: ours alone decides, whatever profile the person has."""
    home = _home(settings)
    inherited = os.environ  # noqa: TID251 - handed on to programs, not read for settings
    mine = {key: value for key, value in inherited.items() if not key.startswith("PREFECT_")}
    return (
        mine
        | make_run_environment(settings)
        | {
            "DO_NOT_TRACK": "1",
            "PREFECT_HOME": str(home),
            "PREFECT_UI_API_URL": settings.prefect.api_url,
            "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Nobody has automations or work pools here, and looking for them costs time that the children need.
            "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            # By default each task run is written by itself, after up to 5 s: the UI then lags 20 s behind.
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
            **({CONFIG_VARIABLE: str(config.resolve())} if config else {}),
        }
    )


def _spawn(settings: Settings, name: str, arguments: list[str], config: Path | None) -> None:
    environment = make_environment(settings, config)
    # The runner imports flows and tasks, which need not be installed: a checkout is enough.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), environment.get("PYTHONPATH")]))
    start_daemon(_pid_file(settings, name), [sys.executable, *arguments], log=_log(settings, name), env=environment)


def _wait(settings: Settings) -> None:
    def look() -> bool | None:
        for name in (SERVER, RUNNER):
            if _ref(settings, name) is None:
                text = f"{name} ended while it started: {tail(_log(settings, name))}"
                raise NotReady(text)
        trouble = prefect_status(settings)
        if trouble:
            raise NotReady(trouble)
        return True

    wait_for(look, what="Prefect", timeout=START_TIMEOUT, interval=timedelta(milliseconds=200))


def _answers(settings: Settings) -> bool:
    try:
        return _call(settings, "GET", "/health") is True
    except NotReady:
        return False


# Any: the API's answers are JSON.
def _call(settings: Settings, verb: str, path: str, body: object = None) -> Any:  # noqa: ANN401
    data = None if body is None else json.dumps(body).encode()
    url = settings.prefect.api_url.rstrip("/") + path
    asked = Request(url, data, {"Content-Type": "application/json"}, method=verb)  # noqa: S310 - our own server
    try:
        with urlopen(asked, timeout=10) as answer:  # noqa: S310 - as above
            return json.load(answer)
    except (URLError, OSError, ValueError) as error:
        text = f"Prefect at {url}: {error}"
        raise NotReady(text) from error


def _home(settings: Settings) -> Path:
    return settings.state_dir / "prefect"


def _ref(settings: Settings, name: str) -> ProcessRef | None:
    return read_ref(_pid_file(settings, name))


def _pid_file(settings: Settings, name: str) -> Path:
    return settings.run_dir / "lab" / f"{name}.pid"


def _ready_file(settings: Settings) -> Path:
    return settings.run_dir / "lab" / f"{RUNNER}.ready"


def _log(settings: Settings, name: str) -> Path:
    return settings.run_dir / "lab" / f"{name}.log"
