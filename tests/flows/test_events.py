"""News of runs: from a real Prefect server, and after a connection that broke."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from time import monotonic

from prefect import flow
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from flows.events import RunEvents, listening
from flows.publish import publish_table
from tests.support.lab import until


def test_a_run_is_heard_of_as_it_begins_says_something_and_ends(prefect_server: str) -> None:
    heard: list[str] = []
    events = RunEvents(prefect_server)

    @flow(name="told", persist_result=False)
    def told() -> str:
        publish_table("told", [{"a": 1}], "a table")
        return run_id()

    with listening(events, heard.append):
        until(lambda: events.connected, seconds=10, what="the subscription")
        run = told()
        # Pending, Running, what it says, Completed.
        until(lambda: heard.count(run) >= 4, seconds=20, what="news of the run")
    assert not events.connected


def run_id() -> str:
    """The id of the run that this is called in."""
    from prefect.runtime import flow_run  # noqa: PLC0415 - reads the run's context when it is asked

    return str(flow_run.id)


def test_a_connection_that_breaks_is_made_again_and_news_come_once_more() -> None:
    heard: list[str] = []
    with stream_that_breaks() as url, listening(RunEvents(url), heard.append):
        until(lambda: len(heard) >= 2, seconds=10, what="news on the second connection")
    assert heard == ["run-1", "run-2"]


def test_a_stream_that_is_just_connecting_keeps_nobody_waiting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        events, began = RunEvents(f"http://127.0.0.1:{silent.getsockname()[1]}/api"), monotonic()
        with listening(events, list[str]().append):
            silent.accept()
        # Its handshake alone would be given ten seconds.
        assert monotonic() - began < 5


@contextmanager
def stream_that_breaks() -> Iterator[str]:
    """A server that speaks Prefect's protocol, and ends its first connection after one event."""
    served: list[ServerConnection] = []

    def speak(stream: ServerConnection) -> None:
        assert json.loads(stream.recv())["type"] == "auth"
        stream.send(json.dumps({"type": "auth_success"}))
        assert json.loads(stream.recv())["type"] == "filter"
        served.append(stream)
        resource = {"prefect.resource.id": f"prefect.flow-run.run-{len(served)}"}
        stream.send(json.dumps({"type": "event", "event": {"resource": resource, "related": []}}))
        if len(served) > 1:
            for _ in stream:
                pass  # until the other side closes

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server: Server = serve(speak, sock=listener, subprotocols=[Subprotocol("prefect")])
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        finally:
            server.shutdown()
            thread.join()
