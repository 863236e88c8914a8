"""
The host's voice under vSphere: values under guestinfo.forkyard, read and written by open-vm-tools' vmware-rpctool.

A value has no end and may be read many times, so each request has an `id`: one whose id was carried out already is
passed over, and an answer repeats its request's. A fork inherits that memory, and so never takes what was said to its
parent for its own.

`freeze` is the channel's own verb. The program that freezes does not come back in the parent; it comes back in every
child, at the moment of its fork, and from there the host is listened to closely. Only a quiesced machine is frozen. A
freeze that is there at the first look was said to this machine before its reboot, and is passed over.
"""

import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

from forkyard import wire
from guest.agent.errors import AgentError, ConfigError

log = logging.getLogger(__name__)

RPCTOOL = Path("/usr/bin/vmware-rpctool")
REQUEST = "guestinfo.forkyard.request"
ANSWER = "guestinfo.forkyard.answer"
FREEZE = "instantclone.freeze"

CLOSE, NEAR, FAR = 0.05, 0.5, 1.0
"""Seconds between two looks: just after something was said, after two seconds of silence, and after a while of it."""
EASE = 0.25
"""Part of a silence that may pass until the next look; each look is a process, and so are those of a thousand forks."""
ATTENTION = 60.0
"""Seconds for which the host is listened to closely after it spoke, and after a fork."""
PATIENCE = 20.0
"""Seconds that the tool may take for one value."""


class GuestinfoChannel:
    """The host behind vmware-rpctool. Used by one thread."""

    def __init__(self, tool: Path = RPCTOOL, is_quiesced: Callable[[], bool] = lambda: False) -> None:
        """Take the tool, and who knows whether the machine may be frozen; raises ConfigError without the tool."""
        if not tool.exists():
            text = f"channel guestinfo:{tool}: not there. Install open-vm-tools."
            raise ConfigError(text)
        self._tool = tool
        self._is_quiesced = is_quiesced
        self._done = ""
        self._now = ""
        self._never = Event()

    def lines(self) -> Iterator[bytes]:
        """Every request that the host writes, as a line without its id, for ever."""
        spoken = time.monotonic()
        request = self._read()
        if request is not None and request.get("verb") == "freeze":
            log.info("%s was said before this machine's boot: passed over", self._now)
            request = None
        while True:
            if request is None:
                self._never.wait(pause_after(time.monotonic() - spoken))
                request = self._read()
                continue
            if request.get("verb") == "freeze":
                self._freeze()
            else:
                yield wire.encode({key: value for key, value in request.items() if key != "id"}).rstrip(b"\n")
            spoken = time.monotonic()
            request = self._read()

    def send(self, line: bytes) -> None:
        """Write the answer to the request that was read last."""
        answer = wire.encode({"id": self._now, **wire.decode(line)}).decode().rstrip("\n")
        code, words = self._call(f"info-set {ANSWER} {answer}")
        if code:
            log.warning("the answer could not be written: %s", words)

    def _read(self) -> dict[str, object] | None:
        code, text = self._call(f"info-get {REQUEST}")
        if code or not text.strip():
            return None  # no value yet
        try:
            request = wire.decode(text.encode())
        except wire.WireError as error:
            log.warning("%s: %s", REQUEST, error)
            return None
        said = str(request.get("id", ""))
        if not said or said == self._done:
            return None
        self._done = self._now = said
        return request

    def _freeze(self) -> None:
        if not self._is_quiesced():
            self._refuse("not frozen: the agent is not quiesced")
            return
        log.info("freezing")
        try:
            # Without a deadline: it comes back in a child, which may be tomorrow.
            done = subprocess.run([str(self._tool), FREEZE], capture_output=True, text=True, check=False)
        except OSError as error:
            self._refuse(f"not frozen: {self._tool}: {error}")
            return
        if done.returncode:
            self._refuse(f"not frozen: {self._tool} {FREEZE}: {(done.stdout + done.stderr).strip()}")
        else:
            log.info("forked")

    def _refuse(self, why: str) -> None:
        """Tell the host, which waits for the freeze otherwise; a freeze that succeeds needs no answer."""
        log.error("%s", why)
        self.send(wire.encode({"ok": False, "error": why}))

    def _call(self, command: str) -> tuple[int, str]:
        try:
            done = subprocess.run(
                [str(self._tool), command], capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            text = f"{self._tool}: {error}"
            raise AgentError(text) from error
        return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def pause_after(silence: float) -> float:
    """Seconds until the next look when the host has said nothing for *silence* seconds."""
    return min(NEAR, max(CLOSE, silence * EASE)) if silence < ATTENTION else FAR
