"""
The runbook of one request: lease, observe, plan, record the intent, the stages, observe, report.

Neither Prefect's nor the command line's: the same lines run as a flow and as plain calls. At the end the
fleet is as asked, or as it was before, or the report says exactly what is there.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from flows.executors import Executor, Pending
from flows.outcome import make_dry_report, make_report
from flows.undoing import is_unkept, record_intent, undoing
from forkyard.errors import ForkyardError
from forkyard.holders import hold_lease, make_holder
from forkyard.model import Fleet, LeaseHolder, Outcome, ScalePlan, Step, StepKind, Vm, VmId
from forkyard.plan import limit_forks, make_plan
from forkyard.report import Report
from tasks.balancer import await_connections, drain_children, update_nginx
from tasks.children import customize_guest, destroy_children, fork_children, keep_children
from tasks.observe import count_connections, observe, observe_before, observe_settled
from tasks.parents import quiesce_parents
from tasks.registration import verify_registration, watching
from tasks.work import PARALLEL, Batch, Work

logger = logging.getLogger(__name__)

ROUNDS = 3
"""How often a request goes on with new children for those that failed, the first round included."""

EACH_ITS_OWN = 50
"""Up to so many children each has its own task runs in the UI; beyond, a task run has a batch of them."""

BATCH = 50


def scale_fleet(work: Work, executor: Executor) -> tuple[Report, BaseException | None]:
    """
    Carry out *work*'s request; return what there is now, and what stopped it if anything did.

    Nothing is raised, so that the report is made in every case; the caller raises the second value if it must.
    """
    before: Fleet | None = None
    try:
        if work.request.dry_run:
            before = executor.submit(observe, work, "for a dry run").result()
            return make_dry_report(work, _plan(work, executor, before, ()), before), None
        work.gate.enter()
        with _leased(work), watching(work):
            before = _observe_with_parent(work, executor)
            plan = _plan(work, executor, before, ())
            work.gate.check(plan, before)
            with undoing(work, executor, before):
                _adopt(work, executor, before)
                after = _work_off(work, executor, plan)
            return make_report(work, before, after), None
    except BaseException as error:  # noqa: BLE001 - Ctrl-C and Prefect's TerminationSignal too: the report comes first
        return make_report(work, before, _last_look(work), error), error


@contextmanager
def _leased(work: Work) -> Iterator[None]:
    request = work.request
    reason = request.reason or f"scale to {request.target}"
    holder = make_holder(request.id, who=request.requested_by or "somebody", reason=reason)
    # Twice the TTL: after it even the lease of a holder that died on another host has run out.
    wait = 2 * work.world.settings.consul.lease_ttl

    def told(other: LeaseHolder) -> None:
        work.journal.waits_for = other

    with hold_lease(work.world.registry, work.service, holder, wait=wait, told=told) as lease:
        work.journal.waits_for = None
        work.permit.grant(lease, fork_limit=3 + request.target // 10)
        yield


def _observe_with_parent(work: Work, executor: Executor) -> Fleet:
    fleet = executor.submit(observe_before, work).result()
    if fleet.parents or work.request.target <= len(fleet.children):
        return fleet
    # The first fork ever: the parent runs still, and only a frozen one has placements.
    _quiesce(work, executor, [VmId(work.world.policy.parent)])
    return executor.submit(observe, work, "with parent").result()


def _adopt(work: Work, executor: Executor, fleet: Fleet) -> None:
    """Keep the children that serve although their request was killed before it kept them: the plan counts them."""
    unkept = [
        c.vm for c in fleet.serving if c.vm.stamp.expires is not None and c.vm.stamp.request_id != work.request.id
    ]
    if unkept:
        executor.submit(keep_children, work, Batch(unkept)).result()


def _work_off(work: Work, executor: Executor, plan: ScalePlan) -> Fleet:
    avoid: set[str] = set()
    record_intent(work, plan.target)
    left = ROUNDS
    while True:
        left -= 1
        failed = _carry_out(work, executor, plan)
        avoid |= failed
        fleet = executor.submit(observe_settled, work, plan.target - len(failed)).result()
        if not avoid or left == 0 or work.permit.refusal() or work.permit.breaker_open:
            return fleet
        plan = _plan(work, executor, fleet, avoid)
        logger.info("%s: %d steps are left, in at most %d more rounds", work.service, len(plan.steps), left)


def _plan(work: Work, executor: Executor, fleet: Fleet, avoid: Iterable[str]) -> ScalePlan:
    shrinks = work.request.target < len(fleet.children)
    connections = executor.submit(count_connections, work).result() if shrinks else {}
    plan = make_plan(work.request, fleet, work.world.policy.limits, connections=connections, avoid=frozenset(avoid))
    for note in plan.notes:
        work.journal.remark(note)
    work.journal.planned(plan)
    return plan


def _carry_out(work: Work, executor: Executor, plan: ScalePlan) -> set[str]:
    """Do the plan's steps; return the children that were to be made and are not."""
    still_there = _remove(work, executor, plan.of(StepKind.REMOVE))
    plan = limit_forks(plan, work.world.policy.limits, still_there)
    _retire(work, executor, plan.of(StepKind.RETIRE))
    return _grow(work, executor, plan.of(StepKind.FORK))


