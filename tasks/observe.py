"""Look at the whole fleet at once."""

from collections.abc import Callable
from datetime import timedelta

from prefect import task

from forkyard.errors import NotReady
from forkyard.model import Fleet, Phase
from forkyard.phases import observe_fleet
from forkyard.plan import fails_at_large
from forkyard.sync import HOLD, converge
from forkyard.waiting import wait_for
from tasks.options import SINGLE
from tasks.work import Work

SETTLE = timedelta(seconds=15)
"""How long a child that served may fail its check before the request counts it as failed."""


@task(name="observe", task_run_name="observe {when}", **SINGLE)
def observe(work: Work, when: str) -> Fleet:
    """Look at hypervisor, Consul and Nginx; *when* only names the task's run."""
    del when
    return observe_fleet(work.world)


@task(name="observe", task_run_name="observe before", **SINGLE)
def observe_before(work: Work) -> Fleet:
    """
    Look before anything is made, and see that Nginx runs: without it no child could come to serve.

    A fleet that fails its checks at large is looked at again for a while, unless all of it is to go: Consul may just be
    choosing its leader.
    """
    work.world.balancer.check_running()
    return _look_until(work, lambda fleet: work.request.target == 0 or not fails_at_large(fleet))


@task(name="observe", task_run_name="observe after", **SINGLE)
def observe_settled(work: Work, wanted: int) -> Fleet:
    """
    Look until *wanted* children serve, for a short time; return the last look, whatever it shows.

    On a busy machine a check that passed a moment ago fails once and passes again: that is no failed child yet.
    """

    def is_settled(fleet: Fleet) -> bool:
        if len(fleet.serving) >= wanted:
            return True
        if any(child.phase is Phase.READY for child in fleet.children) and work.permit.refusal() is None:
            converge(work.world.registry, work.world.balancer, work.service, hold=HOLD, stop=work.permit.stop)
        return False

    return _look_until(work, is_settled)


def _look_until(work: Work, is_settled: Callable[[Fleet], bool]) -> Fleet:
    """The first look that is settled, or the last one of a short time."""
    last: list[Fleet] = []

    def look() -> Fleet | None:
        last.append(observe_fleet(work.world))
        return last[-1] if is_settled(last[-1]) else None

    try:
        return wait_for(look, what="a fleet that is settled", timeout=SETTLE, stop=work.permit.stop)
    except NotReady:
        return last[-1] if last else observe_fleet(work.world)


@task(name="count-connections", task_run_name="count-connections", **SINGLE)
def count_connections(work: Work) -> dict[str, int]:
    """Count open connections per child, so that the least loaded retire first."""
    return work.world.balancer.active_connections(work.service)
