"""
Start the runs of what is approved, and settle requests whose runs ended without a word.

Whoever follows requests calls this again and again (the bot's board, the command line): the same approval gives the
same run, however often and by how many it is asked for.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from forkyard.errors import ForkyardError, NotFound, TransientError, Unsupported
from forkyard.model import LeaseHolder, ScaleRequest
from forkyard.requests import WITH_RUN, Request, State, StateChanged
from forkyard.requests.desk import Desk
from forkyard.requests.looking import to_scale_request
from forkyard.requests.moves import SYSTEM, finish, give_up, make_entry
from forkyard.requests.store import Store

logger = logging.getLogger(__name__)

LOST = timedelta(minutes=30)
"""A direct run without a workflow server that has said nothing for so long was killed: no request takes so long."""

OVER = {"COMPLETED": State.SUCCEEDED, "FAILED": State.FAILED, "CRASHED": State.FAILED, "CANCELLED": State.CANCELLED}
"""What a run's last state means for a request that the run itself has not settled."""


class RunState(Protocol):
    """How far a run is (`flows.runs.Progress`)."""

    @property
    def state(self) -> str:
        """The workflow server's word."""
        ...

    @property
    def message(self) -> str:
        """Why."""
        ...


class Starter(Protocol):
    """What starts and knows runs (`flows.runs.Runs`)."""

    def start_scale(
        self, request: ScaleRequest, *, warrant: str = "", plan_hash: str = "", at: datetime | None = None
    ) -> str:
        """Start a run; the same request and plan again return the first one's id."""
        ...

    def is_up(self) -> bool:
        """Whether the workflow server answers."""
        ...


class Looker(Protocol):
    """What knows how far runs are (`flows.runs.Runs`)."""

    def look(self, run_ids: Sequence[str]) -> Mapping[str, RunState]:
        """How far the runs are."""
        ...


class Ahead(Protocol):
    """What knows the runs that are still to begin, and takes them back (`flows.runs.Runs`)."""

    def list_ahead(self) -> Mapping[str, str]:
        """The runs that are still to begin: by each run's id, the id of the request that it is for."""
        ...

    def cancel(self, run_id: str) -> None:
        """Take a run back."""
        ...


@dataclass(slots=True)
class Started:
    """What came of starting what is due."""

    rows: list[Request] = field(default_factory=list[Request])
    """Those that were started, with their runs' ids; one that moved meanwhile as it is now."""
    failed: list[tuple[Request, ForkyardError]] = field(default_factory=list[tuple[Request, ForkyardError]])
    away: ForkyardError | None = None
    """Why the server was not asked for the others; None: it was."""


def start_due(desk: Desk, runs: Starter) -> Started:
    """Start a run for each request that wants one and has none; one that is refused keeps no other from its own."""
    done = Started()
    for request in desk.due():
        try:
            done.rows.append(_start(desk, runs, request))
        except ForkyardError as error:
            done.failed.append((request, error))
            if isinstance(error, TransientError) or not runs.is_up():
                done.away = error
                break
    return done


def _start(desk: Desk, runs: Starter, request: Request) -> Request:
    run_id = runs.start_scale(to_scale_request(request), plan_hash=make_key(desk, request), at=request.start_at)
    try:
        entry = make_entry(request, SYSTEM, "run", run_id=run_id, decision="created")
        return desk.store.amend(request, entry, run_id=run_id)
    except StateChanged as error:
        return error.now  # the run was quicker, or somebody cancelled it in this moment


def drop_unwanted(desk: Desk, runs: Ahead) -> list[str]:
    """
    Take back the runs ahead that no request waits for any more; returns their ids.

    Whatever became of the request: cancelled, moved, sent back, taken out of the calendar, approved for another plan.
    Such a run would be refused at its moment anyway; until then it would be seen as something that is going to happen.

    Raises:
        ForkyardError: they cannot be listed, or one of them cannot be taken back; the others are.
    """
    dropped, errors = list[str](), list[ForkyardError]()
    # The runs first: a row that is read later is at least as new as the run that was made for it.
    for run_id, request_id in runs.list_ahead().items():
        try:
            row = desk.store.get(request_id)
        except NotFound:
            continue  # asked for at a command line that keeps no record
        named = row.run_id in {None, run_id}
        if named and row.state in WITH_RUN:
            continue
        try:
            runs.cancel(run_id)
            dropped.append(run_id)
        except ForkyardError as error:
            # One that is gone, or begins in this moment, keeps no other from it.
            errors.append(error)
    if errors:
        raise errors[0]
    return dropped


