"""
From approved requests to runs, and from runs that died back to requests.

The run itself puts its begin and its end on record; here are the two things that it cannot do: be started, and say that
it was killed. Repeating any of it is harmless: the key of a run is its request and the plan that was approved.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from threading import Lock
from time import monotonic

from flows.runs import FINAL, Progress, Runs
from forkyard.errors import ForkyardError, PermanentError
from forkyard.requests import WITH_RUN, Request, State, StateChanged
from forkyard.requests.desk import Desk
from forkyard.requests.looking import to_scale_request
from forkyard.requests.moves import SYSTEM, finish, give_up, make_entry
from forkyard.requests.starting import drop_unwanted, make_key
from forkyard.requests.store import Store

logger = logging.getLogger(__name__)

PATIENCE = 3
"""Looks at a run that is over while its request is not, before that is believed: the run writes one after the other."""


UNBEGUN = timedelta(seconds=30)
"""A run that is not begun so long after its moment waits for a server that is away."""

SWEEP = 10.0
"""Seconds between two looks at all runs while their news is heard: what was lost on the way is seen then."""


class Runner:
    """Starts and follows the requests' runs."""

    def __init__(self, desk: Desk, runs: Runs, *, listens: Callable[[], bool] = lambda: False) -> None:
        """Start runs through *runs*; while *listens*, `hear` is called for those that have changed."""
        self._desk, self._store, self._runs, self._listens = desk, desk.store, runs, listens
        self._over: dict[str, int] = {}
        self._unstarted = self._unseen = ""
        self._news: set[str] = set()
        self._lock = Lock()
        self._seen: dict[str, Progress] = {}
        self._swept = -SWEEP

    def hear(self, run_id: str) -> None:
        """Take note that there is news of a run; from any thread."""
        with self._lock:
            self._news.add(run_id)

    def start_due(self) -> None:
        """Start a run for each request that wants one; what cannot be started now is tried again."""
        for request in self._desk.due():
            try:
                run_id = self._start(request)
                entry = make_entry(request, SYSTEM, "run", run_id=run_id, decision=request.state.value)
                self._store.amend(request, entry, run_id=run_id)
            except StateChanged:
                continue  # cancelled, or its run has begun already and put itself on record
            except ForkyardError as error:
                self._unstarted = f"{error}"
                logger.warning("%s: no run yet: %s", request.token, error)
                return
        self._unstarted = ""

    @property
    def trouble(self) -> str:
        """Why Prefect cannot be asked; empty when it can."""
        return self._unstarted or self._unseen

    def trouble_with(self, request: Request, progress: Progress | None) -> str:
        """Why nothing is seen of a request's run, or why nobody begins it; empty when all is well."""
        due = request.start_at or request.updated_at
        waits = request.state is not State.RUNNING and progress is not None and progress.state == "SCHEDULED"
        if not self.trouble and waits and due is not None and self._store.now() - due > UNBEGUN:
            return "Nobody begins its run: the process that serves the deployments is away, or very busy."
        return self.trouble

    def _start(self, request: Request) -> str:
        key = make_key(self._desk, request)
        return self._runs.start_scale(to_scale_request(request), plan_hash=key, at=request.start_at)

    def look(self, requests: Iterable[Request]) -> Mapping[str, Progress]:
        """How far the runs are, by their ids; what is known when Prefect does not answer is nothing."""
        runs = {request.run_id for request in requests if request.run_id is not None}
        with self._lock:
            news, self._news = self._news, set()
        # Heard of one whose request does not name it yet: it is unseen, and so looked at when its request does.
        swept = monotonic()
        whole = not self._listens() or swept - self._swept >= SWEEP
        wanted = sorted(run for run in runs if whole or run in news or run not in self._seen)
        try:
            found = self._runs.look(wanted)
        except ForkyardError as error:
            self._unseen = f"Prefect cannot be asked how far it is: {error}"
            with self._lock:
                self._news |= news
            return {}
        self._unseen = ""
        self._swept = swept if whole else self._swept
        # One that Prefect no longer knows is not seen any more either.
        self._seen = {
            run: seen
            for run, seen in (self._seen | found).items()
            if run in runs and (run in found or run not in wanted)
        }
        return dict(self._seen)

    def settle(self, request: Request, progress: Progress | None) -> Request:
        """Put on record that a run is over which could not do so itself."""
        waits = request.state in WITH_RUN
        if not waits or progress is None or progress.state not in FINAL or request.run_id is None:
            self._over.pop(request.id, None)
            return request
        self._over[request.id] = self._over.get(request.id, 0) + 1
        if self._over[request.id] < PATIENCE:
            return request
        del self._over[request.id]
        try:
            return settle_dead(self._store, request, progress)
        except StateChanged as error:
            return error.now

    def url(self, request: Request) -> str:
        """Where a person looks at the request's run; empty before there is one."""
        return self._runs.run_url(request.run_id) if request.run_id else ""

    def result(self, run_id: str) -> Mapping[str, object] | None:
        """What the run reported, as JSON; None when it has not."""
        found = self._runs.result(run_id)
        return None if found is None else {key: value for key, value in found.items() if key != "run_url"}

    def cancel(self, request: Request) -> None:
        """Have a run end and undo what is half made; raises ForkyardError when Prefect cannot be told."""
        if request.run_id is None:
            text = f"{request.token}: has no run that could be cancelled."
            raise PermanentError(text)
        self._runs.cancel(request.run_id)

    def drop_unwanted(self) -> None:
        """Take back the runs ahead that no request waits for; they would refuse by themselves: this is a courtesy."""
        try:
            drop_unwanted(self._desk, self._runs)
        except ForkyardError as error:
            logger.warning("runs that nobody wants any more may still be seen ahead: %s", error)


def settle_dead(store: Store, request: Request, progress: Progress) -> Request:
    """Say how a run ended that left its request open."""
    said = progress.message or "it said nothing"
    text = f"the run ended ({progress.state.lower()}) without a report: {said}. Look with `/fleet status`, then retry."
    state = State.CANCELLED if progress.state == "CANCELLED" else State.FAILED
    entry = make_entry(request, SYSTEM, "finish", decision=state.value, detail=text)
    if request.state is State.RUNNING:
        return finish(store, request, state, entry, request.result)
    return give_up(store, request, state, entry)
