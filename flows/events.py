"""
Hear of the deployments' runs as they change: one subscription to the events of Prefect's server.

A courtesy, never a guarantee: events get lost with a connection, and who listens must also look now and then. Like
`flows.runs` it does without Prefect's client, whose import takes two seconds of CPU; the stream is a documented one.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from socket import SHUT_RDWR
from threading import Event, Thread
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.sync.connection import Connection
from websockets.typing import Subprotocol

logger = logging.getLogger(__name__)

RUN = "prefect.flow-run."
"""How the names of a run's events begin, and the ids of runs as resources."""

CHANGES: Mapping[str, Sequence[str]] = {
    "prefix": [RUN, "prefect.artifact."],
    "exclude_name": ["prefect.flow-run.heartbeat"],
}
"""Changes of a run's state, and what it says in artifacts: its progress, its result."""

CREATIONS: Mapping[str, Sequence[str]] = {"name": ["prefect.flow-run.Scheduled"]}
"""Runs that are to begin, now or later."""

PROTOCOL = Subprotocol("prefect")

ANSWER = 10.0
"""Seconds for connecting, and for the server's greeting."""

ENDING = 0.5
"""Seconds for the thread to end."""

PAUSES = (1.0, 10.0)
"""Seconds between two tries to connect: at first, and at most."""


class RunEvents:
    """One subscription to the runs' events, which comes back by itself."""

    def __init__(self, api_url: str, wanted: Mapping[str, Sequence[str]] = CHANGES) -> None:
        """Listen to the server whose API is at *api_url*, which ends in /api, for the *wanted* events."""
        self._url, self._wanted = _stream_of(api_url), wanted
        self._stop = Event()
        self._stream: Connection | None = None
        self.connected = False
        """Whether news would be heard now; what came before must be looked for."""

    def run(self, heard: Callable[[str], None], began: Callable[[], None] = lambda: None) -> None:
        """Tell *heard* the id of each run of which there is news, and *began* of each new connection, until stopped."""
        pause, quiet = PAUSES[0], logging.INFO
        while not self._stop.is_set():
            try:
                # Past any proxy, as all other calls to the server go.
                with connect(
                    self._url, subprotocols=[PROTOCOL], open_timeout=ANSWER, max_size=None, proxy=None
                ) as stream:
                    self._stream = stream
                    _subscribe(stream, self._wanted)
                    if self._stop.is_set():
                        return
                    self.connected, pause = True, PAUSES[0]
                    began()
                    logger.info("listening to Prefect's events at %s", self._url)
                    self._listen(stream, heard)
            except (OSError, WebSocketException, ValueError, KeyError) as error:
                if self._stop.is_set():
                    return
                # A server that is away, ends, or speaks of something else: there is a next try, and the sweep.
                level = logging.WARNING if self.connected else quiet
                quiet = logging.DEBUG
                logger.log(level, "Prefect's events at %s are not heard: %s", self._url, error)
            finally:
                self.connected, self._stream = False, None
            self._stop.wait(pause)
            pause = min(pause * 2, PAUSES[1])

    def stop(self) -> None:
        """Let `run` end: at once, or when the server it is just connecting to has answered or not."""
        self._stop.set()
        stream = self._stream
        if stream is not None:
            # Not closed politely, which waits for the server's answer: whoever waited for the run waits no more.
            with suppress(OSError):
                stream.socket.shutdown(SHUT_RDWR)

    def _listen(self, stream: Connection, heard: Callable[[str], None]) -> None:
        while not self._stop.is_set():
            message = json.loads(stream.recv())
            for run_id in _runs_of(message["event"]):
                heard(run_id)


@contextmanager
def listening(
    events: RunEvents, heard: Callable[[str], None], began: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Listen in a thread while the block runs; *heard* and *began* as in `RunEvents.run`."""
    thread = Thread(target=events.run, args=(heard, began), name="run-events", daemon=True)
    thread.start()
    try:
        yield
    finally:
        events.stop()
        # One that is just connecting to a server that does not answer is left to its own timeout.
        thread.join(timeout=ENDING)


def _stream_of(api_url: str) -> str:
    parts = urlsplit(api_url.rstrip("/") + "/events/out")
    return urlunsplit(parts._replace(scheme="wss" if parts.scheme == "https" else "ws"))


def _subscribe(stream: Connection, names: Mapping[str, Sequence[str]]) -> None:
    stream.send(json.dumps({"type": "auth", "token": None}))
    greeting = json.loads(stream.recv(timeout=ANSWER))
    if greeting["type"] != "auth_success":
        text = f"the server refuses: {greeting}"
        raise ValueError(text)
    now = datetime.now(UTC)
    # The server sends what fits the filter, so its end lies further ahead than any connection lasts.
    occurred = {"since": now.isoformat(), "until": (now + timedelta(days=365)).isoformat()}
    wanted = {"event": dict(names), "occurred": occurred}
    stream.send(json.dumps({"type": "filter", "filter": wanted, "backfill": False}))


def _runs_of(event: dict[str, object]) -> Iterator[str]:
    related = event["related"]
    resources = [event["resource"], *(related if isinstance(related, list) else ())]
    for resource in resources:
        name = resource.get("prefect.resource.id", "") if isinstance(resource, dict) else ""
        if name.startswith(RUN):
            yield name.removeprefix(RUN)
