"""
What people do with requests, in Slack and at the command line alike: ask, approve, deny, cancel, roll back, lock.

Every call checks the person's role as it is at that moment and leaves an entry in the audit log, a refusal too. Nothing
here starts a run: what is approved is found in the store by whoever starts runs (`Desk.due`).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from forkyard.approvals import Approval, sign
from forkyard.commands import Scale
from forkyard.decisions import CALENDAR, find_need, judge_approver
from forkyard.errors import ForkyardError, InvalidRequest, NotPermitted, PermanentError, RequestError
from forkyard.model import ScaleRequest
from forkyard.moments import When
from forkyard.names import new_request_id
from forkyard.plan import check_request
from forkyard.requests import OPEN, Entry, Request, ServiceLock, State, StateChanged
from forkyard.requests.moves import (
    SYSTEM,
    ask_about_missed,
    cancel,
    check_retry,
    check_rollback,
    find_expiry,
    is_followed_up,
    list_repeated,
    make_entry,
    time_out,
)
from forkyard.requests.plans import PlanRecord
from forkyard.requests.series import (
    count_from,
    explain_large,
    find_conflicts,
    find_step_before,
    foresee,
    make_again,
    make_steps,
    shift,
)
from forkyard.requests.store import Store
from forkyard.roles import LOCAL, Person, check, may
from forkyard.settings import Settings

logger = logging.getLogger(__name__)

Look = Callable[[Settings, Request], PlanRecord]
"""Observes the fleet and plans a request (`forkyard.requests.looking.plan_now`)."""


class Desk:
    """Where requests are made and decided."""

    def __init__(self, store: Store, load: Callable[[], Settings], look: Look) -> None:
        """Decide by the settings that *load* gives at each call; a role that was taken away is gone at once."""
        self.store, self._load, self._look = store, load, look

    def ask(
        self,
        person: Person,
        command: Scale,
        *,
        raw: str = "",
        origin: str = "",
        where: str = "",
        delivery: str | None = None,
    ) -> tuple[Request, bool]:
        """
        Put a request on record as drafted; the same delivery again gives the first one's, and False.

        Quick: neither the fleet nor anything else is asked. `plan` comes next.

        Raises:
            NotPermitted: no role for it, or the service is locked.
            InvalidRequest: no such service, or a number out of its limits.
        """
        entry = Entry(who=person.id, action="scale", where=where, service=command.service, raw=raw or str(command))
        with self._refusing(entry):
            self._check(person, "scale", command.service)
            limits = self._load().service(command.service).limits
            if not command.amount.relative:
                asked = ScaleRequest("", command.service, command.amount.number, person.id, self.store.now())
                check_request(asked, limits)
            self._check_unlocked(command.service)
        amount = command.amount
        request = Request(
            id=new_request_id(),
            service=command.service,
            target=0 if amount.relative else amount.number,
            change=amount.number if amount.relative else None,
            requested_by=person.id,
            requested_at=self.store.now(),
            origin=origin,
            raw=raw or str(command),
            reason=command.reason,
            channel=where,
            start_at=command.at.moment if command.at else None,
            zone=command.at.zone if command.at else "Z",
            hold_seconds=int(command.hold.total_seconds()) if command.hold else None,
            delivery=delivery,
        )
        return self.store.add(request, replace(entry, request_id=request.id, decision=State.DRAFTED.value))

    def plan(self, request: Request) -> Request:
        """
        Look at the fleet, plan, and have the plan wait for approval; what is as asked already has succeeded.

        What cannot be planned has failed, and says why; but what the calendar wants waits on, to be planned again.

        Raises:
            StateChanged: somebody else moved the request.
            TransientError: the fleet cannot be seen now; the request stays as it was.
        """
        settings = self._load()
        try:
            record = self.look(request)
        except (RequestError, PermanentError) as error:
            return self._keep_unplanned(settings, request, str(error))
        judged = self._judge(settings, request, record)
        record = judged["plan"]
        if self._is_done(request, record):
            entry = make_entry(request, SYSTEM, "plan", decision=State.SUCCEEDED.value, plan_hash=record.hash)
            entry = replace(entry, detail="nothing to do")
            return self.store.move(request, State.SUCCEEDED, entry, plan=record, target=record.target, change=None)
        fields = {
            **judged,
            "plan_expires": find_expiry(self.store, settings, request, record, request.start_at),
            # A run that waits for its moment was approved for another plan.
            "run_id": None,
            "error": "",
        }
        entry = make_entry(request, SYSTEM, "plan", decision=State.AWAITING.value, plan_hash=record.hash)
        return self._await_approval(request, replace(entry, detail=judged["need_why"]), fields)

    def _is_done(self, request: Request, record: PlanRecord) -> bool:
        """Whether nothing is to be done for a new request, and nothing that is under way will change that."""
        at_once = request.start_at is None and request.origin != CALENDAR and not record.later
        # The end of a rollback's run is what marks the request that it undid.
        fresh = request.state is State.DRAFTED and request.kind != "rollback"
        if not fresh or not at_once or not record.idle:
            return False
        rows = self.store.list_requests(states=OPEN, service=request.service)
        return all(row.id == request.id or row.start_at is not None for row in rows)

    def preview(self, request: Request) -> Request:
        """Give the request as `plan` would have it wait for approval, and keep nothing of it; raises what it cannot."""
        settings = self._load()
        judged = self._judge(settings, request, self.look(request))
        return replace(request, state=State.AWAITING, **judged)

    def _judge(self, settings: Settings, request: Request, record: PlanRecord) -> dict[str, Any]:
        """What a plan says about the request that it is made for."""
        policy = settings.service(request.service)
        notes = (*explain_large(record, policy.step), *self._find_conflicts(request, record))
        record = replace(record, notes=(*record.notes, *notes))
        need, why = find_need(record, policy, request.requested_by)
        target = record.target if record.asked is None else record.asked
        return {"plan": record, "target": target, "change": None, "need": need, "need_why": why}

    def _find_conflicts(self, request: Request, record: PlanRecord) -> list[str]:
        rows = {
            row.id: row
            for row in self.store.list_requests(states=OPEN, service=request.service, timed=request.start_at is None)
        }
        # A step that is still to come stands for all that it belongs to, even when that has begun long ago.
        firsts = [self.store.get(row.parent) if row.kind == "later" and row.parent else row for row in rows.values()]
        return find_conflicts(request, record, {first.id: first for first in firsts}.values(), self.store.now())

    def _keep_unplanned(self, settings: Settings, request: Request, why: str) -> Request:
        """Fail what cannot be planned; what the calendar wants is kept open, for there may be room by then."""
        if request.origin != CALENDAR or request.plan is None:
            entry = make_entry(request, SYSTEM, "plan", decision=State.FAILED.value, detail=why)
            return self.store.move(request, State.FAILED, entry, error=why)
        if request.unplanned and request.error == why:
            return request
        expires = find_expiry(self.store, settings, request, request.plan, request.start_at)
        fields = {"need": None, "need_why": "", "plan_expires": expires, "run_id": None, "error": why}
        entry = make_entry(request, SYSTEM, "plan", decision="cannot be planned", detail=why)
        return self._await_approval(request, entry, fields)

    def _await_approval(self, request: Request, entry: Entry, fields: dict[str, Any]) -> Request:
        if State.AWAITING is request.state or State.DRAFTED is request.state:
            request = self.store.move(request, State.PLANNED, replace(entry, decision=State.PLANNED.value), **fields)
            fields = {}
        return self.store.move(request, State.AWAITING, entry, **fields)

    def look(self, request: Request) -> PlanRecord:
        """
        Plan the request on the fleet of this moment, and keep nothing of it.

        One that begins after something else that is scheduled is planned for what that leaves.
        """
        settings = self._load()
        record = self._look(settings, request)
        scheduled = self.store.list_requests(states=[State.SCHEDULED], service=request.service, timed=True)
        step = find_step_before(request, scheduled)
        if step is None or step.goal == record.current:
            return record
        return foresee(record, request, step, settings.service(request.service).step)

    def approve(
        self,
        person: Person,
        name: str,
        *,
        plan_hash: str | None = None,
        break_glass: str = "",
        where: str = "",
        raw: str = "",
    ) -> Request:
        """
        Say yes; *plan_hash* is that of the plan which the person saw (a button's), if known.

        Returns the request, approved, or scheduled when its start lies ahead.

        Raises:
            NotPermitted: not by this person; the message says who can.
            InvalidRequest: its plan is too old, another than was seen, or it waits no more.
        """
        request, settings = self.store.find(name), self._load()
        now = self.store.now()
        entry = make_entry(request, person.id, "approve", where=where, raw=raw)
        with self._refusing(entry):
            if plan_hash is not None and plan_hash != request.plan_hash:
                text = f"{request.token}: was planned again since this button was made. Use the newest message's."
                raise InvalidRequest(text)
            kind = judge_approver(settings.chatops, request, person, now=now, break_glass=break_glass)
            self._check_unlocked(request.service)
        plan = count_from(request, now)
        approval = sign(
            self.store.key,
            Approval(
                request_id=request.id,
                plan_hash=plan.hash,
                approver=person.id,
                at=now,
                kind=kind,
                reason=break_glass,
            ),
        )
        said = replace(entry, plan_hash=plan.hash, decision=kind.value, detail=break_glass)
        scheduled = None
        if request.start_at is not None:
            when = f"{When(request.start_at, request.zone)}"
            scheduled = make_entry(request, SYSTEM, "schedule", decision=State.SCHEDULED.value, detail=when)
        steps = make_steps(request, plan, now)
        # What has steps of its own has them in place of those of what it repeats.
        repeated = list_repeated(self.store, request) if steps else ()
        return self.store.approve(
            request, plan, approval, said, scheduled=scheduled, steps=steps, instead_of=tuple(repeated)
        )

    def deny(self, person: Person, name: str, reason: str, *, where: str = "", raw: str = "") -> Request:
        """Say no; raises as `approve`."""
        request = self.store.find(name)
        entry = make_entry(request, person.id, "deny", where=where, raw=raw)
        with self._refusing(entry):
            self._check(person, "deny", request.service)
            if not reason:
                text = f'{request.token}: say why: deny {request.token} because "TEXT"'
                raise InvalidRequest(text)
            return self.store.move(
                request, State.DENIED, replace(entry, decision=State.DENIED.value, detail=reason), error=reason
            )

    def cancel(self, person: Person, name: str, *, where: str = "", raw: str = "") -> Request:
        """
        Take a request back; its later steps go with it.

        One that runs is returned as it is: its run must be cancelled, and puts the end on record itself.
        """
        request = self.store.find(name)
        entry = make_entry(request, person.id, "cancel", where=where, raw=raw)
        with self._refusing(entry):
            # What somebody asked for they may stop as long as they could still ask for it.
            own = person.id == request.requested_by and may(self._load().chatops, person, "scale", request.service)
            if not own:
                self._check(person, "cancel", request.service)
            return cancel(self.store, request, entry)

    def retry(
        self, person: Person, name: str, *, where: str = "", delivery: str | None = None, raw: str = ""
    ) -> tuple[Request, bool]:
        """Ask once more for the same number: only what is missing is made. `plan` comes next."""
        old = self.store.find(name)
        with self._refusing(make_entry(old, person.id, "retry", where=where, raw=raw)):
            self._check(person, "retry", old.service)
            check_retry(old, self.store.now())
        return self._again(person, old, "retry", old.target, where=where, delivery=delivery, raw=raw)

    def rollback(
        self, person: Person, name: str, *, where: str = "", delivery: str | None = None, raw: str = ""
    ) -> tuple[Request, bool]:
        """Ask for the number that there was before a request. `plan` comes next."""
        old = self.store.find(name)
        with self._refusing(make_entry(old, person.id, "rollback", where=where, raw=raw)):
            self._check(person, "rollback", old.service)
            before = check_rollback(self.store, old)
        return self._again(person, old, "rollback", before, where=where, delivery=delivery, raw=raw)

    def _again(
        self, person: Person, old: Request, kind: str, target: int, *, where: str, delivery: str | None, raw: str
    ) -> tuple[Request, bool]:
        followed_up = is_followed_up(self.store, old)
        request = make_again(old, person.id, kind, target, self.store.now(), followed_up=followed_up)
        request = replace(request, raw=raw or request.raw, channel=where or old.channel, delivery=delivery)
        entry = make_entry(request, person.id, kind, raw=request.raw, detail=f"{old.token} to {request.target}")
        with self._refusing(entry):
            self._check_unlocked(old.service)
        return self.store.add(request, replace(entry, decision=State.DRAFTED.value))

    def move(self, person: Person, name: str, to: When, *, where: str = "", raw: str = "") -> Request:
        """Have it, and what follows, start at another time, for which it is planned and approved anew."""
        request = self.store.find(name)
        entry = make_entry(request, person.id, "schedule move", where=where, raw=raw, detail=f"to {to}")
        with self._refusing(entry):
            self._check(person, "schedule", request.service)
            if request.state not in {State.SCHEDULED, State.AWAITING} or request.kind == "later":
                raise StateChanged(request)
            plan = shift(request, to.moment)
            said = replace(entry, decision=State.PLANNED.value)
            moved = self.store.move(
                request, State.PLANNED, said, start_at=to.moment, zone=to.zone, run_id=None, plan=plan
            )
        return self.plan(moved)

    def lock(self, person: Person, service: str, reason: str, *, where: str = "", raw: str = "") -> ServiceLock:
        """Let nobody change the service; raises as `approve`."""
        entry = Entry(who=person.id, action="lock", where=where, raw=raw, service=service, detail=reason)
        with self._refusing(entry):
            self._load().service(service)
            self._check(person, "lock", service)
            if not reason.strip():
                text = f'{service}: say why, for whoever is refused by it: lock {service} because "TEXT"'
                raise InvalidRequest(text)
            lock = ServiceLock(service, person.id, reason, self.store.now())
            self.store.lock(lock, replace(entry, decision="locked"))
        return lock

    def unlock(self, person: Person, service: str, *, where: str = "", raw: str = "") -> None:
        """Let it be changed again; raises as `approve`."""
        entry = Entry(who=person.id, action="unlock", where=where, raw=raw, service=service)
        with self._refusing(entry):
            self._load().service(service)
            self._check(person, "unlock", service)
            self.store.unlock(service, replace(entry, decision="unlocked"))

    def insist_unlocked(self, person: Person, service: str, *, where: str = "", raw: str = "") -> None:
        """Raise NotPermitted when the service is locked, for what begins without a request; the refusal is recorded."""
        with self._refusing(Entry(who=person.id, action="scale", where=where, raw=raw, service=service)):
            self._check_unlocked(service)

    def sweep(self) -> list[Request]:
        """Expire what nobody approved in time, ask about starts that nobody began; returns those."""
        done = list[Request]()
        for request in self.store.list_requests(states=[State.AWAITING, State.APPROVED, State.SCHEDULED], limit=1000):
            try:
                waits = request.state is State.AWAITING
                moved = time_out(self.store, request) if waits else ask_about_missed(self.store, self._load(), request)
                done += [moved] if moved is not None else []
            except StateChanged:
                continue  # approved, or begun, in this very moment
            except ForkyardError as error:
                # Its service may be gone from forkyard.toml: the others are looked at all the same.
                logger.warning("%s: %s", request.token, error)
        return done

    def due(self) -> list[Request]:
        """Those that want a run and have none: approved ones now, scheduled ones at their time."""
        found = self.store.list_requests(states=[State.APPROVED, State.SCHEDULED], limit=1000)
        return [request for request in found if request.run_id is None]

    def _check(self, person: Person, verb: str, service: str) -> None:
        # At the command line the key's file has been read already, which no role could add to.
        if not person.id.startswith(LOCAL):
            check(self._load().chatops, person, verb, service)

    def _check_unlocked(self, service: str) -> None:
        held = self.store.locks().get(service)
        if held is not None:
            raise NotPermitted(str(held))

    @contextmanager
    def _refusing(self, entry: Entry) -> Iterator[None]:
        """Write a refusal to the log before it is told."""
        try:
            yield
        except RequestError as error:
            self.store.note(replace(entry, decision="refused", detail=str(error)))
            raise


__all__ = ["Desk", "Look"]
