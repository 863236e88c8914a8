"""How often the bot asks Prefect: for what there is news of, and for everything now and then."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bot.runner import Runner
from flows.runs import Progress, Runs
from forkyard.errors import PermanentError
from forkyard.model import ScaleRequest
from forkyard.requests import Entry, Request, State
from forkyard.requests.desk import Desk
from forkyard.requests.plans import PlanRecord
from forkyard.settings import Settings
from tests.bot.conftest import Stage
from tests.support.pretend_prefect import Run


class CountedRuns(Runs):
    """Knows how far each run is, and what it was asked."""

    def __init__(self) -> None:
        """Know of nothing that was asked."""
        super().__init__("http://127.0.0.1:1/api")
        self.asked: list[list[str]] = []
        self.percent = 0.0

    def look(self, run_ids: Sequence[str]) -> dict[str, Progress]:
        if run_ids:
            self.asked.append(list(run_ids))
        return {run: Progress("RUNNING", "", self.percent, "") for run in run_ids}


def test_while_news_is_heard_only_runs_that_changed_are_asked_for(quiet_stage: Stage) -> None:
    runs, rows = CountedRuns(), make_rows()
    runner = Runner(make_desk(quiet_stage), runs, listens=lambda: True)

    first = runner.look(rows)
    runs.percent = 40.0
    second = runner.look(rows)
    runner.hear("run-b")
    third = runner.look(rows)

    assert runs.asked == [["run-a", "run-b"], ["run-b"]]
    assert first.keys() == second.keys() == third.keys() == {"run-a", "run-b"}
    assert (third["run-a"].percent, third["run-b"].percent) == (0.0, 40.0)


def test_while_nothing_is_heard_each_round_asks_for_all(quiet_stage: Stage) -> None:
    runs, rows = CountedRuns(), make_rows()
    runner = Runner(make_desk(quiet_stage), runs)

    runner.look(rows)
    runner.look(rows)

    assert runs.asked == [["run-a", "run-b"]] * 2


def test_however_many_runs_there_are_all_of_them_are_looked_at(quiet_stage: Stage) -> None:
    prefect = quiet_stage.prefect
    prefect.runs |= {name: Run(name, name, {}, name) for name in (f"run-{n:03}" for n in range(250))}
    assert Runs(prefect.url).look(list(prefect.runs)).keys() == prefect.runs.keys()


def test_a_run_that_nobody_begins_is_told_as_trouble(quiet_stage: Stage) -> None:
    runner = Runner(make_desk(quiet_stage), CountedRuns())
    now = datetime.now(UTC)
    waits, begun = Progress("SCHEDULED", "", 0.0, ""), Progress("RUNNING", "", 0.0, "")
    late = replace(make_rows()[0], state=State.APPROVED, updated_at=now - timedelta(seconds=40))
    ahead = replace(late, state=State.SCHEDULED, start_at=now + timedelta(minutes=1))

    assert "Nobody begins its run" in runner.trouble_with(late, waits)
    assert "Nobody begins its run" in runner.trouble_with(replace(ahead, start_at=late.updated_at), waits)
    fresh = replace(late, updated_at=now)
    assert [runner.trouble_with(*seen) for seen in ((late, begun), (late, None), (ahead, waits), (fresh, waits))] == [
        ""
    ] * 4


def test_a_request_whose_run_is_refused_says_so_itself_and_the_others_do_not(quiet_stage: Stage) -> None:
    class Refusing(CountedRuns):
        def start_scale(self, request: ScaleRequest, **_: object) -> str:
            if request.target == 3:
                message = "Prefect refuses it: 409"
                raise PermanentError(message)
            return "run-1"

        def is_up(self) -> bool:
            return True

    now = datetime.now(UTC)
    rows = [replace(make_rows()[0], id=f"{n}" * 32, target=n, state=State.APPROVED, run_id=None) for n in (3, 4)]
    for row in rows:
        quiet_stage.store.add(replace(row, requested_at=now), Entry(who="U1", action="scale"))
    runner = Runner(make_desk(quiet_stage), Refusing())
    runner.start_due()
    assert [runner.trouble_with(row, None) for row in rows] == ["Prefect refuses it: 409", ""]
    assert quiet_stage.store.get(rows[1].id).run_id == "run-1"


def test_a_direct_run_that_was_killed_is_ended_by_the_bot_too(
    quiet_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forkyard.requests.starting.LOST", timedelta(0))
    quiet_stage.store.add(replace(make_rows()[0], run_id=None), Entry(who="local:root", action="scale"))
    quiet_stage.start_bot()
    quiet_stage.until_shown("its process was killed")


def make_desk(stage: Stage) -> Desk:
    """The desk of a stage whose bot does not run."""

    def look(settings: Settings, request: Request) -> PlanRecord:
        raise AssertionError(settings, request)  # nothing is planned here

    return Desk(stage.store, stage.load, look)


def make_rows() -> list[Request]:
    """Two requests that run."""
    now = datetime.now(UTC)
    row = Request(id="a", service="game", target=4, requested_by="U1", requested_at=now, state=State.RUNNING)
    return [replace(row, id=name, run_id=f"run-{name}") for name in ("a", "b")]
