"""
Moves with what belongs to them: sent back, missed, ended, and which may be repeated or undone.

The later steps of a request that stands no more go with it in the store's own transaction.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from forkyard.decisions import CALENDAR, find_need
from forkyard.errors import InvalidRequest
from forkyard.requests import MOVES, WITH_RUN, Entry, Need, Request, State, StateChanged
from forkyard.requests.plans import PlanRecord
from forkyard.requests.store import Store
from forkyard.settings import Settings

SYSTEM = "forkyard"
"""Who the log says did what nobody asked for at that moment."""

_FOLLOWED = (State.RUNNING, State.SUCCEEDED, State.ROLLED_BACK)
"""States of a later step that has changed the fleet, or is about to."""

_BEGUN = {("start", State.RUNNING.value), ("scale", "direct")}
"""What the log says of a run that came through the gate."""


def send_back(store: Store, settings: Settings, row: Request, why: str, record: PlanRecord | None) -> Request:
    """Have the request approved once more: with a new plan, or with its own, started at once."""
    plan = record or (replace(row.plan, start_at=None) if row.plan is not None else None)
    need, need_why = Need.OTHER, why
    if plan is not None:
        need, need_why = find_need(plan, settings.service(row.service), row.requested_by)
    # Without a plan (a step of a calendar has its parent's) it must be planned first.
    to = State.AWAITING if plan is not None else State.PLANNED
    number = plan.target if plan is not None else row.target
    return store.move(
        row,
        to,
        make_entry(row, SYSTEM, "send back", decision=to.value, detail=why),
        telling=f"{row.service} to {number}: {why}. Approve it again to have it done now: approve {row.token}",
        plan=plan,
        plan_expires=find_expiry(store, settings, row, plan, None),
        need=need,
        need_why=need_why,
        start_at=None,
        run_id=None,
        # By itself from here on: its parent's approval was for its own moment.
        kind="" if row.kind == "later" else row.kind,
        error=why,
    )


def say_missed(row: Request, begin: datetime) -> str:
    """Say that its run was to *begin* then: at its moment, or at once when it was approved."""
    moment = f"{begin:%Y-%m-%d %H:%M} UTC"
    start = f"at {moment}" if row.start_at is not None else f"at once, approved at {moment},"
    return f"its start {start} was missed"


def ask_about_missed(store: Store, settings: Settings, row: Request) -> Request | None:
    """Send back what is approved and was to begin so long ago that its run comes too late; None: it is not."""
    now = store.now()
    begin = row.start_at or max((approval.at for approval in store.approvals(row.id)), default=now)
    if now <= begin + settings.requests.late:
        return None
    # Without a plan it is planned next by whoever follows requests: nobody looks at a fleet here.
    return send_back(store, settings, row, f"{say_missed(row, begin)}: nobody began its run", None)


def time_out(store: Store, row: Request) -> Request | None:
    """End the waiting of what nobody approved in time; None: it may still be approved."""
    if row.plan_expires is None or store.now() <= row.plan_expires:
        return None
    if row.origin == CALENDAR and row.start_at is not None:
        return _miss_start(store, row)
    text = f"could not be planned in time: {row.error}" if row.unplanned else "nobody approved it in time"
    entry = make_entry(row, SYSTEM, "expire", decision=State.EXPIRED.value, detail=text)
    return store.move(row, State.EXPIRED, entry, error=text)


def _miss_start(store: Store, row: Request) -> Request:
    """Let an event that nobody approved in time go on without its start: it is asked about until its end."""
    why = f"nobody approved it before its start at {row.start_at:%Y-%m-%d %H:%M} UTC"
    entry = make_entry(row, SYSTEM, "miss", decision=State.PLANNED.value, detail=why)
    text = f"{row.service} to {row.target}: {why}. Approve {row.token} to have it now, or cancel it."
    return store.move(row, State.PLANNED, entry, telling=text, start_at=None, run_id=None, error=why)


def find_expiry(
    store: Store, settings: Settings, row: Request, plan: PlanRecord | None, start_at: datetime | None
) -> datetime:
    """
    Until when a plan can be approved.

    One that starts later until then, for it is planned again before it begins; what an event has missed until its end.
    """
    if start_at is not None:
        return start_at
    soon = store.now() + settings.requests.plan_ttl
    # A rollback of an event is a person's, for the fleet as it is at that moment.
    if row.origin != CALENDAR or row.kind == "rollback":
        return soon
    followed = plan if plan is not None and plan.later else store.get(row.parent).plan if row.parent else None
    return max(followed.later[-1][0], soon) if followed is not None and followed.later else soon


def cancel(store: Store, row: Request, entry: Entry) -> Request:
    """Take a request back, whatever it has become meanwhile; of one that runs it is only said, for its run ends it."""
    while row.state is not State.RUNNING:
        try:
            return store.move(row, State.CANCELLED, replace(entry, decision=State.CANCELLED.value))
        except StateChanged as error:
            if error.now.version == row.version:
                raise  # it is over
            row = error.now
    store.note(replace(entry, decision="asked", run_id=row.run_id))
    return row


def is_followed_up(store: Store, request: Request) -> bool:
    """Whether what was to follow a request, or those that it repeats, is done or being done."""
    steps = (
        step
        for row in (request, *list_repeated(store, request))
        for step in store.list_requests(parent=row.id, states=_FOLLOWED)
    )
    return any(step.kind == "later" for step in steps)


def list_repeated(store: Store, request: Request) -> Iterator[Request]:
    """The request that this one repeats, the one that that one repeats, and so on."""
    while request.kind == "retry" and request.parent is not None:
        request = store.get(request.parent)
        yield request


def finish(store: Store, row: Request, state: State, entry: Entry, result: Mapping[str, Any] | None) -> Request:
    """Move a running request to its end; the one that it rolled back becomes rolled back."""
    if result is not None:
        result = {**result, "finished": store.now().isoformat()}
    if state is State.SUCCEEDED and row.kind == "rollback" and row.parent is not None:
        # First: whoever dies in between leaves a run that is settled later, and no step that would undo the undoing.
        undone = store.get(row.parent)
        if State.ROLLED_BACK in MOVES[undone.state]:
            what = make_entry(undone, SYSTEM, "rollback", decision=State.ROLLED_BACK.value, detail=f"by {row.token}")
            store.move(undone, State.ROLLED_BACK, what)
    return store.move(row, state, entry, result=result, error="" if state is State.SUCCEEDED else entry.detail)


def give_up(store: Store, row: Request, state: State, entry: Entry) -> Request:
    """End a request whose run was over before it came through the gate."""
    return store.move(row, state, entry, error=entry.detail)


def has_run(store: Store, row: Request) -> bool:
    """Whether its run may have changed something: it came through the gate, and was not sent back from there."""
    if row.state is State.RUNNING or row.result is not None:
        return True
    # A run that was killed leaves no report, but the log has that it began.
    said = [logged.entry for logged in reversed(store.read_log(request_id=row.id, limit=1000))]
    marks = (e.action for e in said if e.action == "send back" or (e.action, e.decision) in _BEGUN)
    return next(marks, "send back") != "send back"


def check_retry(row: Request, now: datetime) -> None:
    """Raise InvalidRequest unless it makes sense to ask once more for what *row* asked for."""
    if row.state in WITH_RUN:
        raise StateChanged(row)
    # One whose time is over has not been swept away yet, but cannot be approved any more.
    if row.state is State.AWAITING and (row.plan_expires is None or now <= row.plan_expires):
        what = "is planned again by itself: wait" if row.unplanned else "still waits for approval: approve it"
        text = f"{row.token}: {what}, or cancel it first."
        raise InvalidRequest(text)


def check_rollback(store: Store, row: Request) -> int:
    """The number that a rollback of *row* goes back to; raises InvalidRequest when there is none."""
    if row.open:
        raise StateChanged(row)
    if row.count_before is None or not has_run(store, row):
        text = f"{row.token}: never ran, so there is nothing to go back from."
        raise InvalidRequest(text)
    return row.count_before


def make_entry(row: Request, who: str, action: str, **fields: Any) -> Entry:  # noqa: ANN401 - Entry's own
    """Make an entry about a request."""
    given: dict[str, Any] = {
        "where": row.channel,
        "request_id": row.id,
        "service": row.service,
        "plan_hash": row.plan_hash,
        "run_id": row.run_id,
    }
    return Entry(who=who, action=action, **(given | fields))


__all__ = [
    "SYSTEM",
    "ask_about_missed",
    "cancel",
    "check_retry",
    "check_rollback",
    "find_expiry",
    "finish",
    "give_up",
    "has_run",
    "is_followed_up",
    "list_repeated",
    "make_entry",
    "say_missed",
    "send_back",
    "time_out",
]
