"""
TCP connections that the parent had open: in a child they are a lie, since their other end talks to the parent.

They are found in /proc/PID/net/tcp, because that needs no kernel module, and ended by SOCK_DESTROY
(sock_diag(7)), which resets them for whoever holds them. What stays inside this machine (loopback,
Docker's bridges) was forked at both ends and is left alone. Not every kernel resets connections (Photon OS's are
built without CONFIG_INET_DIAG_DESTROY): there the parent must have none when it is quiesced.
"""

import ctypes
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from guest.agent.errors import PointFailed

LISTEN, TIME_WAIT = 0x0A, 0x06
NETLINK_SOCK_DIAG = 4
SOCK_DESTROY = 21
NLM_F_REQUEST_ACK = 0x5
NLMSG_ERROR = 2
CLONE_NEWNET = 0x40000000
NAMED = 5
"""Connections that a refusal names at most."""


class NoReset(PointFailed):
    """The kernel of this machine resets no connections at all."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One TCP connection as one network namespace has it."""

    local: tuple[str, int]
    remote: tuple[str, int]
    family: int

    def __str__(self) -> str:
        """Both ends, for a message."""
        return f"{self.local[0]}:{self.local[1]}-{self.remote[0]}:{self.remote[1]}"


def foreign_connections(pid: int | str, inside: Iterable[ipaddress.IPv4Network]) -> list[Connection]:
    """Connections in the network namespace of *pid* whose other end is not in one of the networks *inside*."""
    nets = tuple(inside)
    found = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        path = Path(f"/proc/{pid}/net/{name}")
        if path.exists():
            found += [c for c in parse_table(path.read_text(), family) if not _is_inside(c.remote[0], nets)]
    return found


def parse_table(text: str, family: int) -> Iterator[Connection]:
    """The connections in a /proc/net/tcp table; listening and finished ones are none."""
    for line in text.splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if int(state, 16) not in (LISTEN, TIME_WAIT):
            yield Connection(_end(local), _end(remote), family)


def _end(text: str) -> tuple[str, int]:
    words, _, port = text.partition(":")
    # The kernel prints each 32-bit word in the machine's own byte order.
    packed = b"".join(struct.pack("=I", int(words[i : i + 8], 16)) for i in range(0, len(words), 8))
    return str(ipaddress.ip_address(packed)), int(port, 16)


def _is_inside(address: str, inside: tuple[ipaddress.IPv4Network, ...]) -> bool:
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return ip.is_loopback
        ip = ip.ipv4_mapped
    return any(ip in net for net in inside)


def destroy(connection: Connection) -> bool:
    """
    Reset *connection* in the caller's network namespace; False when the kernel knows none such, which is success too.

    Raises:
        NoReset: this kernel resets none.
        PointFailed: it does not reset this one.
    """
    packed = [ipaddress.ip_address(end[0]).packed.ljust(16, b"\0") for end in (connection.local, connection.remote)]
    # inet_diag_req_v2: family, protocol, extensions, padding, states, then the socket's id without a cookie.
    request = struct.pack("=BBBBI", connection.family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    request += struct.pack("!HH", connection.local[1], connection.remote[1]) + packed[0] + packed[1]
    request += struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    header = struct.pack("=IHHII", 16 + len(request), SOCK_DESTROY, NLM_F_REQUEST_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        netlink.send(header + request)
        answer = netlink.recv(8192)
    kind = struct.unpack_from("=H", answer, 4)[0]
    code: int = struct.unpack_from("=i", answer, 16)[0]
    if kind != NLMSG_ERROR or -code not in (0, errno.ENOENT):
        text = f"{connection}: the kernel does not reset it: {os.strerror(-code)}"
        raise NoReset(text) if -code == errno.EOPNOTSUPP else PointFailed(text)
    return code == 0


def rehearse() -> bool:
    """
    Reset a connection of our own, so that the kernel loads what it needs before the fork; whether it resets any.

    A connection that is there, because a kernel without the module for it says of each that there is none.
    """
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        try:
            return destroy(Connection(ours.getsockname(), server.getsockname(), socket.AF_INET))
        except NoReset:
            return False


def refuse_foreign(pids: Iterable[int], inside: tuple[ipaddress.IPv4Network, ...]) -> None:
    """Raise PointFailed, naming them, when our namespace or one of *pids* has foreign connections."""
    everywhere: list[int | str] = ["self", *pids]
    found = [connection for pid in everywhere for connection in foreign_connections(pid, inside)]
    if found:
        named = ", ".join(map(str, found[:NAMED])) + (" and more" if found[NAMED:] else "")
        text = (
            f"this kernel cannot reset connections, and a fork would share {len(found)} of this machine's: {named}. "
            "End them (an SSH session is one), and freeze again."
        )
        raise PointFailed(text)


def drop_foreign(pids: Iterable[int], inside: tuple[ipaddress.IPv4Network, ...]) -> int:
    """
    Reset every foreign connection in our namespace and in those of *pids*; how many there were.

    Raises:
        PointFailed: some are still there afterwards.
    """
    dropped = 0
    everywhere: list[int | str] = ["self", *pids]
    for pid in everywhere:
        found = foreign_connections(pid, inside)
        dropped += len(found)
        if found:
            _destroy_in(pid, found)
        left = foreign_connections(pid, inside) if found else []
        if left:
            text = f"{len(left)} of the parent's connections are still open, such as {left[0]}"
            raise PointFailed(text)
    return dropped


def _destroy_in(pid: int | str, connections: list[Connection]) -> None:
    failures: list[Exception] = []

    def work() -> None:
        try:
            if pid != "self":
                _enter_network_of(pid)
            for connection in connections:
                destroy(connection)
        except (OSError, PointFailed) as error:
            failures.append(error)

    # Namespaces belong to threads: one that ends with its namespace disturbs nobody.
    thread = Thread(target=work, name="sock-destroy")
    thread.start()
    thread.join()
    if failures:
        raise PointFailed(str(failures[0])) from failures[0]


def _enter_network_of(pid: int | str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns to the network of {pid}")
