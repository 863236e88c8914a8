"""
The addresses: `/api/METHOD` and `/link` for the app, `/lab/...` for persons and scripts, and the page.

Only requests that name this machine's loopback are answered, and what a person does must be sent as JSON: so no
web page elsewhere can act here through somebody's browser.
"""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from lab.slack.delivery import Delivery
from lab.slack.errors import Refusal, refuse
from lab.slack.methods import METHODS, Method
from lab.slack.methods.chat import edit, make_message
from lab.slack.methods.directory import TICKETS
from lab.slack.people import People
from lab.slack.rates import Rates
from lab.slack.snapshot import render_state
from lab.slack.state import RESPONSE_URL_USES, SCOPES, Call, Json, ResponseUrl, Workspace

PAGE = Path(__file__).parent / "page"
LONGEST_POLL = 25.0


class Server:
    """One workspace behind its addresses."""

    def __init__(self, workspace: Workspace, host: str) -> None:
        """Serve *workspace* at *host*, an address with its port."""
        self.workspace = workspace
        self.host = host
        self.delivery = Delivery(workspace)
        self.people = People(workspace, self.delivery, host)
        self.rates = Rates()

    def make_app(self) -> Starlette:
        """Make the ASGI application."""
        acts = self.people
        routes = [
            Route("/", lambda _: FileResponse(PAGE / "index.html")),
            Mount("/page", StaticFiles(directory=PAGE)),
            Route("/api/{method}", self.call, methods=["GET", "POST"]),
            Route("/response/{token}", self.respond, methods=["POST"]),
            Route("/upload/{file}", self.upload, methods=["POST", "PUT"]),
            Route("/files/{file}/{name}", self.download),
            WebSocketRoute("/link", self.link),
            Route("/lab/state", self.state),
            Route("/lab/changes", self.changes),
            Route("/lab/calls", self.calls),
            Route("/lab/faults", self._act(self.faults), methods=["POST"]),
            Route("/lab/reset", self._act(self.reset), methods=["POST"]),
            Route("/lab/command", self._act(acts.command), methods=["POST"]),
            Route("/lab/click", self._act(acts.click), methods=["POST"]),
            Route("/lab/submit", self._act(acts.submit), methods=["POST"]),
            Route("/lab/close", self._act(acts.close), methods=["POST"]),
            Route("/lab/home", self._act(acts.open_home), methods=["POST"]),
            Route("/lab/message", self._act(acts.write), methods=["POST"]),
        ]
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
        return Starlette(routes=routes, middleware=[hosts])

    # For the app

    async def call(self, request: Request) -> Response:
        """Answer one call of the Web API."""
        method = request.path_params["method"]
        arguments = await _read_arguments(request)
        error = ""
        try:
            known = self._admit(method, arguments, request.headers.get("authorization", ""))
            scopes = SCOPES - self.workspace.faults.missing_scopes
            answer = {"ok": True} | known.call(self.workspace, arguments | {"_host": self.host})
            response: Response = JSONResponse(answer, headers={"x-oauth-scopes": ",".join(sorted(scopes))})
        except Refusal as refusal:
            error = refusal.error
            headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else {}
            body = {"ok": False, "error": error, **refusal.details}
            response = JSONResponse(body, status_code=refusal.status, headers=headers)
        channel, ts = str(arguments.get("channel", "")), str(arguments.get("ts", ""))
        self.workspace.calls.append(Call(time.time(), method, channel, ts, error))
        return response

    def _admit(self, method: str, arguments: Json, authorization: str) -> Method:
        """Find the method, if the call may be made now."""
        workspace, faults, now = self.workspace, self.workspace.faults, time.time()
        if now < faults.down_until:
            refuse("service_unavailable", status=503)
        known = METHODS.get(method)
        if known is None:
            complaint = f"{method}: no such method here"
            workspace.complaints.append(complaint)
            workspace.touch()
            refuse("unknown_method", req_method=method)
        presented = authorization.removeprefix("Bearer ") or str(arguments.pop("token", ""))
        if not presented:
            refuse("not_authed")
        wanted = workspace.app_token if known.app_token else workspace.bot_token
        if not workspace.is_token(presented, wanted):
            other = workspace.is_token(presented, workspace.bot_token if known.app_token else workspace.app_token)
            refuse("not_allowed_token_type" if other else "invalid_auth")
        if faults.revoked:
            refuse("token_revoked")
        given, scope = SCOPES - faults.missing_scopes, self._find_scope(known.scope, arguments)
        if scope and scope not in given:
            refuse("missing_scope", needed=scope, provided=",".join(sorted(given)))
        if now < faults.limited_until:
            refuse("ratelimited", status=429, retry_after=max(1, round(faults.limited_until - now)))
        self.rates.count(method, str(arguments.get("channel", "")))
        return known

    def _find_scope(self, scope: str, arguments: Json) -> str:
        """What is read of a channel needs the scope of the channel's kind."""
        kind, _, what = scope.partition(":")
        wanted = str(arguments.get("channel", "")).removeprefix("#")
        found = next((one for one in self.workspace.channels.values() if wanted in {one.id, one.name}), None)
        if kind != "channels" or found is None:
            return scope
        return f"im:{what}" if found.id[0] == "D" else f"groups:{what}" if found.private else scope

    async def link(self, socket: WebSocket) -> None:
        """Take one WebSocket of Socket Mode."""
        good_until = TICKETS.pop(socket.query_params.get("ticket", ""), 0.0)
        down = time.time() < self.workspace.faults.down_until
        if down or self.workspace.faults.revoked or time.monotonic() > good_until:
            await socket.close(code=1008)
            return
        await self.delivery.serve(socket)

    async def respond(self, request: Request) -> Response:
        """Take what the app says at a command's or click's own address."""
        url = self.workspace.response_urls.get(request.path_params["token"])
        if time.time() < self.workspace.faults.down_until:
            return PlainTextResponse("service_unavailable", status_code=503)
        if url is None or time.time() > url.expires or url.uses >= RESPONSE_URL_USES:
            return PlainTextResponse("used_url" if url else "no_such_url", status_code=404)
        url.uses += 1
        try:
            self._respond(url, await request.json())
        except Refusal as refusal:
            return JSONResponse({"ok": False, "error": refusal.error, **refusal.details}, status_code=400)
        self.workspace.touch()
        return PlainTextResponse("ok")

    def _respond(self, url: ResponseUrl, said: Json) -> None:
        channel = self.workspace.channel(url.channel)
        original = next((m for m in channel.messages if m.ts == url.message), None)
        if said.get("delete_original") and original is not None:
            channel.messages.remove(original)
        elif said.get("replace_original") and original is not None:
            edit(self.workspace, original, {"blocks": []} | said)
        else:
            only_for = None if said.get("response_type") == "in_channel" else url.person
            channel.messages.append(make_message(self.workspace, channel, said, only_for=only_for))

    async def upload(self, request: Request) -> Response:
        """Take a file's bytes."""
        file = self.workspace.files.get(request.path_params["file"])
        content = await request.body()
        if file is None or len(content) != file.length:
            return PlainTextResponse("the length is not the promised one", status_code=400)
        file.content = content
        return PlainTextResponse(f"OK - {file.length}")

    async def download(self, request: Request) -> Response:
        """Give a file's bytes."""
        file = self.workspace.files.get(request.path_params["file"])
        if file is None or file.content is None:
            return PlainTextResponse("no such file", status_code=404)
        kinds = {".png": "image/png", ".svg": "image/svg+xml", ".json": "application/json"}
        kind = kinds.get(Path(file.name).suffix, "application/octet-stream")
        # A picture that came from outside must not run anything in this page's name.
        return Response(file.content, media_type=kind, headers={"Content-Security-Policy": "sandbox"})

    # For persons and scripts

    def _act(self, act: Callable[[Json], Awaitable[Json]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            if not request.headers.get("content-type", "").startswith("application/json"):
                return JSONResponse({"ok": False, "error": "send it as application/json"}, status_code=415)
            try:
                return JSONResponse(await act(await request.json()))
            except Refusal as refusal:
                return JSONResponse({"ok": False, "error": refusal.error, **refusal.details}, status_code=404)

        return endpoint

    async def state(self, request: Request) -> Response:
        """What one person sees."""
        try:
            person = self.workspace.person(request.query_params.get("as", "anna"))
        except Refusal as refusal:
            return JSONResponse({"ok": False, "error": refusal.error}, status_code=404)
        return JSONResponse(render_state(self.workspace, self.delivery, person))

    async def changes(self, request: Request) -> Response:
        """Wait until something is other than at a version."""
        after = int(request.query_params.get("after", "-1"))
        seconds = min(float(request.query_params.get("seconds", "20")), LONGEST_POLL)
        return JSONResponse({"version": await self.workspace.wait_for_change(after, seconds)})

    async def calls(self, request: Request) -> Response:
        """What the app has called, the oldest first; `after`: only what came after that moment."""
        after = float(request.query_params.get("after", "0"))
        return JSONResponse({"calls": [asdict(call) for call in self.workspace.calls if call.at > after]})

    async def reset(self, asked: Json) -> Json:
        """Begin anew; the app stays connected."""
        del asked
        self.workspace.reset()
        self.rates = Rates()
        self.delivery.request_url = ""
        return {"ok": True}

    async def faults(self, asked: Json) -> Json:
        """Let things go wrong, or right again."""
        faults, now = self.workspace.faults, time.time()
        known = {"down", "ratelimited", "revoked", "missing_scopes", "archived", "private", "deleted", "refresh", "cut"}
        if asked.keys() - {*known, "as", "request_url"}:
            refuse("unknown_fault", known=sorted(known))
        if "down" in asked:
            faults.down_until = now + float(asked["down"])
        if "ratelimited" in asked:
            faults.limited_until = now + float(asked["ratelimited"])
        faults.revoked = bool(asked.get("revoked", faults.revoked))
        faults.missing_scopes = frozenset(asked.get("missing_scopes", faults.missing_scopes))
        self.delivery.request_url = str(asked.get("request_url", self.delivery.request_url))
        for channel, archived in (asked.get("archived") or {}).items():
            self.workspace.channel(channel).archived = bool(archived)
        for channel, private in (asked.get("private") or {}).items():
            self.workspace.channel(channel).private = bool(private)
        for channel in asked.get("deleted") or []:
            del self.workspace.channels[self.workspace.channel(channel).id]
        if asked.get("refresh"):
            await self.delivery.refresh()
        if asked.get("cut") or faults.revoked or faults.down_until > now:
            await self.delivery.cut()
        self.workspace.touch()
        return {"ok": True}


async def _read_arguments(request: Request) -> Json:
    """The arguments of a call, from its address, its form or its JSON; nested ones may be JSON texts."""
    found: Json = dict(request.query_params)
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        said: Any = json.loads(body or b"{}")
        found |= said if isinstance(said, dict) else {}
    else:
        found |= dict(parse_qsl(body.decode(), keep_blank_values=True))
    for key in ("blocks", "view", "files"):
        if isinstance(found.get(key), str):
            found[key] = json.loads(found[key])
    return found
