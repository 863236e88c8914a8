"""What a runner makes of runs that it finds begun: its own, those of one that was killed, and those of another one."""

import asyncio
import os
import signal
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from uuid import UUID

import pytest

from flows.marks import shows_life
from flows.runs import Runs
from flows.warm import WarmRunner
from forkyard.processes import is_alive
from forkyard.settings import Settings
from forkyard.waiting import wait_for
from lab.prefect import start_prefect, stop_prefect
from tests.flows.conftest import make_lab, running_prefect
from tests.flows.test_served import LONG, Run, serving


def folders(home: Path) -> tuple[Path, Path]:
    found = home / "first", home / "second"
    for folder in found:
        folder.mkdir()
    return found


def test_a_second_runner_leaves_the_runs_of_the_first_alone(prefect_lab: Settings, tmp_path: Path) -> None:
    runs = Runs(prefect_lab.prefect.api_url)
    first, second = folders(tmp_path)
    with serving(prefect_lab, first):
        run = Run(runs, tmp_path, 2, fork_seconds=20.0, identify_seconds=15.0)
        process = run.process()
        with serving(prefect_lab, second):
            Event().wait(7)  # two looks for runs without a process
            assert (runs.progress(run.id).state, is_alive(process)) == ("RUNNING", True)
        assert run.wait().state == "COMPLETED"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_taken_ahead_by_a_runner_that_ends_is_begun_at_its_moment_by_the_next(
    prefect_lab: Settings, tmp_path: Path, number: signal.Signals
) -> None:
    runs = Runs(prefect_lab.prefect.api_url)
    first, second = folders(tmp_path)
    with serving(prefect_lab, first) as runner:
        moment = datetime.now(UTC) + timedelta(seconds=9)
        run = Run(runs, tmp_path, 1, at=moment)
        wait_for(lambda: shows_life(UUID(run.id)) or None, what="its process", timeout=LONG)
        os.kill(runner.pid, number)
        wait_for(lambda: not is_alive(runner) or None, what="the runner's end", timeout=LONG)
    with serving(prefect_lab, second):
        assert run.wait().state == "COMPLETED"
    assert datetime.now(UTC) > moment


def test_a_run_is_cancelled_although_the_server_was_killed_and_started_again_before_it(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    # Short, because sockets' paths below it are bounded.
    settings, home = make_lab(tmp_path_factory.mktemp("lab")), tmp_path / "runner"
    home.mkdir()
    with running_prefect(settings), serving(settings, home):
        stop_prefect(settings)
        # From here on Prefect's own watch looks once an hour, as the runner of these tests does for runs.
        wait_for(
            lambda: "Switching to polling" in (home / "log").read_text() or None, what="its giving up", timeout=LONG
        )
        start_prefect(settings, settings.state_dir.with_name("forkyard.toml"))
        runs = Runs(settings.prefect.api_url)
        run = Run(runs, tmp_path, 4, identify_seconds=600.0)
        run.process()
        wait_for(lambda: True if "forked 4" in runs.progress(run.id).text else None, what="forks", timeout=LONG)
        runs.cancel(run.id)
        assert run.wait().state == "CANCELLED"


def test_a_look_for_lost_runs_that_fails_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.warm.LOST", timedelta(milliseconds=10))
    looks: list[None] = []

    async def look() -> list[object]:
        looks.append(None)
        if len(looks) == 1:
            raise KeyError
        return []

    async def watch() -> None:
        runner = WarmRunner({})
        monkeypatch.setattr(runner, "_list_lost", look)
        with suppress(TimeoutError):
            await asyncio.wait_for(runner._settle_lost(), 0.5)  # noqa: SLF001 - what a runner does all the time

    asyncio.run(watch())
    assert len(looks) > 1
