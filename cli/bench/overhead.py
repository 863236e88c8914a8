"""The bench `overhead`: 0 to 4 as a Prefect flow, over the same driver calls made as plain calls."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from cli.bench import Context, Run
from cli.bench.parts import SERVICE, require_room, scale_to
from flows.executors import DirectExecutor
from flows.runbook import scale_fleet
from flows.runs import Runs
from forkyard.errors import PermanentError
from forkyard.model import ScaleRequest
from forkyard.names import new_request_id
from forkyard.report import Journal, Report
from forkyard.world import open_world
from tasks.work import Work

TARGET = 4


def measure_overhead(context: Context) -> Sequence[Run]:
    """
    One after the other in each run, so that both meet the same machine.

    The value is the flow's wall time as Prefect's server has it, from its start to the moment its result can be
    read, over the plain calls in a process that has imported everything. Beside it stands the whole command's, which
    also starts a process, has the run begun and learns of its end.
    """
    require_room(context, TARGET)
    return [_measure_once(context) for _ in range(context.runs)]


def _measure_once(context: Context) -> Run:
    scale_to(context, 0)
    context.say("the same calls without Prefect")
    started = time.monotonic()
    report = _scale_plainly(context, TARGET)
    plain = time.monotonic() - started
    if not report.ok:
        text = f"the plain calls did not get there: {report.message}"
        raise PermanentError(text)
    scale_to(context, 0)
    through_flow = scale_to(context, TARGET)
    run_id = str(through_flow["run_url"]).rpartition("/")[2]
    inside = Runs(context.settings.prefect.api_url).measure(run_id).total_seconds()
    whole = float(str(through_flow["seconds"]))
    scale_to(context, 0)
    details = {
        "plain_seconds": plain,
        "flow_seconds": inside,
        "command_seconds": whole,
        "command_over_plain": whole / plain,
    }
    return Run(inside / plain, {name: round(value, 3) for name, value in details.items()})


def _scale_plainly(context: Context, target: int) -> Report:
    now = datetime.now(UTC)
    request = ScaleRequest(new_request_id(), SERVICE, target, "bench", now, "bench")
    with open_world(context.settings, SERVICE) as world, DirectExecutor() as executor:
        report, _ = scale_fleet(Work(world, request, Journal(now)), executor)
    return report
