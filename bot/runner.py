"""
The runs of requests, as the board follows them: what is approved is started, what died is settled, trouble is told.

How that is done, whoever does it, is in `forkyard.requests.starting`; here it is done again and again, and asks Prefect
no more than there is news of.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from threading import Lock
from time import monotonic

from flows.runs import Progress, Runs
from forkyard.errors import ForkyardError
from forkyard.model import LeaseHolder
from forkyard.requests import Request, State
from forkyard.requests.desk import Desk
from forkyard.requests.starting import Settler, cancel_run, drop_unwanted, start_due

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
        self._settler = Settler(desk.store, patience=PATIENCE)
        self._unstarted: dict[str, str] = {}
        self._away = self._unseen = ""
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
        done = start_due(self._desk, self._runs)
        failed = {request.id: str(error) for request, error in done.failed}
        for request, error in done.failed:
            if self._unstarted.get(request.id) != str(error):
                logger.warning("%s: no run yet: %s", request.token, error)
        self._unstarted, self._away = failed, str(done.away or "")

    def trouble_with(self, request: Request, progress: Progress | None) -> str:
        """Why nothing is seen of a request's run, or why nobody begins it; empty when all is well."""
        trouble = self._unstarted.get(request.id) or self._away or self._unseen
        due = request.start_at or request.updated_at
        waits = request.state is not State.RUNNING and progress is not None and progress.state == "SCHEDULED"
        if not trouble and waits and due is not None and self._store.now() - due > UNBEGUN:
            return "Nobody begins its run: the process that serves the deployments is away, or very busy."
        return trouble

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
        return self._settler.settle(request, progress)

    def url(self, request: Request) -> str:
        """Where a person looks at the request's run; empty before there is one."""
        return self._runs.run_url(request.run_id) if request.run_id else ""

    def result(self, run_id: str) -> Mapping[str, object] | None:
        """What the run reported, as JSON; None when it has not."""
        found = self._runs.result(run_id)
        return None if found is None else {key: value for key, value in found.items() if key != "run_url"}

    def cancel(self, request: Request, find_holder: Callable[[str], LeaseHolder | None]) -> None:
        """Have a run end and undo what is half made; raises as `cancel_run`."""
        cancel_run(self._runs, request, find_holder)

    def drop_unwanted(self) -> None:
        """Take back the runs ahead that no request waits for; they would refuse by themselves: this is a courtesy."""
        try:
            drop_unwanted(self._desk, self._runs)
        except ForkyardError as error:
            logger.warning("runs that nobody wants any more may still be seen ahead: %s", error)
