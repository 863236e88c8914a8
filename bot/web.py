"""
Signed requests instead of Socket Mode: for where Slack can reach the bot and the bot may open no connection.

Whatever is wrong with a request's signature or its time, malformed headers too, is answered with 401; nothing is run.
The audit log is told, at most once a minute: whoever can reach this address must not be able to fill it.
"""

import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from threading import Lock, Thread

import uvicorn
from slack_bolt import App
from slack_bolt.adapter.starlette.handler import to_bolt_request, to_starlette_response
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from forkyard.errors import ForkyardError

logger = logging.getLogger(__name__)

PATH = "/slack/events"
WINDOW = 300
"""Seconds by which a request's time may differ from ours."""

MOST_BYTES = 1 << 20

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
        config = uvicorn.Config(
            Starlette(routes=routes), host="127.0.0.1", port=port, log_level="warning", access_log=False
        )
        self._server = uvicorn.Server(config)
        self._thread = Thread(target=self._server.run, name="forkyard-web", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End, once what is being answered is answered."""
        self._server.should_exit = True
        self._thread.join(timeout=10)

    async def take(self, request: Request) -> Response:
        """Take one request."""
        if not is_timely(request.headers.get("x-slack-request-timestamp", "")):
            return await self._refuse("its time is missing, malformed, or not of the last five minutes")
        if not request.headers.get("x-slack-signature", "").isascii():
            return await self._refuse("its signature is malformed")
        body = await request.body()
        if len(body) > MOST_BYTES:
            return PlainTextResponse("", status_code=413)
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


def is_timely(header: str) -> bool:
    """Whether a timestamp header is a moment of the last five minutes."""
    if not header.isascii() or not header.isdigit() or len(header) > 12:  # noqa: PLR2004 - digits of a moment
        return False
    return abs(time.time() - int(header)) <= WINDOW
