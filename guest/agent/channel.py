"""
How the host is heard: lines of the wire protocol, over whatever the hypervisor offers.

A channel blocks while nothing is said and costs no CPU time meanwhile. It hands out whole lines
only; what it means is not its business.
"""

import fcntl
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from forkyard import wire
from guest.agent.errors import AgentError, ConfigError
from guest.agent.guestinfo import RPCTOOL, GuestinfoChannel
from guest.agent.waiting import wait_for

CHUNK = 64 * 1024
SEND_PATIENCE = 10.0
"""Seconds that the host may leave an answer lying in a full buffer."""


class Channel(Protocol):
    """A way to the host. Used by one thread."""

    def lines(self) -> Iterator[bytes]:
        """Every line that the host sends, for ever."""
        ...

    def send(self, line: bytes) -> None:
        """Send one line; a host that no longer listens is no error, because it will ask again."""
        ...


def open_channel(name: str, *, timeout: float = 60.0, is_quiesced: Callable[[], bool] = lambda: False) -> Channel:
    """
    The channel that agent.toml names; raises ConfigError for a kind that there is not.

    *is_quiesced* says whether the machine may be frozen, for a channel through which the host asks for that.
    """
    kind, _, place = name.partition(":")
    if kind == "virtio":
        return VirtioChannel(Path("/dev/virtio-ports") / place, timeout=timeout)
    if kind == "unix":
        return UnixChannel(Path(place))
    if kind == "guestinfo":
        return GuestinfoChannel(Path(place) if place else RPCTOOL, is_quiesced)
    text = f"channel {name!r}: not virtio:NAME, guestinfo or unix:PATH"
    raise ConfigError(text)


class LineBuffer:
    """Bytes in, whole lines out; a line that grows too long is dropped with all before it."""

    def __init__(self) -> None:
        """Begin empty."""
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that *data* completes, without their ends."""
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > wire.MAX_LINE:
            self._held = b""
        return [line for line in lines if line.strip()]

    def clear(self) -> None:
        """Forget a line that will not be completed."""
        self._held = b""


def block_wakeup_signal() -> None:
    """Keep SIGIO pending for `VirtioChannel`; call it before any thread starts, or it ends the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})


class VirtioChannel:
    """
    A virtio-serial port.

    While nobody is connected on the host's side a read gives an end of file at once instead of
    blocking, and poll(2) says hang-up at once. The kernel sends SIGIO when that changes, so the
    signal is what we wait for.
    """

    def __init__(self, port: Path, *, timeout: float) -> None:
        """Open *port*, which udev may make a little after our start."""
        wait_for(lambda: port.exists() or None, what=f"{port}: virtio-serial port", timeout=timeout)
        try:
            self._fd = os.open(port, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            text = f"{port}: {error}"
            raise AgentError(text) from error
        fcntl.fcntl(self._fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) | os.O_ASYNC)

    def lines(self) -> Iterator[bytes]:
        """Every line that the host sends, for ever."""
        buffer = LineBuffer()
        while True:
            data = os.read(self._fd, CHUNK)
            if data:
                yield from buffer.feed(data)
            else:
                buffer.clear()
                signal.sigwaitinfo({signal.SIGIO})

    def send(self, line: bytes) -> None:
        """Send one line, or drop it when nobody is connected: a blocking write would wait for the next host."""
        os.set_blocking(self._fd, False)
        try:
            while line:
                poller = select.poll()
                poller.register(self._fd, select.POLLOUT)
                events = poller.poll(SEND_PATIENCE * 1000)
                if not events or events[0][1] & (select.POLLHUP | select.POLLERR):
                    return
                with suppress(BlockingIOError):
                    line = line[os.write(self._fd, line) :]
        finally:
            os.set_blocking(self._fd, True)


class UnixChannel:
    """A listening Unix socket, one host at a time: for trying the agent outside of a VM."""

    def __init__(self, path: Path) -> None:
        """Listen at *path*, in place of whoever did before."""
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(4)
        self._host: socket.socket | None = None

    def lines(self) -> Iterator[bytes]:
        """Every line that any host sends, for ever."""
        while True:
            self._host, _ = self._listener.accept()
            with self._host:
                yield from self._lines_of(self._host)
            self._host = None

    @staticmethod
    def _lines_of(host: socket.socket) -> Iterator[bytes]:
        buffer = LineBuffer()
        with suppress(ConnectionError):
            while data := host.recv(CHUNK):
                yield from buffer.feed(data)

    def send(self, line: bytes) -> None:
        """Send one line to the host that asked."""
        if self._host is not None:
            with suppress(ConnectionError):
                self._host.sendall(line)
