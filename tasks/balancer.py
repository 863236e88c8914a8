"""Bring Nginx in line with Consul, and see each child answer through it."""

from datetime import UTC, datetime, timedelta

from prefect import task

from forkyard.errors import ForkyardError
from forkyard.model import Outcome, Phase, Vm
from forkyard.sync import HOLD, converge
from forkyard.waiting import wait_for
from tasks.options import BATCH, SINGLE
from tasks.work import Batch, Work


@task(name="update-nginx", task_run_name="update-nginx", **SINGLE)
def update_nginx(work: Work, vms: Batch[Vm]) -> Batch[Outcome[Vm]]:
    """
    Put the registered children into Nginx and ask through it until each of *vms* has answered.

    The same piece of code as the resident `forkyard sync`, which may run at the same time.
    """
    started = datetime.now(UTC)
    converge(work.world.registry, work.world.balancer, work.service, hold=HOLD, stop=work.permit.stop)
    if not vms:
        return Batch()
    for vm in vms:
        work.journal.begin(vm.name, Phase.SERVING, started)
    timeout = work.world.policy.serve_timeout
    updated = (datetime.now(UTC) - started).total_seconds()
    answered, reason = _probe(work, frozenset(vm.name for vm in vms), timeout)
    told = (datetime.now(UTC) - started).total_seconds()
    outcomes = []
    for vm in vms:
        error = None if vm.name in answered else f"{vm.name}: {reason}"
        seconds = updated + answered[vm.name] if error is None else told
        work.journal.end(vm.name, Phase.SERVING, seconds, error)
        outcomes.append(Outcome(vm.name, None if error else vm, error, error is not None, started, seconds))
    return Batch(outcomes)


def _probe(work: Work, names: frozenset[str], timeout: timedelta) -> tuple[dict[str, float], str]:
    begun = datetime.now(UTC)
    try:
        found = work.world.balancer.probe(work.service, names, timeout=timeout)
    except ForkyardError as error:
        return {}, str(error)
    return found, f"no good answer through Nginx within {(datetime.now(UTC) - begun).total_seconds():.0f} s"


@task(name="drain-children", task_run_name="drain-children", **BATCH)
def drain_children(work: Work, names: Batch[str]) -> Batch[Outcome[bool]]:
    """Mark each child as taking no new work."""

    def drain(name: str) -> Outcome[bool]:
        def call(left: timedelta) -> bool:
            del left
            work.world.registry.set_draining(work.service, name, draining=True)
            return True

        return work.attempt(name, Phase.DRAINING, call, work.world.policy.drain_timeout)

    return work.each(names, drain)


@task(name="await-connections", task_run_name="await-connections", **BATCH)
def await_connections(work: Work, names: Batch[str]) -> dict[str, int]:
    """
    Wait until no child of *names* has an open connection, at most the service's drain timeout.

    Returns the connections that are still open then.
    """
    wanted = frozenset(names)
    left: dict[str, int] = {}

    def look() -> bool | None:
        found = work.world.balancer.active_connections(work.service)
        left.clear()
        left.update({name: number for name, number in found.items() if name in wanted and number > 0})
        return None if left else True

    try:
        wait_for(look, what="end of open connections", timeout=work.world.policy.drain_timeout, stop=work.permit.stop)
    except ForkyardError as error:
        work.journal.remark(str(error))
    return dict(left)
