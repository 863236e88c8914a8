"""
What belongs together in time: a request and the steps that follow it, moved, repeated, and beside those of others.

Pure: nothing is written here.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

from forkyard.decisions import CALENDAR
from forkyard.errors import InvalidRequest
from forkyard.names import new_request_id
from forkyard.requests import Entry, Request, State, StateChanged
from forkyard.requests.moves import SYSTEM, make_entry
from forkyard.requests.plans import PlanRecord, find_later


def make_steps(request: Request, plan: PlanRecord, now: datetime) -> list[tuple[Request, Entry]]:
    """The later steps that are approved with a request, and what the log says of them."""
    made: list[tuple[Request, Entry]] = []
    for number, (moment, target) in enumerate(plan.later, start=1):
        step = Request(
            id=new_request_id(),
            state=State.SCHEDULED,
            service=request.service,
            target=target,
            requested_by=request.requested_by,
            requested_at=now,
            origin=request.origin,
            reason=request.reason,
            channel=request.channel,
            start_at=moment,
            zone=request.zone,
            parent=request.id,
            kind="later",
            # With the version: the same plan approved once more has steps of its own.
            event=f"{request.id}+{plan.hash[:8]}+{request.version}+{number}",
        )
        detail = f"after {request.token}"
        made.append((step, make_entry(step, SYSTEM, "schedule", decision=State.SCHEDULED.value, detail=detail)))
    return made


def count_from(request: Request, now: datetime) -> PlanRecord:
    """The plan that is signed: one that begins at once holds from its approval, not from when it was drawn up."""
    if request.plan is None:
        raise StateChanged(request, State.APPROVED)
    plan = request.plan
    if request.start_at is not None or request.hold_seconds is None or not plan.later:
        return plan
    return replace(plan, later=find_later(plan.later[-1][1], request.hold_seconds, now))


def catch_up(plan: PlanRecord, now: datetime) -> PlanRecord:
    """The plan as it is wanted by now: the last step whose moment has come, and those ahead."""
    passed = [number for moment, number in plan.later if moment <= now]
    later = tuple(step for step in plan.later if step[0] > now)
    return replace(plan, target=passed[-1] if passed else plan.target, later=later)


def make_again(old: Request, who: str, kind: str, target: int, now: datetime, *, followed_up: bool = False) -> Request:
    """
    A request that repeats or undoes *old*; what is repeated keeps what follows.

    With *followed_up* its hold was over already: a repeated one goes back to what there is by now.
    """
    retry = kind == "retry"
    request_id, plan = new_request_id(), None
    if retry and old.plan is not None and old.hold_seconds is not None:
        plan = None if followed_up else replace(old.plan, request_id=request_id)
    elif retry and old.plan is not None and old.origin == CALENDAR:
        plan = replace(catch_up(old.plan, now), request_id=request_id)
        # Where nothing has passed it is still for what was asked, of which the plan may be only a part.
        target = plan.target if plan.later != old.plan.later else target
    return Request(
        id=request_id,
        service=old.service,
        target=target,
        change=old.change if retry else None,
        requested_by=who,
        requested_at=now,
        origin=old.origin,
        raw=f"{kind} {old.token}",
        reason=old.reason,
        start_at=old.start_at if retry and old.start_at is not None and old.start_at > now else None,
        zone=old.zone,
        hold_seconds=old.hold_seconds if retry else None,
        plan=plan,
        parent=old.id,
        kind=kind,
    )


def find_step_before(request: Request, others: Iterable[Request]) -> Request | None:
    """Of the *others* that are scheduled the one that decides last before *request* begins; its own are none."""
    start = request.start_at
    if start is None or request.kind == "later":
        return None
    family = {request.id, request.parent} - {None}
    before = [
        (other.start_at, other)
        for other in others
        if other.start_at is not None and other.start_at < start and not {other.id, other.parent} & family
    ]
    return max(before, key=lambda pair: pair[0], default=(None, None))[1]


def foresee(record: PlanRecord, request: Request, step: Request, most: int) -> PlanRecord:
    """
    The plan for the fleet that *step* leaves, which is what the request finds, and not for that of this moment.

    From there too it changes at most so many.
    """
    there = step.goal
    asked = record.target if record.asked is None else record.asked
    target = max(there - most, min(there + most, asked))
    later = record.later
    if request.hold_seconds is not None and request.kind != "retry":
        later = tuple((moment, there) for moment, _ in later)
    note = (
        f"{step.token} has {record.service} at {there} from {step.start_at:%Y-%m-%d %H:%M} UTC on: it is planned for "
        f"that, and not for the {record.current} of now."
    )
    partly = [f"{asked} was asked for; {_say_most(record, most)}: this goes to {target}."] if target != asked else []
    return replace(
        record,
        current=there,
        target=target,
        forks=max(0, target - there),
        retires=max(0, there - target),
        removes=0,
        later=later,
        notes=(note, *partly),
        asked=asked if asked != target else None,
        # What is known is how long the forks of now would take.
        expected_seconds=None,
    )


def explain_large(plan: PlanRecord, most: int) -> list[str]:
    """Say which of the steps that follow are more than one request may change: nobody is surprised when they ask."""
    counts = [(None, plan.target), *plan.later]
    return [
        f"from {before} to {number} at {moment:%Y-%m-%d %H:%M} UTC: {_say_most(plan, most)}, so by then it asks for "
        f"another approval and goes a part of the way."
        for (_, before), (moment, number) in pairwise(counts)
        if abs(number - before) > most
    ]


def _say_most(plan: PlanRecord, most: int) -> str:
    return f"one request changes at most {most} children (services.{plan.service}.step)"


def shift(request: Request, start: datetime) -> PlanRecord | None:
    """The request's plan with all its moments moved along; raises InvalidRequest when there is nothing to move from."""
    plan = request.plan
    if plan is None or not plan.later or request.hold_seconds is not None:
        return plan  # the end of a hold is counted from its start anyway
    if request.start_at is None:
        text = (
            f"{request.token}: what it belongs to has begun, so it cannot be moved alone: approve it to have it now, "
            f"or move the event in the calendar."
        )
        raise InvalidRequest(text)
    away = start - request.start_at
    return replace(plan, later=tuple((moment + away, number) for moment, number in plan.later))


