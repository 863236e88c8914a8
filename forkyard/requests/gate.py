"""
What a run must pass before it changes anything, and what it leaves on record at its end.

The run itself verifies: that it was started, resumed or repeated in a workflow server proves nothing. It passes with a
request whose plan somebody has signed, or with a warrant that the command line of this machine has signed.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from forkyard.approvals import Approval, Kind, check_warrant, verify
from forkyard.decisions import find_need
from forkyard.errors import ForkyardError, NotFound, NotPermitted
from forkyard.model import Fleet, ScalePlan, ScaleRequest
from forkyard.plan import make_plan
from forkyard.report import Report
from forkyard.requests import STANDING, Entry, Need, Request, State, StateChanged
from forkyard.requests.moves import SYSTEM, finish, make_entry, say_missed, send_back
from forkyard.requests.plans import PlanRecord, find_drift, find_step, make_record
from forkyard.requests.store import Store, open_store, read_clock
from forkyard.settings import Settings

logger = logging.getLogger(__name__)


class SentBack(NotPermitted):
    """Nothing was changed: the request must be approved again; the message says why."""


@dataclass(slots=True)
class Admission:
    """A run that may go on, and the row that it is on record with."""

    store: Store
    settings: Settings
    row: Request

    def check(self, plan: ScalePlan, fleet: Fleet) -> None:
        """Raise SentBack, and send the request back for approval, when the world is not as it was approved."""
        approved = find_approved(self.store, self.row)
        if approved is None:
            return  # a direct run plans when it runs: there is nothing that it could differ from
        record = make_record(plan, fleet, later=approved.later, expected_seconds=approved.expected_seconds)
        drift = find_drift(approved, record, tolerance=self.settings.requests.drift)
        # A step that finds its number reached already has nothing to ask about.
        if drift is None or (self.row.kind == "later" and record.change == 0 and record.current == record.target):
            return
        if plan.request.target != self.row.target:
            # It was to go a part of the way to what was asked: from another fleet the same number may lead back.
            limits = self.settings.service(self.row.service).limits
            plan = make_plan(replace(plan.request, target=self.row.target), fleet, limits)
            record = make_record(plan, fleet, later=approved.later, expected_seconds=approved.expected_seconds)
        self.row = send_back(self.store, self.settings, self.row, drift, record)
        text = f"{self.row.service}: {drift}. Nothing was changed; approve the new plan of {self.row.token}."
        raise SentBack(text)

    def finish(self, report: Report, error: BaseException | None) -> None:
        """Put on record how the run ended; one that was sent back is left where it is."""
        row = self.store.get(self.row.id)  # somebody may have settled it meanwhile
        if row.state is not State.RUNNING:
            return
        stopped = error is not None and not isinstance(error, Exception)  # Ctrl-C, or Prefect's cancelling
        state = State.SUCCEEDED if report.ok else State.CANCELLED if stopped else State.FAILED
        entry = make_entry(row, SYSTEM, "finish", decision=state.value, detail=report.message)
        self.row = finish(self.store, row, state, entry, shorten(report))


class RecordedGate:
    """A run's way through the gate, as the runbook asks for it; a context that closes the store."""

    def __init__(
        self,
        settings: Settings,
        request: ScaleRequest,
        *,
        run_id: str,
        warrant: str = "",
        clock: Callable[[], datetime] = read_clock,
    ) -> None:
        """Nothing is opened before `enter`; whether it is time is judged by *clock*."""
        self._settings, self._request, self._clock = settings, request, clock
        self._run_id, self._warrant = run_id, warrant
        self._stack = ExitStack()
        self._admission: Admission | None = None

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self._stack.close()

    def enter(self) -> None:
        """Verify approval or warrant, and put the request on record as running; raises as `admit`."""
        store = self._stack.enter_context(open_store(self._settings, clock=self._clock))
        if self._warrant:
            self._admission = admit_direct(store, self._settings, self._request, self._warrant, self._run_id)
        else:
            self._admission = admit(store, self._settings, self._request, self._run_id)

    def check(self, plan: ScalePlan, fleet: Fleet) -> None:
        """Raise SentBack when the world has drifted from what was approved."""
        if self._admission is not None:
            self._admission.check(plan, fleet)

    def leave(self, report: Report, error: BaseException | None) -> None:
        """Put the end on record; the fleet is what it is even when that fails, so a failure is a line in the log."""
        if self._admission is None:
            return
        try:
            self._admission.finish(report, error)
        except ForkyardError as problem:
            logger.warning("%s: its end could not be put on record: %s", self._request.id, problem)


