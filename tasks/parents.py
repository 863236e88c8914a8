"""Bring a parent to the point from which it can be forked."""

from prefect import task

from forkyard.model import FrozenParent, VmId
from tasks.options import SINGLE
from tasks.work import Work


@task(name="quiesce-parent", task_run_name="quiesce-parent {parent}", **SINGLE)
def quiesce_parent(work: Work, parent: VmId) -> FrozenParent:
    """Quiesce the application and freeze the VM; a frozen parent is proved to be whole and returned as it is."""
    return work.world.hypervisor.freeze(parent, timeout=work.world.policy.fork_timeout)
