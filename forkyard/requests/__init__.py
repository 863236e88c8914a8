"""
Requests: what somebody wants, from the first word to the last report, as rows that survive everything.

Nouns only. A request moves through its states by compare-and-swap (`forkyard.requests.store`), each move with its entry
in the audit log in the same transaction; what may follow what is `MOVES`, and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from forkyard.errors import InvalidRequest
from forkyard.names import make_token
from forkyard.requests.plans import PlanRecord


class State(StrEnum):
    """Where a request is."""

    DRAFTED = "drafted"
    PLANNED = "planned"
    AWAITING = "awaiting approval"
    APPROVED = "approved"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DENIED = "denied"
    EXPIRED = "expired"
    ROLLED_BACK = "rolled back"


_BEFORE = {State.PLANNED, State.FAILED, State.CANCELLED, State.EXPIRED}

MOVES: Mapping[State, frozenset[State]] = {
    # What is as asked already needs neither approval nor run.
    State.DRAFTED: frozenset({*_BEFORE, State.SUCCEEDED}),
    # A run that finds another fleet than was approved plans again, so even APPROVED and RUNNING lead back.
    State.PLANNED: frozenset({*_BEFORE, State.AWAITING, State.APPROVED}),
    State.AWAITING: frozenset({*_BEFORE, State.APPROVED, State.DENIED}),
    State.APPROVED: frozenset({*_BEFORE, State.AWAITING, State.SCHEDULED, State.RUNNING}),
    State.SCHEDULED: frozenset({*_BEFORE, State.AWAITING, State.RUNNING}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.AWAITING}),
    State.SUCCEEDED: frozenset({State.ROLLED_BACK}),
    State.FAILED: frozenset({State.ROLLED_BACK}),
    State.CANCELLED: frozenset({State.ROLLED_BACK}),
    State.DENIED: frozenset(),
    State.EXPIRED: frozenset(),
    State.ROLLED_BACK: frozenset(),
}

OPEN = frozenset({State.DRAFTED, State.PLANNED, State.AWAITING, State.APPROVED, State.SCHEDULED, State.RUNNING})
"""States of requests that something may still come of."""

WITH_RUN = frozenset({State.APPROVED, State.SCHEDULED, State.RUNNING})
"""States of requests whose run begins at their moment, or has begun."""


STANDING = frozenset({State.APPROVED, State.SCHEDULED, State.RUNNING, State.SUCCEEDED, State.FAILED})
"""States of requests whose later steps may still come; taken back, sent back or undone it takes them with it."""


class Need(StrEnum):
    """Whose approval a plan needs."""

    REQUESTER = "requester"
    OTHER = "another person"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it is on record."""

    id: str
    version: int = 0
    """Counts changes: whoever has read an older one changes nothing."""
    state: State = State.DRAFTED
    service: str
    target: int
    """Absolute, as it was asked for; for a change only once it is planned."""
    change: int | None = None
    """So many more or fewer were asked for; resolved into *target* when it is first planned, and None from then on."""
    requested_by: str
    """A Slack id, or `local:NAME` for the command line, or `calendar`."""
    requested_at: datetime
    origin: str = ""
    """`slack`, `cli` or `calendar`."""
    raw: str = ""
    """What was typed, as it came."""
    reason: str = ""
    channel: str = ""
    start_at: datetime | None = None
    """None: as soon as it is approved."""
    hold_seconds: int | None = None
    """How long until the fleet goes back; None: it stays."""
    zone: str = "Z"
    """The zone in which its times were written."""
    plan: PlanRecord | None = None
    plan_expires: datetime | None = None
    need: Need | None = None
    need_why: str = ""
    run_id: str | None = None
    result: Mapping[str, Any] | None = None
    """The run's report, in short."""
    error: str = ""
    parent: str | None = None
    """The request that this one retries, rolls back or ends."""
    kind: str = ""
    """`retry`, `rollback` or `later` step of its parent; "" for a request of its own."""
    event: str | None = None
    """The calendar's occurrence and step that it is; unique."""
    delivery: str | None = None
    """The id of the message that brought it; the same one again makes no second request."""
    updated_at: datetime | None = None

    @property
    def token(self) -> str:
        """The short id that people type; the request's children carry it in their names."""
        return make_token(self.id)

    @property
    def plan_hash(self) -> str:
        """The plan's hash, or nothing."""
        return self.plan.hash if self.plan is not None else ""

    @property
    def goal(self) -> int:
        """What its run goes to: as planned, which may be only part of the way to *target* (services.NAME.step)."""
        # What follows a request has no plan of its own that anybody could have approved.
        return self.plan.target if self.plan is not None and self.kind != "later" else self.target

    @property
    def count_before(self) -> int | None:
        """Children there were before it: as its run found them, as planned where no run came so far."""
        found = (self.result or {}).get("before")
        if found is not None:
            return int(found)
        return self.plan.current if self.plan is not None else None

    @property
    def finished_at(self) -> datetime | None:
        """When its run put its report on record; its row may have moved since, by a rollback."""
        finished = (self.result or {}).get("finished")
        return datetime.fromisoformat(finished) if finished else self.updated_at

    @property
    def unplanned(self) -> bool:
        """Whether it is kept open although it cannot be planned as things are; `error` says why."""
        return self.state is State.AWAITING and self.need is None

    @property
    def open(self) -> bool:
        """Whether something may still come of it."""
        return self.state in OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line for the audit log: who did what, from where, and what came of it."""

    who: str
    action: str
    """A verb of the grammar, or what the system did by itself: `start`, `finish`, `expire`, ..."""
    where: str = ""
    request_id: str | None = None
    service: str | None = None
    raw: str = ""
    plan_hash: str = ""
    decision: str = ""
    """`allowed`, `refused`, a state, ..."""
    run_id: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ServiceLock:
    """Nobody changes this service until it is unlocked."""

    service: str
    who: str
    reason: str
    since: datetime

    def __str__(self) -> str:
        """What whoever wants to change the service is told."""
        return (
            f"{self.service}: is locked by {self.who} since {self.since:%Y-%m-%d %H:%M} UTC: {self.reason}. "
            f"When it is over: unlock {self.service}"
        )


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the channel should know of a request; kept until it was told."""

    request: Request
    text: str
    key: str = ""
    """What makes it one and the same notice, however often it is made; "": its text, and its request as it is."""


class StateChanged(InvalidRequest):
    """Somebody else was first; `now` is the request as it is."""

    def __init__(self, now: Request, wanted: State | None = None) -> None:
        """Say what it is now."""
        what = f" meanwhile and cannot become {wanted.value}" if wanted is not None else " meanwhile"
        is_so = " already" if wanted is now.state else what
        super().__init__(f"{now.token}: is {now.state.value}{is_so}. Look at it with: log {now.token}")
        self.now = now


def check_move(request: Request, to: State) -> None:
    """Raise StateChanged unless *to* may follow the state that the request is in."""
    if to not in MOVES[request.state]:
        raise StateChanged(request, to)


__all__ = [
    "MOVES",
    "OPEN",
    "STANDING",
    "Entry",
    "Need",
    "Notice",
    "PlanRecord",
    "Request",
    "ServiceLock",
    "State",
    "StateChanged",
    "check_move",
]
