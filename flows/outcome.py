"""Make the report of a request from what was there before, what is there now, and what the journal says."""

import re
from collections import Counter
from datetime import UTC, datetime

from forkyard.errors import MENDABLE, ForkyardError, explain
from forkyard.model import Child, Fleet, Phase, ScalePlan, StepKind
from forkyard.report import ChildReport, Interval, Report
from tasks.work import Work

MOST_NAMED = 5
"""Children that a message names; the table has them all."""

_DIFFERING = re.compile(r"[0-9a-f]{8,}|\d+")


def make_report(work: Work, before: Fleet | None, after: Fleet | None, error: BaseException | None = None) -> Report:
    """Make the report; *error* is what stopped the request."""
    request, plan = work.request, work.journal.plan
    serving = len(after.serving) if after is not None else None
    # As asked means: so many serve, and nothing else is left over.
    ok = error is None and after is not None and serving == request.target == len(after.children)
    count = plan.current if plan is not None else (len(before.serving) if before is not None else None)
    return Report(
        service=work.service,
        request_id=request.id,
        wanted=request.target,
        before=count,
        serving=serving,
        seconds=_elapsed(work),
        ok=ok,
        message=_message(work, after, serving, error, ok=ok),
        children=_children(work, after),
        notes=work.journal.remarks(),
        requested_by=request.requested_by,
        reason=request.reason,
        refused=isinstance(error, MENDABLE) if error is not None else not ok and _can_be_mended(work, after),
    )


def make_dry_report(work: Work, plan: ScalePlan, fleet: Fleet) -> Report:
    """Make the report of a request that only asked what would be done."""
    words = {StepKind.FORK: "fork", StepKind.RETIRE: "retire", StepKind.REMOVE: "remove"}
    parts = [f"{word} {len(plan.of(kind))}" for kind, word in words.items() if plan.of(kind)]
    request = work.request
    return Report(
        service=work.service,
        request_id=request.id,
        wanted=request.target,
        before=plan.current,
        serving=len(fleet.serving),
        seconds=_elapsed(work),
        ok=True,
        message=f"would {', '.join(parts)}" if parts else "nothing to do",
        children=_children(work, fleet),
        notes=(*work.journal.remarks(), *(f"{step.kind}: {step.name}" for step in plan.steps)),
        requested_by=request.requested_by,
        reason=request.reason,
        dry_run=True,
    )


def _elapsed(work: Work) -> float:
    return round((datetime.now(UTC) - work.journal.started).total_seconds(), 3)


def _message(work: Work, after: Fleet | None, serving: int | None, error: BaseException | None, *, ok: bool) -> str:
    wanted = work.request.target
    if error is not None:
        return _tell_error(work, serving, error)
    if ok:
        return f"{serving} of {wanted} serving"
    if work.permit.lease_lost:
        return f"the lease was lost, so nothing more was changed: {serving} of {wanted} serving"
    left = _tell_others(after) if after is not None else ""
    stop = " (stopped making children after repeated failures)" if work.permit.breaker_open else ""
    return f"{serving} of {wanted} serving{left}{stop}{_tell_failures(work)}"


def _tell_error(work: Work, serving: int | None, error: BaseException) -> str:
    now = f"{serving} of {work.request.target} serving" if serving is not None else "nobody knows how many serve"
    if not isinstance(error, Exception):
        return f"cancelled: {now}"
    if not isinstance(error, ForkyardError):
        return f"stopped by {type(error).__name__}: {now}"
    # Before anything was begun the error is all there is to say.
    begun, text = work.permit.stop.is_set(), explain(error)
    return f"{text.removesuffix('.')}. {now[:1].upper()}{now[1:]}." if begun else text


def _can_be_mended(work: Work, after: Fleet | None) -> bool:
    """Whether each child that is missing failed for a reason that a person can mend."""
    failures = work.journal.failures()
    children = after.children if after is not None else ()
    unexplained = [c for c in children if c.phase is not Phase.SERVING and c.vm.name not in failures]
    return bool(failures) and not unexplained and all(failure.mendable for failure in failures.values())


def _tell_failures(work: Work) -> str:
    """Say how many children failed, and the reason that most of them have in common, in the words of one."""
    texts = {name: failure.text for name, failure in work.journal.failures().items()}
    if not texts:
        return ""
    # What differs from child to child is its name, its addresses and its process.
    kinds = {name: _DIFFERING.sub("#", text.replace(name, "")) for name, text in texts.items()}
    (kind, count), *others = Counter(kinds.values()).most_common()
    text = next(texts[name] for name in texts if kinds[name] == kind)
    failed = "1 child" if len(texts) == 1 else f"{len(texts)} children"
    return f". {failed} failed, {count} like this: {text}" if others else f". {failed} failed: {text}"


def _tell_others(fleet: Fleet) -> str:
    others = [child for child in fleet.children if child.phase is not Phase.SERVING]
    if not others:
        return ""
    words = [f"{child.vm.name} ({child.phase}, {_tell_checks(child)})" for child in others]
    more = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return f", and {len(others)} children are there that do not serve: {', '.join(words[:MOST_NAMED])}{more}"


def _tell_checks(child: Child) -> str:
    entry = child.registration
    return f"checks {entry.status}" if entry is not None else "not registered"


def _children(work: Work, after: Fleet | None) -> tuple[ChildReport, ...]:
    intervals = work.journal.intervals()
    errors = {name: failure.text for name, failure in work.journal.failures().items()}
    there = {child.vm.name: child for child in (after.children if after is not None else ())}
    # Those that are gone again, in the order in which they were begun.
    gone = [name for name in intervals if name not in there]
    present = tuple(_present(child, intervals.get(name, ()), errors.get(name)) for name, child in there.items())
    return present + tuple(
        ChildReport(name, Phase.RETIRED, intervals=intervals[name], error=errors.get(name)) for name in gone
    )


def _present(child: Child, intervals: tuple[Interval, ...], error: str | None) -> ChildReport:
    vm = child.vm
    return ChildReport(
        name=vm.name,
        phase=child.phase,
        address=vm.address,
        parent=vm.parent,
        host=vm.host,
        pid=vm.pid,
        fork_id=vm.stamp.fork_id,
        pss_bytes=vm.pss_bytes,
        intervals=intervals,
        error=error,
    )