def shorten(report: Report) -> dict[str, Any]:
    """What of a report is kept with its request."""
    return {
        "ok": report.ok,
        "wanted": report.wanted,
        "before": report.before,
        "serving": report.serving,
        "seconds": report.seconds,
        "message": report.message,
        "refused": report.refused,
    }


STARTABLE = frozenset({State.APPROVED, State.SCHEDULED})


def admit(store: Store, settings: Settings, request: ScaleRequest, run_id: str) -> Admission:
    """
    Let the run of an approved request pass, and put it on record as running.

    Raises:
        SentBack: its start was missed, its approval for now is too old, or the service is locked.
        NotPermitted: no such request, another number, too early, no approval, one that is not genuine, or not enough.
        StateChanged: it is over, cancelled, or another run has begun it.
    """
    while True:
        try:
            return _admit_once(store, settings, request, run_id)
        except StateChanged as error:
            # Whoever started this run may write its id into the row at this very moment: that is no reason to refuse.
            if error.now.state not in STARTABLE or error.now.run_id not in {None, run_id}:
                raise


def _admit_once(store: Store, settings: Settings, request: ScaleRequest, run_id: str) -> Admission:
    try:
        row = store.get(request.id)
    except NotFound as error:
        raise NotPermitted(_refuse(store, request, run_id, "it is no request on record.")) from error
    if (row.service, row.goal) != (request.service, request.target):
        raise NotPermitted(_refuse(store, request, run_id, f"the request is for {row.service} to {row.goal}."))
    if row.state is State.RUNNING and row.run_id == run_id:
        return Admission(store, settings, row)  # the same run once more: it looks before it makes
    if row.state not in STARTABLE:
        _refuse(store, request, run_id, f"it is {row.state.value}.")
        raise StateChanged(row, State.RUNNING)
    if row.run_id not in {None, run_id}:
        raise NotPermitted(_refuse(store, request, run_id, "another run was started for it."))
    try:
        approval = find_approval(store, settings, row)
    except NotPermitted as error:
        raise NotPermitted(_refuse(store, request, run_id, str(error))) from error
    if row.start_at is not None and store.now() < row.start_at - settings.requests.late:
        # Left where it is: an old run of a request that was moved must not undo the new one's approval.
        why = f"its start is only at {row.start_at:%Y-%m-%d %H:%M} UTC."
        raise NotPermitted(_refuse(store, request, run_id, why))
    _check_moment(store, settings, row, approval)
    entry = make_entry(row, SYSTEM, "start", decision=State.RUNNING.value, run_id=run_id)
    return Admission(store, settings, store.move(row, State.RUNNING, entry, run_id=run_id))


def admit_direct(store: Store, settings: Settings, request: ScaleRequest, warrant: str, run_id: str) -> Admission:
    """Let a run of this machine's command line pass, and put it on record; raises NotPermitted."""
    try:
        approval = check_warrant(
            settings, warrant, request_id=request.id, service=request.service, target=request.target
        )
    except NotPermitted as error:
        raise NotPermitted(_refuse(store, request, run_id, str(error))) from error
    held = store.locks().get(request.service)
    if held is not None:
        _refuse(store, request, run_id, str(held))
        raise NotPermitted(str(held))
    row = Request(
        id=request.id,
        state=State.RUNNING,
        service=request.service,
        target=request.target,
        requested_by=approval.approver,
        requested_at=request.requested_at,
        origin="cli",
        reason=request.reason,
        run_id=run_id or None,
    )
    entry = make_entry(row, approval.approver, "scale", decision=Kind.DIRECT.value, detail=f"to {request.target}")
    row, fresh = store.add(row, entry)
    if not fresh and (row.state is not State.RUNNING or row.run_id != (run_id or None)):
        raise StateChanged(row, State.RUNNING)
    store.keep(approval)
    return Admission(store, settings, row)


