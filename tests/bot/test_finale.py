"""What the thread says at the end of a run, beside the picture."""

from datetime import UTC, datetime

from bot.finale import entitle, summarize
from forkyard.model import Phase
from forkyard.report import ChildReport, Interval, Report
from forkyard.requests import Request, State


def ended(state: State, *errors: str | None) -> tuple[Request, Report]:
    """A request for 3 that ended so, with a child for each error, or for none."""
    children = tuple(
        ChildReport(f"game-{n}", Phase.RETIRED, intervals=(Interval(Phase.FORKED, 0, n),), error=error)
        for n, error in enumerate(errors, start=1)
    )
    report = Report(
        service="game",
        request_id="r",
        wanted=3,
        before=0,
        serving=1,
        seconds=4.0,
        ok=False,
        message="stopped by CancelledError: 1 of 3 serving",
        children=children,
    )
    now = datetime.now(UTC)
    request = Request(id="r", state=state, service="game", target=3, requested_by="U1", requested_at=now)
    return request, report


def test_what_was_cancelled_did_not_fail() -> None:
    request, report = ended(State.CANCELLED, None, "game-2: not begun: cancelled", "game-3: not begun: cancelled")
    said = summarize(request, report)
    assert said.endswith("2 were not finished.")
    assert "failed" not in said
    assert entitle(request, report) == "game: cancelled, 1 of 3 serving"


def test_a_child_that_failed_is_named_once() -> None:
    request, report = ended(State.FAILED, None, "game-2: not begun: the host is full", "no address in 90 s")
    assert summarize(request, report).endswith("2 failed, the first: game-2: not begun: the host is full")
    request, report = ended(State.FAILED, None, "no address in 90 s")
    assert summarize(request, report).endswith("1 failed, the first: game-2: no address in 90 s")
