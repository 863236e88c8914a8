"""
Speak forkyard/wire.py with a guest's agent over the VM's virtio-serial port.

One connection at a time, strictly question then answer. A QEMU that dies closes the socket, so that a
wait for an answer ends at once and not at its timeout.
"""

import socket
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from forkyard import wire
from forkyard.errors import NotReady, Unavailable, VerificationFailed
from forkyard.hypervisors.qemu.timing import wait_while_alive


class GuestChannel:
    """One conversation with one guest's agent; a context manager."""

    def __init__(self, path: Path, *, timeout: timedelta) -> None:
        """Open the host's end; raises Unavailable without a QEMU behind it. All calls end within *timeout* together."""
        self._deadline = time.monotonic() + timeout.total_seconds()
        self._timeout = timeout
        self._rest = b""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            text = f"no QEMU behind {path}: {error}"
            raise Unavailable(text) from error

    def hello(self) -> dict[str, object]:
        """What the agent says of itself."""
        self._send({"verb": "hello"})
        while True:
            # An answer to somebody who gave up waiting may come first: only hello's has the agent's version.
            try:
                answer = wire.decode(self._read_line("hello"))
            except wire.WireError:
                continue
            if "agent" in answer:
                return answer

    def wait_for_state(self, *states: str) -> str:
        """Wait until the agent is in one of the states; raises VerificationFailed when it says `failed`."""
        left = timedelta(seconds=max(0.0, self._deadline - time.monotonic()))
        return wait_while_alive(
            lambda: self._state_in(states), what=f"guest's agent: {' or '.join(states)}", timeout=left
        )

    def ask(self, verb: str, **fields: object) -> dict[str, object]:
        """Ask one thing; the answer's `ok` is for the caller to judge."""
        self._send({"verb": verb, **fields})
        try:
            return wire.decode(self._read_line(verb))
        except wire.WireError as error:
            text = f"guest's agent answered {verb} with something else: {error}"
            raise VerificationFailed(text) from error

    def _state_in(self, states: tuple[str, ...]) -> str | None:
        answer = self.hello()
        state = str(answer.get("state"))
        if state == "failed" and state not in states:
            text = f"guest's agent failed: {answer.get('error', 'it does not say why')}"
            raise VerificationFailed(text)
        return state if state in states else None

    def _send(self, message: dict[str, object]) -> None:
        self._patience(str(message["verb"]))
        try:
            self._socket.sendall(wire.encode(message))
        except TimeoutError as error:
            raise self._late(str(message["verb"])) from error
        except OSError as error:
            raise _gone(str(message["verb"])) from error

    def _read_line(self, verb: str) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > wire.MAX_LINE:
                text = f"guest's agent answered {verb} with a line of more than {wire.MAX_LINE} bytes"
                raise VerificationFailed(text)
            self._patience(verb)
            try:
                received = self._socket.recv(wire.MAX_LINE)
            except TimeoutError as error:
                raise self._late(verb) from error
            except OSError as error:
                raise _gone(verb) from error
            if not received:
                raise _gone(verb)
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _patience(self, verb: str) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._late(verb)
        self._socket.settimeout(left)

    def _late(self, verb: str) -> NotReady:
        return NotReady(f"guest's agent did not answer {verb} within {self._timeout.total_seconds():g} s")

    def close(self) -> None:
        """End the conversation; the agent goes on."""
        self._socket.close()

    def __enter__(self) -> Self:
        """Use the channel for a block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()


def _gone(verb: str) -> Unavailable:
    return Unavailable(f"QEMU went away before the guest's agent answered {verb}")
