"""
Start the deployments' runs by name, follow them, read their results: over Prefect's REST API.

Imports neither Prefect nor any flow nor an HTTP library, because the command line starts with this module:
Prefect's client takes two seconds of CPU to import, httpx a quarter, the standard library's client 0.07 s.
Only documented calls are made.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from http.client import HTTPException
from itertools import count
from threading import Event
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from forkyard.errors import ForkyardError, NotFound, NotReady, PermanentError, Unavailable
from forkyard.model import ScaleRequest
from forkyard.names import make_token
from forkyard.waiting import wait_for

FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})

UNSERVED = timedelta(seconds=30)
"""A run that nobody has begun for so long is not going to be: the process that serves the deployments is away."""

PAGE = 200
"""Most rows that Prefect gives at once."""

LOOKED_AT = PAGE // 2
"""Most runs in one call: a run has two artifacts."""

BUSY = timedelta(seconds=40)
"""How long a server that answers "not now", or not in time, is asked again."""

STATE_EACH = 4
"""Of so many looks at a run that works, one asks for its state too: a run that reports is heard of without it."""

SOON, USUAL = timedelta(seconds=0.1), timedelta(seconds=0.4)
"""Time between the first two looks at a run that has come to its end, and at any other."""

SLOWEST, RARE = timedelta(seconds=0.8), timedelta(seconds=1.5)
"""Most time between two looks at a run: without news of it, and with."""

ALL_DONE = 100.0
"""Percent at which a run only has to say what it did, which somebody waits for."""

QUIET = timedelta(hours=1)
"""A run that has not changed for so long is no longer followed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    state: str
    """Prefect's type of the state: SCHEDULED, PENDING, RUNNING, CANCELLING, or one of `FINAL`."""
    message: str
    """What the state says; for a failed run the reason."""
    percent: float
    text: str
    """Children per phase, in words."""
    reported: bool = False
    """Whether the run has said what there is now; it then only tidies up."""

    @property
    def final(self) -> bool:
        """Whether nothing more is to be learned: the run is over, or has reported."""
        return self.reported or self.state in FINAL


class ServerAway(PermanentError):
    """
    Nobody answers at the API's address.

    Not transient: a person waits for the answer, and a server that is not there does not come by itself.
    """

    def __init__(self, base: str, cause: Exception) -> None:
        """Say which server."""
        super().__init__(f"Prefect at {base} does not answer: {cause}. Start it with `forkyard lab up`.")


class Unreadable(PermanentError):
    """What a run reported is nothing that this forkyard understands."""


