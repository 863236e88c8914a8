"""Ports of the host's 127.0.0.1: take one, or say who has it."""

import errno
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from forkyard.errors import CapacityExhausted

_ADVICE = "Stop it, or choose another port in the section [lab] of forkyard.toml."
_LISTENING = "0A"
_HERE = ("0100007F", "00000000", "0" * 32, "0000000000000000FFFF00000100007F")
"""127.0.0.1, and what takes it in: all addresses, of IPv4 and IPv6, as /proc/net/tcp writes them."""


def listen(name: str, port: int) -> socket.socket:
    """Open the port for the part of this name; raises CapacityExhausted, naming the holder, when it is in use."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(4096)
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            raise
        text = f"{_describe(name, port)}. {_ADVICE}"
        raise CapacityExhausted(text) from error
    return listener


def refuse_taken_ports(wanted: Iterable[tuple[str, int]]) -> None:
    """Raise CapacityExhausted when any of these ports (whose each is, its number) is in use, naming all that are."""
    taken = list(find_taken_ports(wanted))
    if taken:
        raise CapacityExhausted("\n".join(f"{one}. {_ADVICE}" for one in taken))


def find_taken_ports(wanted: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Say of each of these ports that is in use who has it."""
    for name, port in wanted:
        try:
            # Tried, because only trying tells: a table shows who listens, not what would be in the way.
            listen(name, port).close()
        except PermissionError:
            continue  # one of root's: who is not root opens no lab, and cannot try
        except CapacityExhausted:
            yield _describe(name, port)


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


def _describe(name: str, port: int) -> str:
    return f"{name}: port {port} of 127.0.0.1 is in use by {find_port_holder(port)}"


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            address, _, number = fields[1].rpartition(":")
            if fields[3] == _LISTENING and address in _HERE and int(number, 16) == port:
                yield fields[9]
