"""Look at the whole fleet at once."""

from prefect import task

from forkyard.model import Fleet
from forkyard.phases import observe_fleet
from tasks.options import SINGLE
from tasks.work import Work


@task(name="observe", task_run_name="observe {when}", **SINGLE)
def observe(work: Work, when: str) -> Fleet:
    """Look at hypervisor, Consul and Nginx; *when* only names the task's run."""
    del when
    return observe_fleet(work.world)


@task(name="count-connections", task_run_name="count-connections", **SINGLE)
def count_connections(work: Work) -> dict[str, int]:
    """Count open connections per child, so that the least loaded retire first."""
    return work.world.balancer.active_connections(work.service)
