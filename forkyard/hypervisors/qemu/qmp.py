"""
The one gate to QEMU's monitor: blocking calls around qemu.qmp's asyncio.

One background thread runs the event loop for all connections of the process. Every foreign error is
translated here: refused by QEMU -> PermanentError, no connection -> Unavailable, no answer -> OutcomeUnknown.
"""

import asyncio
import logging
import threading
from collections.abc import Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from qemu.qmp import ExecInterruptedError, ExecuteError, QMPClient, QMPError, StateError

from forkyard.errors import OutcomeUnknown, PermanentError, Unavailable
from forkyard.hypervisors.qemu.records import as_record
from forkyard.hypervisors.qemu.timing import wait_while_alive

T = TypeVar("T")

_STATE = "state"
"""QEMU's name for the opened state file."""
_NOT_SAVED = {"failed", "cancelled"}
"""How QEMU says that a saving has ended without a saved state."""
_SHORT = timedelta(milliseconds=2)

# A QEMU that is killed is our business, told by our errors: without a handler the library's own
# complaint about the closed socket would reach the person's terminal.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class _Loop:
    """The event loop of all connections and its thread; they end with the last connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._running: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None

    def join(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            self._users += 1
            if self._running is None:
                loop = asyncio.new_event_loop()
                self._running = loop, threading.Thread(target=loop.run_forever, name="forkyard-qmp", daemon=True)
                self._running[1].start()
            return self._running[0]

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._running is not None:
                loop, thread = self._running
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
                loop.close()
                self._running = None


_LOOP = _Loop()


class Qmp:
    """One connection to one QEMU; a context manager."""

    def __init__(self, path: Path, *, timeout: timedelta) -> None:
        """Connect; raises Unavailable when no QEMU answers in time."""
        self._what = f"QEMU behind {path}"
        self._client = QMPClient(path.parent.name)
        self._loop = _LOOP.join()
        try:
            self._run(asyncio.wait_for(self._client.connect(str(path)), timeout.total_seconds()))
        except (QMPError, TimeoutError, OSError) as error:
            self.close()
            text = f"{self._what} does not answer: {str(error) or 'no greeting in time'}"
            raise Unavailable(text) from error

    def execute(self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: timedelta) -> object:
        """
        Run one command and give QEMU's answer.

        Raises:
            PermanentError: QEMU refused it.
            OutcomeUnknown: no answer came, or QEMU went away before it.
        """
        try:
            return self._run(asyncio.wait_for(self._client.execute(command, arguments), timeout.total_seconds()))
        except ExecuteError as error:
            text = f"{self._what} refused {command}: {error}"
            raise PermanentError(text) from error
        except (ExecInterruptedError, StateError, TimeoutError) as error:
            text = f"{self._what} gave no answer to {command}: {str(error) or 'not in time'}"
            raise OutcomeUnknown(text) from error

    def status(self, *, timeout: timedelta) -> str:
        """QEMU's run state, such as `running`, `paused` or `inmigrate`."""
        answer = as_record(self.execute("query-status", timeout=timeout)) or {}
        return str(answer.get("status"))

    def ignore_shared_memory(self, *, timeout: timedelta) -> None:
        """Leave the memory file out of what is saved or restored: the file itself is the memory."""
        capability = {"capability": "x-ignore-shared", "state": True}
        self.execute("migrate-set-capabilities", {"capabilities": [capability]}, timeout=timeout)

    def save_state(self, path: Path, *, timeout: timedelta) -> None:
        """Write the device state of the stopped VM to a file and wait for its end; one that is begun is waited for."""
        # QEMU saves a VM once, and goes on when whoever asked is killed: to begin anew would only empty the file.
        if self._saving(timeout).get("status", "none") in {"none", *_NOT_SAVED}:
            self.ignore_shared_memory(timeout=timeout)
            with path.open("wb") as file:
                self._send_file(file.fileno(), timeout)
            self.execute("migrate", {"uri": f"fd:{_STATE}"}, timeout=timeout)
        wait_while_alive(
            lambda: self._saved(timeout),
            what=f"{self._what}: saving the device state",
            timeout=timeout,
            interval=_SHORT,
        )

    def restore_state(self, path: Path, *, timeout: timedelta) -> None:
        """Read the device state from a file; the VM is then paused where its parent stood."""
        self.ignore_shared_memory(timeout=timeout)
        with path.open("rb") as file:
            self._send_file(file.fileno(), timeout)
        self.execute("migrate-incoming", {"uri": f"fd:{_STATE}"}, timeout=timeout)
        wait_while_alive(
            lambda: None if self.status(timeout=timeout) == "inmigrate" else True,
            what=f"{self._what}: restoring the device state",
            timeout=timeout,
            interval=_SHORT,
            slowest=timedelta(milliseconds=10),
        )

    def _run(self, coroutine: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _send_file(self, descriptor: int, timeout: timedelta) -> None:
        # QEMU 7.2 reads no plain file, and a shell with `cat` in it would be two more processes a fork.
        async def send() -> None:
            self._client.send_fd_scm(descriptor)

        try:
            self._run(send())
        except (QMPError, OSError) as error:
            text = f"{self._what} is gone: {error}"
            raise OutcomeUnknown(text) from error
        self.execute("getfd", {"fdname": _STATE}, timeout=timeout)

    def _saving(self, timeout: timedelta) -> dict[str, object]:
        return as_record(self.execute("query-migrate", timeout=timeout)) or {}

    def _saved(self, timeout: timedelta) -> bool | None:
        answer = self._saving(timeout)
        status = answer.get("status")
        if status in _NOT_SAVED:
            text = f"{self._what}: saving the device state {status}: {answer}"
            raise PermanentError(text)
        return True if status == "completed" else None

    def close(self) -> None:
        """End the connection; QEMU goes on."""
        try:
            self._run(asyncio.wait_for(self._client.disconnect(), 5))
        except (QMPError, EOFError, OSError, TimeoutError):
            # The connection failed earlier and says so again; there is nothing left to end.
            pass
        finally:
            _LOOP.leave()

    def __enter__(self) -> Self:
        """Use the connection for a block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()
