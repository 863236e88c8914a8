"""The deployment `scale`: one request as a flow, its progress while it works and its artifacts once it is done."""

import logging
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.executors import MOST_THREADS, PrefectExecutor
from flows.publish import publish, publishing_progress
from flows.runbook import scale_fleet
from forkyard.errors import ForkyardError
from forkyard.model import ScaleRequest
from forkyard.names import make_token
from forkyard.report import Journal, Report, report_to_json
from forkyard.requests.gate import RecordedGate
from forkyard.settings import load_settings
from forkyard.world import World, open_world
from tasks.parents import start_ahead
from tasks.work import Gate, Work

logger = logging.getLogger(__name__)

RUNNER: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=MOST_THREADS)


def _run_name() -> str:
    parameters = flow_run.parameters
    dry = " (dry run)" if parameters.get("dry_run") else ""
    token = make_token(parameters.get("request_id") or str(flow_run.id))
    return f"{parameters['service']} to {parameters['target']} ({token}){dry}"


@flow(
    name="scale",
    flow_run_name=_run_name,
    task_runner=RUNNER,
    # A second run of a flow that was killed in the middle must be asked for: it takes the lease like any other.
    retries=0,
    persist_result=False,
)
def scale(
    service: str,
    target: int,
    request_id: str | None = None,
    requested_by: str = "",
    reason: str = "",
    *,
    dry_run: bool = False,
    warrant: str = "",
) -> State[Any] | dict[str, object]:
    """
    Bring *service* to *target* children that serve: an absolute number, so that repeating it is harmless.

    Refused unless the request was approved, or carries the *warrant* of this machine's command line: that somebody
    could begin, resume or repeat this run proves nothing. For the same reason no parameter names a forkyard.toml: with
    the file comes where the key is, and to whom it would be sent.
    """
    request = ScaleRequest(
        id=request_id or str(flow_run.id),
        service=service,
        target=target,
        requested_by=requested_by,
        requested_at=datetime.now(UTC),
        reason=reason,
        dry_run=dry_run,
    )
    settings = load_settings()
    gate = RecordedGate(settings, request, run_id=str(flow_run.id or ""), warrant=warrant)
    with open_world(settings, service) as world, gate:
        return scale_with(world, request, gate)


def scale_with(world: World, request: ScaleRequest, gate: Gate | None = None) -> State[Any] | dict[str, object]:
    """Carry out the request inside a flow's run; returns the report, or a failed state with its message."""
    work = Work(world, request, Journal(datetime.now(UTC)), gate)
    with publishing_progress(work), PrefectExecutor() as executor:
        report, error = scale_fleet(work, executor)
    work.gate.leave(report, error)
    publish(report)
    if work.journal.plan is not None and error is None:
        # Who asked has the report already.
        start_ahead(work)
    return conclude(report, error)


def conclude(report: Report, error: BaseException | None) -> State[Any] | dict[str, object]:
    """Turn what came of a request into what its flow returns; raises what is a bug or ends the process."""
    if error is not None and not isinstance(error, ForkyardError):
        raise error
    if not report.ok:
        return Failed(message=report.message)
    return report_to_json(report)
