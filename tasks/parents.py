"""Bring a parent to the point from which it can be forked, and begin what its next forks need."""

import logging
from datetime import timedelta

from prefect import task

from forkyard.errors import ForkyardError
from forkyard.hypervisors import StartsAhead
from forkyard.model import VmId
from tasks.options import SINGLE
from tasks.work import Batch, Work

logger = logging.getLogger(__name__)


@task(name="quiesce-parent", task_run_name="quiesce-parent {label}", **SINGLE)
def quiesce_parents(work: Work, label: str, parents: Batch[VmId]) -> None:
    """
    Quiesce each parent's application and freeze its VM; a frozen parent is proved to be whole and left as it is.

    One task for all of them: on a cluster each host has one, and nearly always all are frozen.
    """
    del label
    work.each(parents, lambda parent: work.world.hypervisor.freeze(parent, timeout=work.world.policy.fork_timeout))


START_AHEAD = timedelta(seconds=30)


def start_ahead(work: Work) -> None:
    """
    Have processes wait for the next forks, where the hypervisor can.

    A courtesy to the next request and no part of this one, so it is no task and fails nothing.
    """
    hypervisor = work.world.hypervisor
    if not isinstance(hypervisor, StartsAhead):
        return
    try:
        for parent in hypervisor.list_parents(work.service):
            hypervisor.start_ahead(parent.id, timeout=START_AHEAD)
    except ForkyardError as error:
        logger.warning("%s: nothing was started ahead: %s", work.service, error)
