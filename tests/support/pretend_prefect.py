"""
A Prefect API for tests of the bot: real HTTP, many runs, and runs that do what a test says.

A run passes the same gate as a real one and puts its begin and its end on record by the same code; only the fleet is
not there. It fails loudly on a call that it does not know.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from forkyard.errors import ForkyardError
from forkyard.model import Phase, ScaleRequest
from forkyard.report import ChildReport, Interval, Report, report_to_json
from forkyard.requests.gate import Admission, admit
from forkyard.requests.store import Store
from forkyard.settings import Settings
from tests.support.prefect_api import serving_api

STAGES = ("forked", "identified", "registered", "ready", "serving")


@dataclass
class Run:
    """One run."""

    id: str
    name: str
    parameters: dict[str, Any]
    key: str
    scheduled: str | None = None
    state: str = "SCHEDULED"
    message: str = ""
    percent: float = 0.0
    text: str = ""
    result: Any = None
    admission: Admission | None = None


@dataclass
class PretendPrefect:
    """All runs, and the hands of the flow."""

    settings: Settings
    store: Store
    runs: dict[str, Run] = field(default_factory=dict)
    url: str = ""
    down: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def the_run(self) -> Run:
        """The only run that there is."""
        with self.lock:
            (run,) = self.runs.values()
            return run

    def begin(self, run: Run) -> bool:
        """Let the flow begin: through the gate, or refused there."""
        parameters = run.parameters
        asked = ScaleRequest(
            parameters["request_id"],
            parameters["service"],
            parameters["target"],
            parameters["requested_by"],
            datetime.now(UTC),
        )
        try:
            run.admission = admit(self.store, self.settings, asked, run.id)
        except ForkyardError as error:
            run.state, run.message = "FAILED", str(error)
            return False
        run.state, run.text = "RUNNING", "observing the fleet"
        return True

    def progress(self, run: Run, *counts: int, total: int) -> None:
        """Let so many children have come through each stage."""
        parts = [f"{stage} {count} of {total}" for stage, count in zip(STAGES, counts, strict=False)]
        run.text, run.percent = ", ".join(parts), round(100 * sum(counts) / (total * len(STAGES)), 1)

    def end(
        self,
        run: Run,
        *,
        serving: int,
        made: int,
        error: str = "",
        took: float = 12.5,
        pause: float = 0.1,
        report: Any = None,  # noqa: ANN401 - whatever another forkyard may say
    ) -> None:
        """Let the flow put its end on record, and *pause* seconds later report, as the real one does; or *report*."""
        assert run.admission is not None
        row = run.admission.row
        before = row.plan.current if row.plan else 0
        message = error or f"{serving} of {row.target} serving"
        made_here = Report(
            service=row.service,
            request_id=row.id,
            wanted=row.target,
            before=before,
            serving=serving,
            seconds=took,
            ok=not error,
            message=message,
            children=make_children(row.token, made, failed=1 if error else 0),
            requested_by=row.requested_by,
        )
        run.admission.finish(made_here, None)
        threading.Event().wait(pause)
        run.result = report if report is not None else report_to_json(made_here)
        run.state, run.message = ("FAILED", error) if error else ("COMPLETED", message)

    def answer(self, verb: str, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401, PLR0911 - JSON, one return a call
        """Answer one call."""
        with self.lock:
            match verb, path:
                case "GET", "/api/health":
                    return True
                case "GET", "/api/deployments/name/scale/scale":
                    return {"id": "a-deployment"}
                case "POST", "/api/deployments/a-deployment/create_flow_run":
                    return {"id": self._create(body).id}
                case "POST", "/api/flow_runs/filter":
                    return [_shape(run) for run in self.runs.values() if _is_wanted(run, body["flow_runs"])]
                case "POST", "/api/artifacts/filter":
                    return list(self._artifacts(body["artifacts"]))
            run_id, _, action = path.removeprefix("/api/flow_runs/").partition("/")
            run = self.runs[run_id]
            if action == "set_state":
                run.state = "CANCELLING" if run.admission is not None else "CANCELLED"
                return {}
            return _shape(run)

    def _create(self, body: dict[str, Any]) -> Run:
        known = next((run for run in self.runs.values() if run.key == body["idempotency_key"]), None)
        if known is not None:
            return known
        scheduled = (body["state"].get("state_details") or {}).get("scheduled_time")
        run = Run(str(uuid4()), body["name"], body["parameters"], body["idempotency_key"], scheduled)
        self.runs[run.id] = run
        return run

    def _artifacts(self, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for run_id in wanted["flow_run_id"]["any_"]:
            run = self.runs[run_id]
            if "progress" in wanted["type"]["any_"] and run.text:
                yield {"flow_run_id": run_id, "type": "progress", "data": run.percent, "description": run.text}
            if "result" in wanted["type"]["any_"] and run.result is not None:
                yield {"flow_run_id": run_id, "type": "result", "data": json.dumps(run.result)}


def make_children(token: str, number: int, *, failed: int = 0) -> tuple[ChildReport, ...]:
    """So many children, each through all stages; the last *failed* of them not."""
    phases = (Phase.FORKED, Phase.IDENTIFIED, Phase.REGISTERED, Phase.READY, Phase.SERVING)
    found = []
    for ordinal in range(1, number + 1):
        bad = ordinal > number - failed
        intervals = tuple(
            Interval(phase, at + ordinal / 10, at + 1 + ordinal / 10, ok=not (bad and at == 2))
            for at, phase in enumerate(phases[:3] if bad else phases)
        )
        phase, error = (Phase.RETIRED, "did not register in 90 s") if bad else (Phase.SERVING, None)
        found.append(ChildReport(f"game-{token}-{ordinal}", phase, intervals=intervals, error=error))
    return tuple(found)


def _is_wanted(run: Run, wanted: dict[str, Any]) -> bool:
    if "id" in wanted:
        return run.id in wanted["id"]["any_"]
    return run.state in wanted["state"]["type"]["any_"]


def _shape(run: Run) -> dict[str, Any]:
    state = {"type": run.state, "message": run.message}
    return {"id": run.id, "name": run.name, "parameters": run.parameters, "state": state}


@contextmanager
def serving_prefect(prefect: PretendPrefect, port: int = 0) -> Iterator[str]:
    """Serve it on 127.0.0.1; gives the API's URL."""

    def answer(verb: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (503, {}) if prefect.down else (200, prefect.answer(verb, path, body))

    with serving_api(answer, port) as url:
        yield url
