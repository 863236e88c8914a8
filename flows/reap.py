"""The deployment `reap`: the core's reaper as a flow, so that its runs and findings can be seen in the Prefect UI."""

from datetime import timedelta
from typing import Any

from prefect import flow
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Failed

from flows.publish import publish_table
from forkyard.errors import LeaseHeld
from forkyard.holders import make_holder
from forkyard.reap import ReapReport, reap
from forkyard.settings import load_settings
from forkyard.world import open_world

BUSY = timedelta(seconds=1)
"""How long a sweep waits for a service that a request is working on: the next sweep comes soon enough."""


def _run_name() -> str:
    return f"reap {flow_run.parameters['service']}"


@flow(name="reap", flow_run_name=_run_name, persist_result=False)
def reap_service(service: str, *, dry_run: bool = False) -> State[Any] | dict[str, object]:
    """Destroy what nobody owns: seen twice, stamped, and while no request works on the service."""
    settings = load_settings()
    holder = make_holder(str(flow_run.id), who="reap", reason="sweep")
    with open_world(settings, service) as world:
        try:
            report = reap(world, holder, dry_run=dry_run, wait=BUSY)
        except LeaseHeld as error:
            return {"service": service, "ok": True, "message": f"left alone: {error}", "removed": []}
    return _conclude(report)


def _conclude(report: ReapReport) -> State[Any] | dict[str, object]:
    rows: list[dict[str, object]] = [
        {"name": r.orphan.name, "kind": r.orphan.kind.value, "why": r.orphan.why, "error": r.error or ""}
        for r in report.removals
    ]
    verb = "found" if report.dry_run else "removed"
    message = f"{report.service}: {len(rows)} orphans {verb}"
    if rows:
        publish_table(f"{report.service}-orphans", rows, message)
    failed = sum(removal.error is not None for removal in report.removals)
    if failed:
        return Failed(message=f"{message}, {failed} could not be removed")
    return {"service": report.service, "ok": True, "message": message, "removed": rows}
