"""
A Prefect API for tests of the command line: real HTTP, and as much of a run as a script says.

It fails loudly on a call that it does not know, as the real one would answer 404 to.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RUN = "11111111-2222-4333-8444-555555555555"


@dataclass
class Script:
    """What the run does, and what was asked of it."""

    states: Sequence[str] = ("SCHEDULED", "RUNNING", "COMPLETED")
    """One a look at the run; the last one stays."""
    texts: Sequence[str] = ("", "forked 1 of 2", "forked 2 of 2, serving 2 of 2")
    result: dict[str, Any] | None = None
    message: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)
    running: threading.Event = field(default_factory=threading.Event)
    looks: int = 0
    asked: list[str] = field(default_factory=list)

    def answer(self, verb: str, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401, PLR0911 - JSON; one answer a call
        """Answer one call."""
        self.asked.append(path)
        match verb, path:
            case "GET", "/api/health":
                return True
            case "GET", "/api/deployments/name/scale/scale":
                return {"id": "a-deployment"}
            case "POST", "/api/deployments/a-deployment/create_flow_run":
                self.parameters = body["parameters"]
                return {"id": RUN}
            case "POST", "/api/flow_runs/filter":
                if "id" not in body["flow_runs"]:
                    return self._ahead()
                return [{"id": RUN, "state": {"type": self._state(), "message": self.message}}]
            case "POST", "/api/artifacts/filter":
                return [found for kind in body["artifacts"]["type"]["any_"] for found in self._artifact(kind)]
        if path == f"/api/flow_runs/{RUN}/set_state":
            assert body["state"]["type"] == "CANCELLING"
            self.cancelled.set()
            return {}
        if path == f"/api/flow_runs/{RUN}":
            return {"id": RUN, "state": {"type": self._state(), "message": self.message}}
        raise KeyError(path)

    def _ahead(self) -> list[dict[str, Any]]:
        ahead = self.parameters and not self.looks and not self.cancelled.is_set()
        return [{"id": RUN, "parameters": self.parameters}] if ahead else []

    def _state(self) -> str:
        if self.cancelled.is_set():
            return "CANCELLED"
        state = self.states[min(self.looks, len(self.states) - 1)]
        self.looks += 1
        if state == "RUNNING":
            self.running.set()
        return state

    def _artifact(self, kind: str) -> list[dict[str, Any]]:
        if kind == "progress":
            text = self.texts[min(self.looks, len(self.texts) - 1)]
            return [{"type": kind, "data": 50.0, "description": text}]
        # A run reports at its end: as soon as a report is there, nobody looks at the progress any more.
        if self.result is None or self.looks < len(self.states):
            return []
        return [{"type": kind, "data": json.dumps(self.result)}]


@contextmanager
def scripted_api(script: Script) -> Iterator[str]:
    """Serve the script on a free port of 127.0.0.1; gives the API's URL."""
    with serving_api(lambda verb, path, body: (200, script.answer(verb, path, body))) as url:
        yield url


Answer = Callable[[str, str, dict[str, Any]], tuple[int, Any]]
"""From a call's verb, path and body to a status and what is answered; KeyError: there is no such call."""


@contextmanager
def serving_api(answer: Answer, port: int = 0) -> Iterator[str]:
    """Serve *answer* as JSON on 127.0.0.1, 0: on a free port; gives the API's URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve({})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self._serve(json.loads(self.rfile.read(length) or b"{}"))

        def _serve(self, body: dict[str, Any]) -> None:
            try:
                code, said = answer(self.command, self.path, body)
            except KeyError as error:
                code, said = 404, {"detail": f"no such call: {error}"}
            data = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="pretended-api")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
