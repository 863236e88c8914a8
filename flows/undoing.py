"""
Bring a fleet back to what it was when its request ends before its time.

A courtesy: a process that is killed undoes nothing, and what is left here is the reaper's. Each part is tried by
itself, so that an Nginx that is away keeps no child alive and no false number on record.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from signal import SIG_IGN, SIGTERM, signal
from threading import current_thread, main_thread

from flows.executors import Executor
from forkyard.errors import ForkyardError
from forkyard.model import Fleet, Intent, Power, Vm
from forkyard.phases import is_kept
from forkyard.sync import HOLD, converge
from tasks.children import destroy_children
from tasks.work import Batch, Work

logger = logging.getLogger(__name__)

SETTLE = 8.0
"""Seconds for calls under way to end before a rollback: a cancelled run has 30 s in all until it is killed."""


@contextmanager
def undoing(work: Work, executor: Executor, before: Fleet) -> Iterator[None]:
    """When the block is left by anything but its end: bring the fleet back to what it was, as far as there is time."""
    try:
        yield
    except BaseException as error:
        # Ctrl-C and Prefect's TerminationSignal are no errors: somebody wants it so.
        failed = isinstance(error, Exception)
        work.permit.withdraw(f"the request {'has failed' if failed else 'was cancelled'}")
        logger.warning("%s: stopped by %s: undoing what is half made", work.service, type(error).__name__)
        with _deaf_to_sigterm():
            executor.settle(SETTLE)
            _undo(work, before)
        raise


def is_unkept(work: Work, vm: Vm) -> bool:
    """Whether this very request made the VM and has not kept it."""
    return vm.stamp.request_id == work.request.id and not is_kept(vm)


def record_intent(work: Work, wanted: int) -> None:
    """Put on record what the service should be."""
    intent = Intent(wanted, work.request.id, work.permit.fencing)
    work.world.registry.record_intent(work.service, intent)


@contextmanager
def _deaf_to_sigterm() -> Iterator[None]:
    # Seen on a busy machine: a cancelled run is told twice, and the second signal must not stop the undoing
    # half way. It cannot go on for long: Prefect kills a cancelled run's process after 30 s.
    if current_thread() is not main_thread():
        yield
        return
    previous = signal(SIGTERM, SIG_IGN)
    try:
        yield
    finally:
        signal(SIGTERM, previous)


def _undo(work: Work, before: Fleet) -> None:
    # Plain calls, not task runs: this must work while Prefect is ending the run.
    parts: tuple[tuple[Callable[[Work, Fleet], None], str, str], ...] = (
        (_destroy_unkept, "children that were half made may be left", "Run `forkyard reap`."),
        (_put_back_to_work, "children may still be marked as draining", "Ask again for the number that you want."),
        (_converge, "Nginx could not be brought in line with Consul", "`forkyard sync` does it when that is mended."),
        (_restore_intent, "the number on record is still this request's", "Ask again for the number that you want."),
    )
    for act, trouble, step in parts:
        if work.permit.lease_lost:
            work.journal.remark("the lease was lost, so nothing more was undone. Run `forkyard reap`, then ask again.")
            return
        try:
            act(work, before)
        except Exception as error:  # a bug in one part must neither skip the others nor hide what stopped the request
            logger.warning("%s: %s: %s", work.service, trouble, error, exc_info=not isinstance(error, ForkyardError))
            work.journal.remark(f"{trouble}: {str(error).removesuffix('.')}. {step}")


def _destroy_unkept(work: Work, before: Fleet) -> None:
    del before
    vms = work.world.hypervisor.list_vms(work.service)
    unkept = Batch((vm.name, vm.id) for vm in vms if is_unkept(work, vm))
    _take_out(work, {name for name, _ in unkept})
    left = [outcome for outcome in destroy_children.fn(work, "undo", unkept, undo=True) if not outcome.ok]
    if left:
        work.journal.remark(
            f"{len(left)} children that were half made are left ({left[0].error}). Run `forkyard reap`."
        )


def _take_out(work: Work, names: set[str]) -> None:
    """Have Nginx send nobody to children that are about to be destroyed; where that cannot be, they go all the same."""
    try:
        upstream = work.world.balancer.upstream(work.service)
        served = names & {server.name for server in upstream.servers} if upstream is not None else set[str]()
        for name in sorted(served):
            work.world.registry.set_draining(work.service, name, draining=True)
        if served:
            converge(work.world.registry, work.world.balancer, work.service, hold=HOLD)
    except ForkyardError as error:
        logger.warning("%s: Nginx may still send players to %d children: %s", work.service, len(names), error)


def _put_back_to_work(work: Work, before: Fleet) -> None:
    del before
    for name in sorted(work.draining):
        work.world.registry.set_draining(work.service, name, draining=False)


def _converge(work: Work, before: Fleet) -> None:
    del before
    converge(work.world.registry, work.world.balancer, work.service, hold=HOLD)


def _restore_intent(work: Work, before: Fleet) -> None:
    """Record what was wanted before; where the fleet is not what it was, or nothing was on record, what is there."""
    members = {vm.name: vm for vm in work.world.hypervisor.list_vms(work.service) if is_kept(vm)}
    undone = members.keys() == {child.vm.name for child in before.children if is_kept(child.vm)}
    if before.intent is not None and undone:
        record_intent(work, before.intent.wanted)
    else:
        record_intent(work, sum(vm.power is Power.RUNNING for vm in members.values()))
