"""
Forward a port of the host's 127.0.0.1 to an address inside the lab's namespace.

A socket belongs for ever to the namespace that it was opened in. So the forwarder's listening socket is
opened here, in the host's, and handed to systemd-socket-proxyd, which connects from inside the lab's.
"""

import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from forkyard.errors import NotFound
from forkyard.processes import end
from lab import activate
from lab.daemons import read_ref, start_daemon
from lab.ports import listen

_PROGRAMS = (Path("/lib/systemd/systemd-socket-proxyd"), Path("/usr/lib/systemd/systemd-socket-proxyd"))
_CONNECTIONS = 8192
"""Open at the same time; systemd-socket-proxyd stops at 256 unless told."""
STOP_TIMEOUT = timedelta(seconds=3)


@dataclass(frozen=True, slots=True)
class Forward:
    """One forwarded port."""

    name: str
    port: int
    target: str
    """ADDRESS:PORT inside the namespace."""
    namespace: str
    directory: Path
    """Pid file and log."""


def start_forward(forward: Forward) -> bool:
    """
    Start the forwarder unless it runs; say whether it was started.

    Raises:
        CapacityExhausted: the port is in use; the message names it and who holds it.
        NotFound: systemd-socket-proxyd is not installed.
    """
    if not forward_trouble(forward):
        return False
    program = next((path for path in _PROGRAMS if path.exists()), None)
    if program is None:
        text = f"{_PROGRAMS[0]} is not there. Install Debian's package systemd."
        raise NotFound(text)
    with listen(forward.name, forward.port) as listener:
        argv = [str(program), f"--connections-max={_CONNECTIONS}", forward.target]
        inside = ["nsenter", f"--net=/run/netns/{forward.namespace}", "--", *argv]
        forward.directory.mkdir(parents=True, exist_ok=True)
        start_daemon(
            _pid(forward),
            [sys.executable, "-IS", activate.__file__, str(listener.fileno()), *inside],
            log=forward.directory / f"{forward.name}.log",
            pass_fds=[listener.fileno()],
        )
    return True


def forward_trouble(forward: Forward) -> str:
    """What is wrong with the forwarder; empty text when nothing is."""
    return "" if read_ref(_pid(forward)) else f"nothing forwards 127.0.0.1:{forward.port}"


def forward_ports(forward: Forward) -> list[int]:
    """The ports that a start would open now."""
    return [forward.port] if forward_trouble(forward) else []


def stop_forward(forward: Forward) -> None:
    """End the forwarder; absent is success."""
    ref = read_ref(_pid(forward))
    if ref is not None:
        end(ref, timeout=STOP_TIMEOUT)
    _pid(forward).unlink(missing_ok=True)


def _pid(forward: Forward) -> Path:
    return forward.directory / f"{forward.name}.pid"
