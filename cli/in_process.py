"""The runbook in this process, for when no Prefect server answers: the same stages, as plain calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread

from cli.progress import Show, showing
from flows.executors import DirectExecutor
from flows.publish import describe_progress
from flows.runbook import scale_fleet
from flows.runs import Progress
from forkyard.model import ScaleRequest
from forkyard.report import Journal, report_to_json
from forkyard.requests.gate import RecordedGate
from forkyard.settings import Settings
from forkyard.world import open_world
from tasks.work import Work

_INTERVAL = 0.3


def scale_here(
    settings: Settings, request: ScaleRequest, warrant: str
) -> tuple[dict[str, object], BaseException | None]:
    """Carry out the request; returns the report as JSON, and what stopped it if anything did."""
    gate = RecordedGate(settings, request, run_id="", warrant=warrant)
    with gate, open_world(settings, request.service) as world, DirectExecutor() as executor, showing(request) as show:
        work = Work(world, request, Journal(datetime.now(UTC)), gate)
        with _following(work, show):
            report, error = scale_fleet(work, executor)
        gate.leave(report, error)
    return report_to_json(report), error


@contextmanager
def _following(work: Work, show: Show) -> Iterator[None]:
    done = Event()

    def follow() -> None:
        while not done.wait(_INTERVAL):
            show(Progress("RUNNING", "", *describe_progress(work)))

    thread = Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        show(Progress("COMPLETED", "", *describe_progress(work)))
