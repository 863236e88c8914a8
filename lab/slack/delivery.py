"""
From Slack to the app: over the WebSockets that it has opened, or as signed requests to its address.

Slack waits three seconds for the acknowledgement. A command or a click that gets none is told to the person as failed;
an event is sent again, up to three times.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from lab.slack.state import APP_ID, TEAM, Json, Workspace

ACK_SECONDS = 3.0
EVENT_RETRIES = (0.0, 1.0, 2.0)
"""Seconds before each repetition of an event; Slack's own are 0, 60 and 300."""


@dataclass(frozen=True, slots=True)
class Ack:
    """What the app answered to one delivery."""

    error: str
    """`operation_timeout`, `dispatch_failed` (no connection), an HTTP status, or nothing."""
    seconds: float
    answer: Json
    """What the app put into its acknowledgement."""


class Delivery:
    """The app as Slack reaches it."""

    def __init__(self, workspace: Workspace) -> None:
        """Begin with no connection."""
        self._workspace = workspace
        self._sockets: list[WebSocket] = []
        self._waiting: dict[str, asyncio.Future[Json]] = {}
        self._turn = 0
        self.request_url = ""
        """Where the app takes signed requests; empty: it uses Socket Mode."""

    @property
    def connections(self) -> int:
        """How many WebSockets the app has open."""
        return len(self._sockets)

    async def send(self, kind: str, payload: Json, *, envelope: str = "", attempt: int = 0) -> Ack:
        """Deliver once and wait for the acknowledgement; *kind* is the envelope's type."""
        began = time.monotonic()
        if time.time() < self._workspace.faults.down_until:
            return Ack("dispatch_failed", 0.0, {})
        try:
            async with asyncio.timeout(ACK_SECONDS):
                error, answer = await self._exchange(kind, payload, envelope or secrets.token_hex(16), attempt)
        except TimeoutError:
            error, answer = "operation_timeout", {}
        return Ack(error, time.monotonic() - began, answer)

    async def send_event(self, event: Json) -> None:
        """Deliver an event, again if need be; nobody waits for it."""
        payload = {
            "team_id": TEAM["id"],
            "api_app_id": APP_ID,
            "type": "event_callback",
            "event": event,
            "event_id": "Ev" + secrets.token_hex(5).upper(),
            "event_time": int(time.time()),
        }
        for attempt, pause in enumerate((None, *EVENT_RETRIES)):
            if pause:
                await asyncio.sleep(pause)
            if not (await self.send("events_api", payload, attempt=attempt)).error:
                return

    async def _exchange(self, kind: str, payload: Json, envelope: str, attempt: int) -> tuple[str, Json]:
        if self.request_url:
            return await self._post(kind, payload, attempt)
        if not self._sockets:
            return "dispatch_failed", {}
        self._turn += 1
        socket = self._sockets[self._turn % len(self._sockets)]
        future = self._waiting.setdefault(envelope, asyncio.get_running_loop().create_future())
        message: Json = {"envelope_id": envelope, "type": kind, "payload": payload}
        message["accepts_response_payload"] = kind != "events_api"
        if kind == "events_api":
            message |= {"retry_attempt": attempt, "retry_reason": "timeout" if attempt else ""}
        try:
            await socket.send_text(json.dumps(message))
            return "", await asyncio.shield(future)
        except (WebSocketDisconnect, RuntimeError):
            return "dispatch_failed", {}

    async def _post(self, kind: str, payload: Json, attempt: int) -> tuple[str, Json]:
        body = encode_request(kind, payload)
        headers = sign_request(self._workspace.signing_secret, body, int(time.time()))
        headers["Content-Type"] = "application/json" if kind == "events_api" else "application/x-www-form-urlencoded"
        if attempt:
            headers |= {"X-Slack-Retry-Num": str(attempt), "X-Slack-Retry-Reason": "http_timeout"}
        try:
            async with httpx.AsyncClient(timeout=ACK_SECONDS, trust_env=False) as client:
                answer = await client.post(self.request_url, content=body, headers=headers)
        except httpx.TimeoutException:
            return "operation_timeout", {}
        except httpx.HTTPError:
            return "dispatch_failed", {}
        if answer.status_code != httpx.codes.OK:
            return f"http_{answer.status_code}", {}
        return "", read_answer(answer.text)

    async def serve(self, socket: WebSocket) -> None:
        """Keep one WebSocket of the app until it ends."""
        await socket.accept()
        self._sockets.append(socket)
        self._workspace.touch()
        hello = {"type": "hello", "num_connections": len(self._sockets), "connection_info": {"app_id": APP_ID}}
        try:
            await socket.send_text(json.dumps(hello))
            while True:
                self._acknowledged(json.loads(await socket.receive_text()))
        except (WebSocketDisconnect, ValueError, RuntimeError):
            pass  # it went away, or speaks nonsense: either way this connection is over
        finally:
            self._sockets.remove(socket)
            self._workspace.touch()

    def _acknowledged(self, message: Json) -> None:
        future = self._waiting.pop(str(message.get("envelope_id", "")), None)
        if future is not None and not future.done():
            future.set_result(message.get("payload") or {})

    async def refresh(self) -> None:
        """Tell the app to connect anew, as Slack does every few hours."""
        for socket in list(self._sockets):
            await socket.send_text(json.dumps({"type": "disconnect", "reason": "refresh_requested"}))

    async def cut(self) -> None:
        """Close all WebSockets without a word."""
        for socket in list(self._sockets):
            if socket.application_state is WebSocketState.CONNECTED:
                await socket.close(code=1001)


def encode_request(kind: str, payload: Json) -> str:
    """Encode a delivery as the body of a request."""
    if kind == "events_api":
        return json.dumps(payload)
    return urlencode(payload if kind == "slash_commands" else {"payload": json.dumps(payload)})


def sign_request(secret: str, body: str, timestamp: int | str) -> dict[str, str]:
    """Make the two headers by which the app knows that a request is Slack's."""
    base = f"v0:{timestamp}:{body}".encode()
    digest = hmac.new(secret.encode(), base, hashlib.sha256).hexdigest()
    return {"X-Slack-Request-Timestamp": str(timestamp), "X-Slack-Signature": f"v0={digest}"}


def read_answer(text: str) -> Json:
    """Read what the app answered: nothing, JSON, or plain words."""
    if not text:
        return {}
    try:
        found: Any = json.loads(text)
    except ValueError:
        return {"text": text}
    return found if isinstance(found, dict) else {"text": text}
