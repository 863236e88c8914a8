"""Ten runs at once: the budget of edits is kept, a new phase is seen within seconds, and so is every end."""

import time
from collections.abc import Callable

from forkyard.requests import Request
from forkyard.requests.desk import Desk
from forkyard.requests.looking import plan_now
from forkyard.roles import Person
from lab.slack.state import GROUPS
from tests.bot.conftest import Stage, text_of
from tests.support.lab import until
from tests.support.pretend_prefect import Run
from tests.support.slack import BEN

RUNS = 10
MOST_IN_A_MINUTE = 40


def until_all(stage: Stage, rows: list[Request], word: Callable[[Request], str], *, seconds: float) -> float:
    """Wait until each request's message has its word; give the seconds that this took."""
    began = time.monotonic()

    def look() -> bool:
        shown = {block.get("block_id"): text_of(m) for m in stage.slack.messages() for block in m["blocks"]}
        return all(word(row) in shown.get(f"request-{row.id}", "") for row in rows)

    until(look, seconds=seconds, what="all messages")
    return time.monotonic() - began


def begin_all(stage: Stage, rows: list[Request]) -> list[Run]:
    """Have all of them approved and begun."""
    desk = Desk(stage.store, stage.load, plan_now)
    for row in rows:
        desk.approve(Person(BEN, frozenset(GROUPS)), row.token)
    until(lambda: len(stage.prefect.runs) == RUNS, seconds=20, what="ten runs")
    found = {run.parameters["request_id"]: run for run in stage.prefect.runs.values()}
    runs = [found[row.id] for row in rows]
    assert all(stage.prefect.begin(run) for run in runs)
    return runs


def test_ten_runs_at_once_keep_to_the_budget_and_every_end_is_shown(stage: Stage) -> None:
    for number in range(RUNS):
        assert stage.slack.command(f"scale game to {number + 1}")["ok"]
    until(lambda: len(stage.store.list_requests()) == RUNS, seconds=20)
    rows = sorted(stage.store.list_requests(), key=lambda row: row.target)
    until_all(stage, rows, lambda _: "Approve", seconds=30)
    runs = begin_all(stage, rows)
    until_all(stage, rows, lambda _: "approved by", seconds=15)

    for run in runs:
        stage.prefect.progress(run, 1, 0, 0, 0, 0, total=99)
    assert until_all(stage, rows, lambda _: "1 of 99", seconds=15) < 5

    for count in range(2, 20):
        for run in runs:
            stage.prefect.progress(run, count, 0, 0, 0, 0, total=99)
        pause = time.monotonic() + 0.25
        until(lambda pause=pause: time.monotonic() > pause, seconds=2)  # type: ignore[misc]  # a default binds it

    for run, row in zip(runs, rows, strict=True):
        stage.prefect.end(run, serving=row.target, made=1, pause=0)
    until_all(stage, rows, lambda row: f"*{row.target} serve", seconds=30)

    edits = sorted(call["at"] for call in stage.slack.calls("chat.update"))
    assert max(sum(at <= edit < at + 60 for edit in edits) for at in edits) <= MOST_IN_A_MINUTE
    assert [call for call in stage.slack.calls() if call["error"] == "ratelimited"] == []
