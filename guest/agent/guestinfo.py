"""
The host's voice under vSphere: values under guestinfo.forkyard, read and written by open-vm-tools' vmware-rpctool.

A value has no end and may be read many times, so each request has an `id`: one whose id was carried out already is
passed over, and an answer repeats its request's. A fork inherits that memory, and so never takes what was said to its
parent for its own.

`freeze` is the channel's own verb. The program that freezes does not come back in the parent; it comes back in every
child, at the moment of its fork, and from there the host is listened to closely.
"""

import logging
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from forkyard import wire
from guest.agent.errors import AgentError, ConfigError

log = logging.getLogger(__name__)

RPCTOOL = Path("/usr/bin/vmware-rpctool")
REQUEST = "guestinfo.forkyard.request"
ANSWER = "guestinfo.forkyard.answer"
FREEZE = "instantclone.freeze"

CLOSE, FAR = 0.05, 1.0
"""Seconds between two looks just after something was said, and when nothing was for a while."""
ATTENTION = 60.0
"""Seconds for which the host is listened to closely after it spoke, and after a fork."""
PATIENCE = 20.0
"""Seconds that the tool may take for one value."""


class GuestinfoChannel:
    """The host behind vmware-rpctool. Used by one thread."""

    def __init__(self, tool: Path = RPCTOOL) -> None:
        """Take the tool; raises ConfigError when it is not there."""
        if not tool.exists():
            text = f"channel guestinfo:{tool}: not there. Install open-vm-tools."
            raise ConfigError(text)
        self._tool = tool
        self._done = ""
        self._now = ""
        self._never = Event()

    def lines(self) -> Iterator[bytes]:
        """Every request that the host writes, as a line without its id, for ever."""
        spoken = time.monotonic()
        while True:
            request = self._read()
            if request is None:
                close = time.monotonic() - spoken < ATTENTION
                self._never.wait(CLOSE if close else FAR)
                continue
            if request.get("verb") == "freeze":
                self._freeze()
            else:
                yield wire.encode({key: value for key, value in request.items() if key != "id"}).rstrip(b"\n")
            spoken = time.monotonic()

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
        # Without a deadline: it comes back in a child, which may be tomorrow.
        log.info("freezing")
        done = subprocess.run([str(self._tool), FREEZE], capture_output=True, text=True, check=False)
        if done.returncode:
            log.error("not frozen: %s", (done.stdout + done.stderr).strip())
        else:
            log.info("forked")

    def _call(self, command: str) -> tuple[int, str]:
        try:
            done = subprocess.run(
                [str(self._tool), command], capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            text = f"{self._tool}: {error}"
            raise AgentError(text) from error
        return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr
