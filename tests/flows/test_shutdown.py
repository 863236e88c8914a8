"""What becomes of runs when the process that serves them is told to end, as `forkyard lab down` does."""

import os
import signal
from datetime import timedelta
from pathlib import Path

from flows.runs import Runs
from forkyard.processes import end, is_alive
from forkyard.settings import Settings
from forkyard.waiting import wait_for
from tests.flows.test_served import LONG, Run, serving


def test_a_run_under_way_is_cancelled_and_undone(prefect_lab: Settings, tmp_path: Path) -> None:
    runs = Runs(prefect_lab.prefect.api_url)
    with serving(prefect_lab, tmp_path) as runner:
        run = Run(runs, tmp_path, 2, identify_seconds=3.0)
        process = run.process()
        wait_for(lambda: True if "forked 2" in runs.progress(run.id).text else None, what="forks", timeout=LONG)
        end(runner, timeout=timedelta(seconds=40))
    assert not is_alive(process)
    assert run.left()["vms"] == []
    assert run.wait().state == "CANCELLED"


def test_a_run_whose_runner_was_killed_has_crashed_once_it_is_served_again(
    prefect_lab: Settings, tmp_path: Path
) -> None:
    runs = Runs(prefect_lab.prefect.api_url)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with serving(prefect_lab, first) as runner:
        run = Run(runs, tmp_path, 2, identify_seconds=2.0)
        process = run.process()
        os.kill(runner.pid, signal.SIGKILL)
        wait_for(lambda: None if is_alive(process) else True, what="the run's end", timeout=LONG)
    with serving(prefect_lab, second):
        assert run.wait().state == "CRASHED"
    assert run.left()["vms"] == []
