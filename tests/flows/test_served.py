"""Runs of a served deployment: started and followed by name, each a process of its own, cancelled and killed."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from flows.events import RunEvents, listening
from flows.runs import FINAL, Progress, Runs, ServerAway
from forkyard.errors import NotFound
from forkyard.names import new_request_id
from forkyard.processes import ProcessRef, end, find_process, is_alive, spawn
from forkyard.settings import Settings
from forkyard.waiting import wait_for
from lab.prefect import make_environment, prefect_status, start_prefect
from tests.flows.conftest import find_free_port

LONG = timedelta(seconds=90)


@contextmanager
def serving(lab: Settings, home: Path) -> Iterator[ProcessRef]:
    """Serve the pretended flow from a process of its own."""
    ready = home / "ready"
    environment = make_environment(lab, None) | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    runner = spawn([sys.executable, "-m", "tests.flows.pretend", str(ready)], log=home / "log", env=environment)
    try:
        wait_for(lambda: ready.exists() or None, what="the runner", timeout=LONG)
        yield runner
    finally:
        end(runner, timeout=timedelta(seconds=40))


@pytest.fixture(scope="module")
def runs(prefect_lab: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """The API of a server where the pretended flow is served."""
    with serving(prefect_lab, tmp_path_factory.mktemp("runner")):
        yield Runs(prefect_lab.prefect.api_url)


class Run:
    """One run of the pretended flow."""

    def __init__(
        self, runs: Runs, folder: Path, target: int, *, at: datetime | None = None, **parameters: object
    ) -> None:
        """Start it, now or *at* a moment ahead."""
        self.runs, self.folder, self.key, self.at = runs, folder, new_request_id(), at
        self.parameters = {"service": "game", "target": target, "folder": str(folder)} | parameters
        self.id = self.start()

    def start(self) -> str:
        """Ask for the run, perhaps again."""
        return self.runs.start("pretend", self.parameters, name="pretend", key=self.key, tags=["test"], at=self.at)

    def process(self) -> ProcessRef:
        """The run's process, once it has one."""
        path = self.folder / "pid"
        wait_for(lambda: path.exists() or None, what="the run's process", timeout=LONG)
        found = find_process(int(path.read_text()))
        assert found is not None
        return found

    def wait(self) -> Progress:
        """Follow it to what it reports, and then to its end."""
        *_, last = self.runs.follow(self.id)
        assert last.final
        return wait_for(self._over, what="the run's end", timeout=LONG)

    def _over(self) -> Progress | None:
        now = self.runs.progress(self.id)
        return now if now.state in FINAL else None

    def left(self) -> dict[str, Any]:
        """What was there when it ended."""
        found: dict[str, Any] = json.loads((self.folder / "left.json").read_text())
        return found


def test_news_of_a_run_are_looked_at_at_once(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without news it would be looked at once an hour.
    for name in ("SLOWEST", "RARE", "USUAL", "SOON"):
        monkeypatch.setattr(f"flows.runs.{name}", timedelta(hours=1))
    heard = Event()
    run = Run(runs, tmp_path, 1)
    with listening(RunEvents(runs.api_url), lambda of: heard.set() if of == run.id else None, heard.set):
        *_, last = runs.follow(run.id, heard)
    assert last.final
    run.wait()


def test_a_run_is_followed_to_its_result(runs: Runs, tmp_path: Path) -> None:
    run = Run(runs, tmp_path, 3)
    last = run.wait()
    assert (last.state, last.percent) == ("COMPLETED", 100.0)
    result = runs.result(run.id)
    assert result is not None
    assert (result["ok"], result["wanted"], result["serving"], len(result["children"])) == (True, 3, 3, 3)
    assert result["run_url"].endswith(f"/runs/flow-run/{run.id}")
    assert runs.results("game")[0]["request_id"] == run.id


def test_a_run_is_begun_as_soon_as_the_server_tells_of_it(runs: Runs, tmp_path: Path) -> None:
    # The runner of these tests looks by itself once an hour.
    Run(runs, tmp_path, 1).process()


def test_each_run_is_a_process_of_its_own(runs: Runs, tmp_path: Path) -> None:
    run = Run(runs, tmp_path, 1, fork_seconds=1.0)
    process = run.process()
    assert Path(f"/proc/{process.pid}/comm").read_text().strip() == "forkyard-run"
    assert process.pid != os.getpid()
    run.wait()
    wait_for(lambda: None if is_alive(process) else True, what="its end", timeout=LONG)


def test_the_same_request_again_is_the_same_run(runs: Runs, tmp_path: Path) -> None:
    run = Run(runs, tmp_path, 1)
    assert run.start() == run.id
    run.wait()
    assert run.start() == run.id


def test_a_cancelled_run_undoes_what_is_half_made_and_ends_as_cancelled(runs: Runs, tmp_path: Path) -> None:
    run = Run(runs, tmp_path, 4, identify_seconds=2.0)
    run.process()
    wait_for(lambda: True if "forked 4" in runs.progress(run.id).text else None, what="forks", timeout=LONG)
    runs.cancel(run.id)
    assert run.wait().state == "CANCELLED"
    left = run.left()
    assert left["forks"] == 4
    assert (left["vms"], left["serving"], left["entries"], left["leases"]) == ([], [], [], [])
    result = runs.result(run.id)
    assert result is not None
    assert not result["ok"]


def test_a_cancelled_run_that_is_over_stays_as_it_is(runs: Runs, tmp_path: Path) -> None:
    run = Run(runs, tmp_path, 1)
    run.wait()
    runs.cancel(run.id)
    assert runs.progress(run.id).state == "COMPLETED"


def test_a_killed_run_has_crashed_at_once(runs: Runs, tmp_path: Path) -> None:
    run = Run(runs, tmp_path, 2, fork_seconds=20.0)
    os.kill(run.process().pid, signal.SIGKILL)
    last = run.wait()
    assert last.state == "CRASHED"
    assert runs.result(run.id) is None


def test_a_run_cancelled_after_its_process_was_killed_does_not_wait_for_ever(runs: Runs, tmp_path: Path) -> None:
    run = Run(runs, tmp_path, 2, fork_seconds=20.0)
    process = run.process()
    # Cancelling first: a state in which Prefect hears no more of a crash.
    os.kill(process.pid, signal.SIGSTOP)
    runs.cancel(run.id)
    os.kill(process.pid, signal.SIGKILL)
    assert run.wait().state == "CANCELLED"


def test_an_unknown_deployment_is_named(runs: Runs) -> None:
    with pytest.raises(NotFound, match="resize/resize"):
        runs.start("resize", {}, name="", key="k", tags=[])


def test_a_server_that_is_away_is_named() -> None:
    away = Runs(f"http://127.0.0.1:{find_free_port()}/api")
    assert not away.is_up()
    with pytest.raises(ServerAway, match="does not answer"):
        away.progress("any")


def test_the_labs_prefect_is_started_once(prefect_lab: Settings) -> None:
    assert prefect_status(prefect_lab) == ""
    assert start_prefect(prefect_lab) is False