def find_conflicts(request: Request, plan: PlanRecord, others: Iterable[Request], now: datetime) -> list[str]:
    """Say which other requests want the service in the same time; the calendar's among themselves it has settled."""
    begin, end = _span(request, plan, now)
    found: list[str] = []
    for other in others:
        same = other.id in {request.id, request.parent} or other.parent == request.id
        settled = request.origin == other.origin == CALENDAR
        # Two that begin at once are both seen by whoever approves them.
        at_once = request.start_at is None and other.start_at is None
        if same or other.plan is None or settled or at_once:
            continue
        first, last = _span(other, other.plan, now)
        if first <= end and begin <= last:
            until = f" until {last:%Y-%m-%d %H:%M} UTC" if last > first else ""
            found.append(
                f"{other.token} wants {other.service} to {other.target} at {first:%Y-%m-%d %H:%M} UTC{until} too: "
                f"whichever begins later decides. If that is not meant, cancel or move one."
            )
    return sorted(found)


def _span(request: Request, plan: PlanRecord, now: datetime) -> tuple[datetime, datetime]:
    """From when to when it decides about the service; one that stays decides at its start only."""
    begin = request.start_at or now
    return begin, max([begin, *(moment for moment, _ in plan.later)])


__all__ = [
    "catch_up",
    "count_from",
    "explain_large",
    "find_conflicts",
    "find_step_before",
    "foresee",
    "make_again",
    "make_steps",
    "shift",
]
