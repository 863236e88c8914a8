"""
Forward a port of the host's 127.0.0.1 to an address inside the lab's namespace.

A socket belongs for ever to the namespace that it was opened in. So the forwarder's listening socket is
opened here, in the host's, and handed to systemd-socket-proxyd, which connects from inside the lab's.
"""

import errno
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from forkyard.errors import CapacityExhausted, NotFound
from forkyard.processes import end, spawn
from lab import activate
from lab.daemons import read_ref, write_ref

_PROGRAMS = (Path("/lib/systemd/systemd-socket-proxyd"), Path("/usr/lib/systemd/systemd-socket-proxyd"))
_CONNECTIONS = 8192
"""Open at the same time; systemd-socket-proxyd stops at 256 unless told."""
_LISTENING = "0A"
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
    with _listen(forward) as listener:
        argv = [str(program), f"--connections-max={_CONNECTIONS}", forward.target]
        inside = ["nsenter", f"--net=/run/netns/{forward.namespace}", "--", *argv]
        forward.directory.mkdir(parents=True, exist_ok=True)
        ref = spawn(
            [sys.executable, "-IS", activate.__file__, str(listener.fileno()), *inside],
            log=forward.directory / f"{forward.name}.log",
            pass_fds=[listener.fileno()],
        )
        write_ref(_pid(forward), ref)
    return True


def forward_trouble(forward: Forward) -> str:
    """What is wrong with the forwarder; empty text when nothing is."""
    return "" if read_ref(_pid(forward)) else f"nothing forwards 127.0.0.1:{forward.port}"


def stop_forward(forward: Forward) -> None:
    """End the forwarder; absent is success."""
    ref = read_ref(_pid(forward))
    if ref is not None:
        end(ref, timeout=STOP_TIMEOUT)
    _pid(forward).unlink(missing_ok=True)


def find_port_holder(port: int) -> str:
    """Who listens at a TCP port of this namespace, for a message; "somebody" when that cannot be seen."""
    inodes = set(_listening_inodes(port))
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            link = str(handle.readlink())
            if link.startswith("socket:[") and link[8:-1] in inodes:
                pid = handle.parts[2]
                return f"{Path('/proc', pid, 'comm').read_text().strip()} (process {pid})"
        except OSError:
            continue  # the process or its descriptor went away while we looked
    return "somebody"


def refuse_taken_port(name: str, port: int) -> None:
    """Raise CapacityExhausted, naming the holder, when somebody listens at the port."""
    if any(_listening_inodes(port)):
        text = (
            f"{name}: port {port} of 127.0.0.1 is in use by {find_port_holder(port)}. "
            f"Stop it, or choose another port in the section [lab] of forkyard.toml."
        )
        raise CapacityExhausted(text)


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _listen(forward: Forward) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", forward.port))
        listener.listen(4096)
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            raise
        text = (
            f"{forward.name}: port {forward.port} of 127.0.0.1 is in use by {find_port_holder(forward.port)}. "
            f"Stop it, or choose another port in the section [lab] of forkyard.toml."
        )
        raise CapacityExhausted(text) from error
    return listener


def _pid(forward: Forward) -> Path:
    return forward.directory / f"{forward.name}.pid"