def _remove(work: Work, executor: Executor, steps: Sequence[Step]) -> tuple[str, ...]:
    """Clear what dead and failed children left; return those that could not be cleared."""
    outcomes = _clear(work, executor, "left behind", _targets(steps)) if steps else ()
    return tuple(outcome.name for outcome in outcomes if not outcome.ok)


def _clear(work: Work, executor: Executor, label: str, targets: Batch[tuple[str, VmId]]) -> Batch[Outcome[bool]]:
    # Marked first: the balancer must not send anybody to a child that is being destroyed.
    executor.submit(drain_children, work, Batch(name for name, _ in targets)).result()
    executor.submit(update_nginx, work, Batch()).result()
    return executor.submit(destroy_children, work, label, targets).result()


def _retire(work: Work, executor: Executor, steps: Sequence[Step]) -> None:
    """Drain, wait for open connections, destroy; a child that could not be marked stays as it is."""
    if not steps:
        return
    marked = executor.submit(drain_children, work, Batch(step.name for step in steps)).result()
    names = [outcome.name for outcome in marked if outcome.ok]
    work.draining.update(names)
    executor.submit(update_nginx, work, Batch()).result()
    still_open = executor.submit(await_connections, work, Batch(names)).result()
    for name, number in sorted(still_open.items()):
        work.journal.remark(f"{name}: {number} connections were still open when it was retired")
    going = [step for step in steps if step.name in names]
    for outcome in executor.submit(destroy_children, work, "retired", _targets(going)).result():
        if outcome.ok:
            work.draining.discard(outcome.name)


def _grow(work: Work, executor: Executor, steps: Sequence[Step]) -> set[str]:
    """Make the steps' children serve; destroy those that do not, and return their names."""
    if not steps:
        return set()
    parents = sorted({step.placement.parent for step in steps if step.placement is not None})
    _quiesce(work, executor, parents)
    places = {(p.parent, p.host): p.at_once for step in steps if (p := step.placement) is not None}
    slots = max(1, sum(places.values()))
    work.pace.limit(slots)
    # Each batch goes on by itself: a child that is slow to fork keeps no other from its identity.
    verified: list[Pending[Batch[Outcome[Vm]]]] = []
    batches = _batches(steps)
    work.width = max(1, min(PARALLEL, slots) // min(len(batches), slots))
    for label, batch in batches:
        forked = executor.submit(fork_children, work, label, batch)
        identified = executor.submit(customize_guest, work, label, forked)
        verified.append(executor.submit(verify_registration, work, label, identified))
    ready = _values(outcome for pending in verified for outcome in pending.result())
    served = _values(executor.submit(update_nginx, work, ready).result()) if ready else Batch[Vm]()
    kept = _values(executor.submit(keep_children, work, served).result()) if served else Batch[Vm]()
    failed = {step.name for step in steps} - {vm.name for vm in kept}
    if failed:
        _destroy_unkept(work, executor, failed)
    return failed


def _destroy_unkept(work: Work, executor: Executor, names: set[str]) -> None:
    # By a new look: a fork whose outcome is unknown may have left a VM that no outcome names.
    fleet = executor.submit(observe, work, "what failed").result()
    targets = Batch((c.vm.name, c.vm.id) for c in fleet.children if c.vm.name in names and is_unkept(work, c.vm))
    if targets and work.permit.refusal() is None:
        _clear(work, executor, "failed", targets)


def _last_look(work: Work) -> Fleet | None:
    try:
        return observe.fn(work, "at the end")
    except ForkyardError as error:
        work.journal.remark(f"the fleet could not be observed at the end: {error}")
        return None


def _quiesce(work: Work, executor: Executor, parents: Sequence[VmId]) -> None:
    if parents:
        executor.submit(quiesce_parents, work, _label(parents), Batch(parents)).result()


def _batches(steps: Sequence[Step]) -> list[tuple[str, Batch[Step]]]:
    size = 1 if len(steps) <= EACH_ITS_OWN else BATCH
    parts = [steps[first : first + size] for first in range(0, len(steps), size)]
    return [(_label([step.name for step in part]), Batch(part)) for part in parts]


def _label(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _targets(steps: Iterable[Step]) -> Batch[tuple[str, VmId]]:
    return Batch((step.name, step.vm) for step in steps if step.vm is not None)


def _values(outcomes: Iterable[Outcome[Vm]]) -> Batch[Vm]:
    return Batch(outcome.value for outcome in outcomes if outcome.value is not None)
