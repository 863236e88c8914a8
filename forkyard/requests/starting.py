"""
Start the runs of what is approved, and settle requests whose runs ended without a word.

Whoever follows requests calls this again and again (the bot's sweep, the command line after an approval): the same
approval gives the same run, however often and by how many it is asked for.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from forkyard.errors import ForkyardError, NotFound
from forkyard.model import ScaleRequest
from forkyard.requests import WITH_RUN, Request, State, StateChanged
from forkyard.requests.desk import Desk
from forkyard.requests.looking import to_scale_request
from forkyard.requests.moves import SYSTEM, finish, give_up, make_entry

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


def start_due(desk: Desk, runs: Starter) -> list[Request]:
    """Start a run for each request that wants one and has none; returns those, with their runs' ids."""
    started: list[Request] = []
    for request in desk.due():
        run_id = runs.start_scale(to_scale_request(request), plan_hash=make_key(desk, request), at=request.start_at)
        try:
            entry = make_entry(request, SYSTEM, "run", run_id=run_id, decision="created")
            started.append(desk.store.amend(request, entry, run_id=run_id))
        except StateChanged as error:
            started.append(error.now)  # the run was quicker, or somebody cancelled it in this moment
    return started


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


def settle_ended(desk: Desk, runs: Starter) -> list[Request]:
    """End the requests whose runs are over and have not said so themselves: killed, or cancelled before they began."""
    rows = desk.store.list_requests(states=WITH_RUN, limit=1000)
    known = runs.look([row.run_id for row in rows if row.run_id is not None])
    settled: list[Request] = []
    for row in rows:
        run = known.get(row.run_id or "")
        if run is not None and run.state in OVER:
            to, why = OVER[run.state], run.message or f"its run ended as {run.state.lower()}"
        elif row.run_id is None and row.state is State.RUNNING and _is_lost(row, desk.store.now()):
            to, why = State.FAILED, "its process was killed. Run `forkyard reap`, then ask again"
        else:
            continue
        try:
            settled.append(_settle(desk, row, to, why))
        except StateChanged as error:
            logger.info("%s: not settled: %s", row.token, error)  # the run was quicker
    return settled


def _settle(desk: Desk, row: Request, to: State, why: str) -> Request:
    if row.state is State.RUNNING:
        entry = make_entry(row, SYSTEM, "finish", decision=to.value, detail=why)
        return finish(desk.store, row, to, entry, row.result)
    # It never got through the gate, so nothing was done, whatever its run says.
    to = State.CANCELLED if to is State.CANCELLED else State.FAILED
    entry = make_entry(row, SYSTEM, "finish", decision=to.value, detail=why)
    return give_up(desk.store, row, to, entry)


def _is_lost(row: Request, now: datetime) -> bool:
    return row.updated_at is not None and now - row.updated_at > LOST


def make_key(desk: Desk, request: Request) -> str:
    """The plan and the approval that stand behind a run: approved once more, it is another run."""
    approved = request.parent if request.kind == "later" and request.parent else request.id
    latest = max((approval.at for approval in desk.store.approvals(approved)), default=None)
    moment = f"-{latest:%Y%m%dT%H%M%S%f}" if latest is not None else ""
    return f"{request.plan_hash or request.event or 'plan'}{moment}"


__all__ = ["Ahead", "Starter", "drop_unwanted", "make_key", "settle_ended", "start_due"]