class Runs:
    """The deployments' runs on one Prefect server."""

    def __init__(self, api_url: str, *, timeout: timedelta = timedelta(seconds=10), busy: timedelta = BUSY) -> None:
        """Talk to the API at *api_url*, which ends in /api; one that answers "not now" is asked again for *busy*."""
        self._base = api_url.rstrip("/")
        self._timeout = timeout.total_seconds()
        self._busy = busy

    @property
    def api_url(self) -> str:
        """Where the server's API is."""
        return self._base

    def is_up(self) -> bool:
        """Whether the server answers; one that is only slow is given time."""
        try:
            self._call("GET", "/health")
        except ForkyardError:
            return False
        return True

    def start_scale(
        self, request: ScaleRequest, *, warrant: str = "", plan_hash: str = "", at: datetime | None = None
    ) -> str:
        """
        Start a run for the request and return its id; the same request and plan again return the first one's.

        *at* a moment ahead the run is there to be seen, and begins then. The run refuses to change anything without an
        approval on record or a *warrant* (`forkyard.approvals`).

        Raises:
            NotFound: the deployment is not registered.
            ServerAway: the server does not answer.
        """
        parameters = {
            "service": request.service,
            "target": request.target,
            "request_id": request.id,
            "requested_by": request.requested_by,
            "reason": request.reason,
            "dry_run": request.dry_run,
            **({"warrant": warrant} if warrant else {}),
        }
        name = f"{request.service} to {request.target} ({make_token(request.id)})"
        tags = ["forkyard", request.service, *(["dry-run"] if request.dry_run else [])]
        key = f"{request.id}-{plan_hash}" if plan_hash else request.id
        return self.start("scale", parameters, name=name, key=key, tags=tags, at=at)

    def start_reap(self, service: str, *, key: str) -> str:
        """Start a sweep of the service and return its run's id."""
        return self.start("reap", {"service": service}, name=f"reap {service}", key=key, tags=["forkyard", service])

    def start(
        self,
        flow: str,
        parameters: Mapping[str, object],
        *,
        name: str,
        key: str,
        tags: Sequence[str],
        at: datetime | None = None,
    ) -> str:
        """Start a run of the flow's deployment and return its id; the same *key* again returns the first one's."""
        deployment = self._call("GET", f"/deployments/name/{flow}/{flow}", missing=f"the deployment {flow}/{flow}")
        body = {"parameters": parameters, "name": name, "idempotency_key": key, "tags": list(tags)}
        when = {"state_details": {"scheduled_time": at.isoformat()}} if at is not None else {}
        body |= {"state": {"type": "SCHEDULED", **when}}
        created = self._call("POST", f"/deployments/{deployment['id']}/create_flow_run", body)
        return str(created["id"])

    def list_ahead(self) -> dict[str, str]:
        """The scale runs that are still to begin: by each run's id, the id of the request that it is for."""
        # Pending too: the runner takes a run some seconds ahead, and has its process wait for the moment.
        ahead = {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}, "tags": {"all_": ["forkyard"]}}
        body = {"flow_runs": ahead, "flows": {"name": {"any_": ["scale"]}}, "sort": "EXPECTED_START_TIME_ASC"}
        listed: dict[str, str] = {}
        for page in count():
            found = self._call("POST", "/flow_runs/filter", {**body, "limit": PAGE, "offset": page * PAGE})
            listed |= {str(run["id"]): str(run["parameters"].get("request_id") or "") for run in found}
            if len(found) < PAGE:
                break
        return listed

    def progress(self, run_id: str) -> Progress:
        """How far the run is now."""
        run = self._call("GET", f"/flow_runs/{run_id}", missing=f"the run {run_id}")
        return _read_progress(run, self._artifacts([run_id], "progress", "result"))

    def _heard(self, run_id: str, last: Progress) -> Progress:
        """What a run that was RUNNING has said since, in one call; its state is the last one's."""
        state = {"type": last.state, "message": last.message}
        return _read_progress({"state": state}, self._artifacts([run_id], "progress", "result"))

    def look(self, run_ids: Sequence[str]) -> dict[str, Progress]:
        """How far several runs are, in two calls for a hundred of them; a run that is not there is left out."""
        found: dict[str, Progress] = {}
        for begin in range(0, len(run_ids), LOOKED_AT):
            found |= self._look(run_ids[begin : begin + LOOKED_AT])
        return found

    def _look(self, run_ids: Sequence[str]) -> dict[str, Progress]:
        body = {"flow_runs": {"id": {"any_": list(run_ids)}}, "limit": len(run_ids)}
        runs: list[dict[str, Any]] = self._call("POST", "/flow_runs/filter", body)
        artifacts = self._artifacts(run_ids, "progress", "result")
        return {
            str(run["id"]): _read_progress(run, [a for a in artifacts if a.get("flow_run_id") == run["id"]])
            for run in runs
        }

    def follow(self, run_id: str, news: Event | None = None) -> Iterator[Progress]:
        """
        Yield the run's progress whenever it changes; the last one is final.

        Whoever hears of the run (`flows.events`) sets *news*, and it is looked at once; without, it is a poll.

        Raises:
            Unavailable: nobody begins the run, or the server went away.
            NotFound: there is no such run.
        """
        last: Progress | None = None
        while last is None or not last.final:
            last = self._next(run_id, last, news)
            yield last

    def _next(self, run_id: str, last: Progress | None, news: Event | None) -> Progress:
        looks = count()

        def look() -> Progress | None:
            # Looks cost the server time that the children need: without news most of them ask only for what a run says.
            short = news is None and last is not None and last.state == "RUNNING" and next(looks) % STATE_EACH
            now = self._heard(run_id, last) if short and last is not None else self.progress(run_id)
            return None if now == last else now

        waits = last is not None and last.state == "SCHEDULED"
        try:
            return wait_for(
                look,
                what=f"run {run_id}",
                timeout=UNSERVED if waits else QUIET,
                interval=SOON if last and last.percent >= ALL_DONE else USUAL,
                slowest=SLOWEST if news is None else RARE,
                news=news,
            )
        except NotReady as error:
            text = (
                f"the run {run_id} is not begun: the process that serves the deployments is away. "
                f"Start it with `forkyard lab up`."
            )
            raise Unavailable(text if waits else str(error)) from error

    def cancel(self, run_id: str) -> None:
        """Ask the run to end and to undo what is half made; one that is over is left alone."""
        if self.progress(run_id).state not in FINAL:
            state = {"type": "CANCELLING", "name": "Cancelling", "message": "cancelled by a person"}
            self._call("POST", f"/flow_runs/{run_id}/set_state", {"state": state, "force": False})

    def result(self, run_id: str) -> dict[str, Any] | None:
        """What the run reported (as `forkyard.report.report_to_json` made it), or None when it has not."""
        found = self._artifacts([run_id], "result")
        if not found:
            return None
        return read_result(found[0]["data"]) | {"run_url": self.run_url(run_id)}

    def measure(self, run_id: str) -> timedelta:
        """
        The run's own wall time: from its first state RUNNING to the moment at which its result could be read.

        Raises:
            NotFound: there is no such run, or it has no result.
        """
        run = self._call("GET", f"/flow_runs/{run_id}", missing=f"the run {run_id}")
        found = self._artifacts([run_id], "result")
        if not found or not run["start_time"]:
            text = f"the run {run_id} has no result"
            raise NotFound(text)
        return datetime.fromisoformat(found[0]["created"]) - datetime.fromisoformat(run["start_time"])

    def first_task(self, service: str, *, after: datetime) -> datetime | None:
        """When the first task of the service's runs began that began after a moment; None while there is none."""
        body = {
            "flow_runs": {"tags": {"all_": ["forkyard", service]}},
            "task_runs": {"start_time": {"after_": after.isoformat()}},
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": 1,
        }
        found = self._call("POST", "/task_runs/filter", body)
        return datetime.fromisoformat(found[0]["start_time"]) if found else None

    def reported_at(self, service: str) -> datetime:
        """When a run of the service has last reported; raises NotFound before any has."""
        found = self._call("POST", "/artifacts/filter", self._last_results(service, limit=1))
        if not found:
            text = f"no run of {service} has reported yet."
            raise NotFound(text)
        return datetime.fromisoformat(found[0]["created"])

    def results(self, service: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """What the service's last runs reported, newest first."""
        found = self._call("POST", "/artifacts/filter", self._last_results(service, limit=limit))
        return [read_result(artifact["data"]) for artifact in found]

    def _last_results(self, service: str, *, limit: int) -> dict[str, object]:
        wanted = {"key": {"any_": [f"{service}-result"]}}
        return {"artifacts": wanted, "sort": "CREATED_DESC", "limit": limit}

    def run_url(self, run_id: str) -> str:
        """Where a person looks at the run."""
        return f"{self._base.removesuffix('/api')}/runs/flow-run/{run_id}"

    def _artifacts(self, run_ids: Sequence[str], *kinds: str) -> list[dict[str, Any]]:
        wanted = {"flow_run_id": {"any_": list(run_ids)}, "type": {"any_": list(kinds)}}
        body = {"artifacts": wanted, "sort": "CREATED_DESC", "limit": len(kinds) * len(run_ids)}
        found: list[dict[str, Any]] = self._call("POST", "/artifacts/filter", body)
        return found

    # Any: the API's answers are JSON.
    def _call(self, verb: str, path: str, body: object = None, *, missing: str = "") -> Any:  # noqa: ANN401
        def look() -> list[Any]:
            return [self._ask(verb, path, body, missing)]

        try:
            # Every call here may be repeated, and a busy server on SQLite answers 503 now and then.
            return wait_for(look, what=f"{verb} {path}", timeout=self._busy, interval=timedelta(seconds=0.2))[0]
        except NotReady as error:
            raise Unavailable(str(error)) from error

    def _ask(self, verb: str, path: str, body: object, missing: str) -> Any:  # noqa: ANN401
        data = None if body is None else json.dumps(body).encode()
        asked = Request(  # noqa: S310 - the configuration's own URL
            self._base + path, data, {"Content-Type": "application/json"}, method=verb
        )
        try:
            with urlopen(asked, timeout=self._timeout) as answer:  # noqa: S310 - as above
                return json.load(answer)
        except HTTPError as error:
            raise self._refused(error, missing or path, f"{verb} {path}") from error
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(getattr(error, "reason", error), TimeoutError):
                # Somebody listens: on SQLite one long write makes all others wait.
                text = f"Prefect at {self._base} does not answer {verb} {path} within {self._timeout:g} s"
                raise Unavailable(text) from error
            raise ServerAway(self._base, error) from error

    def _refused(self, error: HTTPError, missing: str, call: str) -> ForkyardError:
        if error.code == HTTPStatus.NOT_FOUND:
            return NotFound(f"{missing} is not there at {self._base}. `forkyard lab up` registers the deployments.")
        if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Unavailable(f"Prefect at {self._base} answers {error.code} to {call}")
        said = error.read(300).decode(errors="replace")
        return PermanentError(f"Prefect refuses {call}: {error.code} {said}")


def _read_progress(run: Mapping[str, Any], artifacts: Sequence[Mapping[str, Any]]) -> Progress:
    state = run.get("state") or {}
    found = {str(artifact.get("type")): artifact for artifact in artifacts}
    shown = found.get("progress", {})
    return Progress(
        state=str(state.get("type") or "PENDING"),
        message=str(state.get("message") or ""),
        percent=float(shown.get("data") or 0.0),
        text=str(shown.get("description") or ""),
        reported="result" in found,
    )


def read_result(data: object) -> dict[str, Any]:
    """Read a result artifact's data, which the API gives as text; raises Unreadable."""
    try:
        found = json.loads(data) if isinstance(data, str) else data
    except ValueError as error:
        text = f"a result that is no JSON: {data!r:.80}"
        raise Unreadable(text) from error
    if not isinstance(found, dict):
        text = f"a result that is no object: {data!r:.80}"
        raise Unreadable(text)
    return found