def find_approval(store: Store, settings: Settings, row: Request) -> Approval:
    """The approval that lets *row* run; raises NotPermitted when there is none that is genuine and enough."""
    approved = row
    if row.kind == "later" and row.parent is not None:
        # Approved together with what it follows: the parent's plan names this moment and number.
        approved = store.get(row.parent)
        gone = approved.state not in STANDING or approved.plan is None
        if gone or find_approved(store, row) is None:
            text = f"{row.token}: is not part of what was approved with {approved.token}. Have it approved."
            raise NotPermitted(text)
    elif row.plan is not None and (row.service, row.start_at) != (row.plan.service, row.plan.start_at):
        text = f"{row.token}: is not what was planned: somebody changed its row. Ask again."
        raise NotPermitted(text)
    if approved.plan is None:
        text = f"{row.token}: has no plan, so nobody can have approved it."
        raise NotPermitted(text)
    # What is needed follows from the plan, not from the row: a row is easier to change than a hash to forge.
    need, why = find_need(approved.plan, settings.service(row.service), approved.requested_by)
    text = f"{row.token}: nobody has approved it. Approve it with: approve {row.token}"
    # The newest first: the same plan approved once more counts from then on.
    for approval in reversed(store.approvals(approved.id)):
        if approval.plan_hash != approved.plan_hash:
            continue
        verify(store.key, approval, request_id=approved.id, plan_hash=approved.plan_hash)
        if is_enough(approval, approved, need):
            return approval
        text = f"{row.token}: needs another person's approval than {approved.requested_by}'s: {why}."
    raise NotPermitted(text)


def find_approved(store: Store, row: Request) -> PlanRecord | None:
    """The plan that *row* was approved by: its own, or its step of its parent's; None: it has none."""
    if row.kind != "later" or row.parent is None:
        return row.plan
    signed = store.get(row.parent).plan
    return find_step(signed, row.start_at, row.target) if signed is not None else None


def is_enough(approval: Approval, row: Request, need: Need) -> bool:
    """Whether a genuine approval suffices."""
    if need is Need.REQUESTER or approval.kind is Kind.BREAK_GLASS:
        return True
    return approval.kind is Kind.OTHER and approval.approver != row.requested_by


def _check_moment(store: Store, settings: Settings, row: Request, approval: Approval) -> None:
    held, now = store.locks().get(row.service), store.now()
    # What was approved to begin at once is as late as its approval is old, in whatever state somebody has put its row.
    begin = row.start_at or approval.at
    why = ""
    if held is not None:
        why = f"the service is locked by {held.who}: {held.reason}"
    elif now > begin + settings.requests.late:
        why = f"{say_missed(row, begin)} by {int((now - begin).total_seconds() // 60)} min"
    if why:
        send_back(store, settings, row, why, None)
        text = f"{row.service}: {why}. Nothing was changed; approve {row.token} again to have it done now."
        raise SentBack(text)


def _refuse(store: Store, request: ScaleRequest, run_id: str, why: str) -> str:
    entry = Entry(
        who=request.requested_by or "somebody",
        action="start",
        request_id=request.id,
        service=request.service,
        decision="refused",
        run_id=run_id or None,
        detail=why,
    )
    store.note(entry)
    return (
        f"{request.service}: this run may not change anything: {why} "
        f"Ask for it from Slack or with `forkyard scale`; a run begun in the workflow server alone is refused."
    )


__all__ = [
    "Admission",
    "RecordedGate",
    "SentBack",
    "admit",
    "admit_direct",
    "find_approval",
    "find_approved",
]