def cancel_run(runs: Ahead, request: Request, find_holder: Callable[[str], LeaseHolder | None]) -> None:
    """
    Have the run of a running request end and undo what is half made; *find_holder* knows who holds a service's lease.

    Raises:
        Unsupported: it runs in a process of the command line, and goes on; the message says how to end that.
        ForkyardError: the server cannot be told.
    """
    if request.run_id is not None:
        runs.cancel(request.run_id)
        return
    try:
        holder = find_holder(request.service)
    except ForkyardError:
        holder = None
    known = holder is not None and holder.request_id == request.id
    there = f", or on {holder.host}: kill -INT {holder.pid}" if known and holder is not None else ""
    text = (
        f"{request.token}: goes on: it runs in the process of a `forkyard scale`, which no workflow server can cancel. "
        f"Press Ctrl-C in that terminal{there}."
    )
    raise Unsupported(text)


def settle_ended(desk: Desk, runs: Looker) -> list[Request]:
    """End the requests whose runs are over and have not said so themselves; returns those, as they are now."""
    rows = desk.store.list_requests(states=WITH_RUN, limit=1000)
    known = runs.look([row.run_id for row in rows if row.run_id is not None])
    settler = Settler(desk.store)
    found = [(row, settler.settle(row, known.get(row.run_id or ""))) for row in rows]
    return [now for row, now in found if now is not row]


class Settler:
    """Puts on record that runs are over which could not do so themselves: killed, or cancelled before they began."""

    def __init__(self, store: Store, *, patience: int = 1) -> None:
        """Believe that a run is over when it was seen *patience* times in a row."""
        self._store, self._patience = store, patience
        self._over: dict[str, int] = {}

    def settle(self, row: Request, run: RunState | None) -> Request:
        """The request as it is after a look at its run; None: nothing was seen of it."""
        end = _find_end(row, run, self._store.now())
        if end is None:
            self._over.pop(row.id, None)
            return row
        self._over[row.id] = self._over.get(row.id, 0) + 1
        if self._over[row.id] < self._patience:
            return row
        del self._over[row.id]
        to, why = end
        entry = make_entry(row, SYSTEM, "finish", decision=to.value, detail=why)
        try:
            if row.state is State.RUNNING:
                return finish(self._store, row, to, entry, row.result)
            return give_up(self._store, row, to, entry)
        except StateChanged as error:
            logger.info("%s: not settled: %s", row.token, error)  # the run was quicker
            return error.now


def _find_end(row: Request, run: RunState | None, now: datetime) -> tuple[State, str] | None:
    """How a request ended that says nothing of it, and why; None: it has not, or nobody can tell."""
    if row.run_id is None:
        lost = row.state is State.RUNNING and _is_lost(row, now)
        return (State.FAILED, "its process was killed. Run `forkyard reap`, then ask again") if lost else None
    if row.state not in WITH_RUN or run is None or run.state not in OVER:
        return None
    to, said = OVER[run.state], run.message or "it said nothing"
    if row.state is not State.RUNNING:
        # It never got through the gate, so nothing was done, whatever its run says.
        to = State.CANCELLED if to is State.CANCELLED else State.FAILED
        return to, f"its run ended as {run.state.lower()} before it changed anything: {said}"
    if to is State.SUCCEEDED:
        return to, run.message
    return to, f"its run ended as {run.state.lower()} without a report: {said}. Look what is there, then retry."


def _is_lost(row: Request, now: datetime) -> bool:
    return row.updated_at is not None and now - row.updated_at > LOST


def make_key(desk: Desk, request: Request) -> str:
    """The plan and the approval that stand behind a run: approved once more, it is another run."""
    approved = request.parent if request.kind == "later" and request.parent else request.id
    latest = max((approval.at for approval in desk.store.approvals(approved)), default=None)
    moment = f"-{latest:%Y%m%dT%H%M%S%f}" if latest is not None else ""
    return f"{request.plan_hash or request.event or 'plan'}{moment}"


__all__ = [
    "Ahead",
    "Looker",
    "Settler",
    "Started",
    "Starter",
    "cancel_run",
    "drop_unwanted",
    "make_key",
    "settle_ended",
    "start_due",
]
