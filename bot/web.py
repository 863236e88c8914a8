"""
Signed requests instead of Socket Mode: for where Slack can reach the bot and the bot may open no connection.

Whatever is wrong with a request's signature or its time, malformed headers too, is answered with 401; nothing is run.
The audit log is told, at most once a minute: whoever can reach this address must not be able to fill it.
"""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from socket import create_server
from threading import Lock, Thread

import uvicorn
from slack_bolt import App
from slack_bolt.adapter.starlette.handler import to_bolt_request, to_starlette_response
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from forkyard.errors import ForkyardError, InvalidRequest, NotReady
from forkyard.waiting import wait_for

logger = logging.getLogger(__name__)

PATH = "/slack/events"
WINDOW = 300
"""Seconds by which a request's time may differ from ours."""

MOST_BYTES = 1 << 20

BACKLOG = 2048
"""Connections that wait to be taken, as many as uvicorn itself lets wait."""

STARTING = timedelta(seconds=20)

QUIET = 60.0
"""Least seconds between two entries about refused requests."""


class Web:
    """The address that takes signed requests, on 127.0.0.1."""

    def __init__(self, app: App, port: int, note: Callable[[str], None]) -> None:
        """Serve *app*; *note* puts on record what was refused."""
        self._app, self._note = app, note
        self._lock = Lock()
        self._noted, self._refused = -QUIET, 0
        routes = [Route(PATH, self.take, methods=["POST"])]
        self._port = port
        self._server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="warning", access_log=False))
        self._thread: Thread | None = None

    def start(self) -> None:
        """
        Begin to serve; when this returns, it is served.

        Raises:
            InvalidRequest: the port cannot be had.
            NotReady: the server has not started.
        """
        # Not left to uvicorn, which would end its thread with exit(1), unseen by whoever waits for Slack.
        try:
            listener = create_server(("127.0.0.1", self._port), backlog=BACKLOG)
        except OSError as error:
            text = (
                f"chatops.http_port: 127.0.0.1:{self._port} cannot be listened at: {error.strerror}. "
                f"End what uses it (`ss -tlnp` names it), or set another port in forkyard.toml and in the proxy."
            )
            raise InvalidRequest(text) from error
        self._thread = Thread(target=self._server.run, args=([listener],), name="forkyard-web", daemon=True)
        self._thread.start()
        try:
            wait_for(lambda: self._server.started or None, what="the server for signed requests", timeout=STARTING)
        except NotReady:
            self.stop()
            raise

    def stop(self) -> None:
        """End, once what is being answered is answered."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=10)

    async def take(self, request: Request) -> Response:
        """Take one request."""
        if not is_timely(request.headers.get("x-slack-request-timestamp", "")):
            return await self._refuse("its time is missing, malformed, or not of the last five minutes")
        if not request.headers.get("x-slack-signature", "").isascii():
            return await self._refuse("its signature is malformed")
        body = await _read_body(request)
        if body is None:
            # Closed, because what else there is of it would be taken for the next request.
            return PlainTextResponse("", status_code=413, headers={"Connection": "close"})
        # Bolt waits for the listener's acknowledgement: not in the loop that serves the others.
        answer = await run_in_threadpool(self._app.dispatch, to_bolt_request(request, body))
        if answer.status == HTTPStatus.UNAUTHORIZED:
            return await self._refuse("its signature is not Slack's")
        return to_starlette_response(answer)

    async def _refuse(self, why: str) -> Response:
        await run_in_threadpool(self._put_on_record, why)
        return PlainTextResponse("", status_code=HTTPStatus.UNAUTHORIZED)

    def _put_on_record(self, why: str) -> None:
        with self._lock:
            self._refused += 1
            if time.monotonic() - self._noted < QUIET:
                return
            others, self._refused, self._noted = self._refused - 1, 0, time.monotonic()
        try:
            self._note(f"a request was refused: {why}" + (f"; {others} more since the last entry" if others else ""))
        except ForkyardError as error:
            logger.warning("a refused request is not in the audit log: %s", error)


async def _read_body(request: Request) -> bytes | None:
    """The body, or None for one that is longer than any of Slack's: nobody who is unknown has memory filled."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)


def is_timely(header: str) -> bool:
    """Whether a timestamp header is a moment of the last five minutes."""
    if not header.isascii() or not header.isdigit() or len(header) > 12:  # noqa: PLR2004 - digits of a moment
        return False
    return abs(time.time() - int(header)) <= WINDOW
