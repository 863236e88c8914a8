"""
Long-lived processes that outlive whoever started them: start, recognise, end.

A process is known by its pid *and* the moment it started, because pids are used again. A
namespace is a name below /run/netns.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from forkyard.errors import NotReady
from forkyard.waiting import wait_for

_TICKS = os.sysconf("SC_CLK_TCK")
"""A second's, of the clock that a process's start is told by."""


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process of this boot, recognisable after its pid was used again."""

    pid: int
    started: int
    """Clock ticks after boot, as in field 22 of /proc/PID/stat."""

    def __str__(self) -> str:
        """The form that `parse_ref` reads."""
        return f"{self.pid} {self.started}"


def parse_ref(text: str) -> ProcessRef | None:
    """The reference in a pid file's text, or None when it holds none."""
    fields = text.split()
    if len(fields) != 2 or not all(f.isdigit() for f in fields):  # noqa: PLR2004 - pid and start
        return None
    return ProcessRef(int(fields[0]), int(fields[1]))


def find_process(pid: int) -> ProcessRef | None:
    """The living process with this pid; a zombie is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name may hold spaces and parentheses: fields count from the last one.
    fields = stat.rpartition(")")[2].split()
    # Of a killed process the first thread may be gone while others still hold its files and devices: then it lives.
    dead = fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1)
    return None if dead else ProcessRef(pid, int(fields[19]))


def is_alive(ref: ProcessRef) -> bool:
    """Whether this very process still runs."""
    return find_process(ref.pid) == ref


def running_for(ref: ProcessRef) -> timedelta:
    """Time since the process was started."""
    return timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME) - ref.started / _TICKS)


def in_namespace(argv: Sequence[str], namespace: str | None) -> list[str]:
    """The command line that runs *argv* in a network namespace; None: where we are."""
    return [*(["nsenter", f"--net=/run/netns/{namespace}", "--"] if namespace else []), *argv]


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    namespace: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> ProcessRef:
    """Start *argv* in a session of its own, its output in *log*; it goes on when we end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            in_namespace(argv, namespace),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=dict(env) if env is not None else None,
            pass_fds=pass_fds,
        )
    ref = find_process(process.pid)
    if ref is None:
        text = f"{argv[0]} ended at once: {tail(log)}"
        raise NotReady(text)
    return ref


def tail(log: Path, lines: int = 5) -> str:
    """The last lines of a log, for a message."""
    try:
        return " / ".join(log.read_text(errors="replace").splitlines()[-lines:]) or f"{log} is empty"
    except FileNotFoundError:
        return f"{log} is not there"


def end(ref: ProcessRef, *, timeout: timedelta, first: signal.Signals = signal.SIGTERM) -> None:
    """Ask the process to end, then kill it; one that is gone is success."""
    for sign, patience in ((first, timeout), (signal.SIGKILL, timedelta(seconds=10))):
        if not is_alive(ref):
            return
        try:
            os.kill(ref.pid, sign)
        except ProcessLookupError:
            return
        try:
            wait_for(lambda: True if _reaped(ref) else None, what=f"end of process {ref.pid}", timeout=patience)
        except NotReady:
            continue
        return
    text = f"process {ref.pid} does not end even by SIGKILL"
    raise NotReady(text)


def _reaped(ref: ProcessRef) -> bool:
    # Ours or somebody's child: collect it if it is ours, so that no zombie stays behind.
    with suppress(ChildProcessError):
        os.waitpid(ref.pid, os.WNOHANG)
    return not is_alive(ref)
