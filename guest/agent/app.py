"""
The app's hooks: it is asked to become idle before the fork, and to become somebody else after it.

    POST quiesce                                        -> 200: no work is under way
    POST reidentify {"name", "fork_id", "entropy", …}   -> 200 {"child", "fork_id", "fingerprint"}
    GET  health                                         -> 200: it works

`entropy` is drawn from the kernel after its reseed, because an app's own generator was forked with it.
HTTP/1.0 by hand: one request, one connection, read to its end; nothing that a library would add is wanted.
"""

import base64
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from forkyard import wire
from guest.agent.errors import HookFailed
from guest.agent.settings import AppSettings

OK = 200
MAX_ANSWER = 1 << 20


@dataclass(frozen=True, slots=True)
class AppIdentity:
    """Who the app says it is."""

    child: str
    fork_id: str
    fingerprint: str
    """Over the app's own randomness."""
    detail: str = ""


def request(
    method: str, address: tuple[str, int], path: str, body: bytes = b"", *, timeout: float
) -> tuple[int, bytes]:
    """One HTTP exchange: status and body; raises HookFailed when there is no such answer."""
    host, port = address
    head = f"{method} {path} HTTP/1.0\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\nAccept: application/json\r\n\r\n"
    try:
        # The host is an address, so the resolver and all that it would load stay out of it.
        with socket.socket(socket.AF_INET) as connection:
            connection.settimeout(timeout)
            connection.connect(address)
            connection.sendall(head.encode() + body)
            answer = b""
            while (data := connection.recv(65536)) and len(answer) < MAX_ANSWER:
                answer += data
        status, _, rest = answer.partition(b"\r\n")
        return int(status.split()[1]), rest.partition(b"\r\n\r\n")[2]
    except (OSError, ValueError, IndexError) as error:
        text = f"{method} http://{host}:{port}{path}: {type(error).__name__} {error}"
        raise HookFailed(text) from error


class App:
    """The app in its container; `address` is found before the fork, so that no one is asked after it."""

    def __init__(self, settings: AppSettings) -> None:
        """Know the hooks; the address comes when the container runs."""
        self.settings = settings
        self.address: tuple[str, int] | None = None

    def is_healthy(self) -> bool:
        """Whether the health hook answers 200 now."""
        if self.address is None:
            return False
        try:
            return request("GET", self.address, self.settings.health, timeout=self.settings.timeout)[0] == OK
        except HookFailed:
            return False

    def quiesce(self) -> None:
        """Bring the app to an idle point."""
        self._post(self.settings.quiesce, {})

    def warm(self) -> None:
        """Have the app run its hot paths, if it offers that."""
        if self.settings.warm:
            self._post(self.settings.warm, {})

    def reidentify(self, identity: wire.Identity) -> AppIdentity:
        """Make the app the child's own, and hear from it who it is now."""
        told = {
            "name": identity.name,
            "fork_id": identity.fork_id,
            "service": identity.service,
            "entropy": base64.b64encode(os.urandom(32)).decode(),
        }
        answer = self._post(self.settings.reidentify, told)
        try:
            told_back = AppIdentity(str(answer["child"]), str(answer["fork_id"]), str(answer["fingerprint"]))
        except KeyError as error:
            text = f"{self.settings.reidentify}: no {error} in the app's answer"
            raise HookFailed(text) from error
        if not told_back.fingerprint:
            text = f"{self.settings.reidentify}: empty fingerprint in the app's answer"
            raise HookFailed(text)
        return told_back

    def _post(self, path: str, message: Mapping[str, object]) -> dict[str, object]:
        if self.address is None:
            text = f"{path}: container {self.settings.container} does not run"
            raise HookFailed(text)
        status, body = request("POST", self.address, path, json.dumps(message).encode(), timeout=self.settings.timeout)
        if status != OK:
            text = f"POST {path}: {status} {body[:200].decode(errors='replace').strip()}"
            raise HookFailed(text)
        try:
            answer = json.loads(body or b"{}")
        except ValueError as error:
            text = f"POST {path}: not JSON: {body[:80]!r}"
            raise HookFailed(text) from error
        return answer if isinstance(answer, dict) else {}
