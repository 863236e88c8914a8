"""
One QEMU process: where its sockets, pid and log are; how it is started, found and ended.

All follows from its id and two directories: *state* (its own disk, its record) and *run* (what a reboot
takes away). The record is written before the process starts, so a process without a record cannot be.
"""

import os
import re
import secrets
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from forkyard.errors import NotReady, OutcomeUnknown, Unavailable
from forkyard.hypervisors.qemu.records import make_private, read_record, write_record
from forkyard.oserrors import translated
from forkyard.processes import ProcessRef, end, find_process, is_alive, parse_ref, spawn, tail
from forkyard.waiting import wait_for

RECORD = "machine.json"
RUN = "q"
"""Directory below settings.run_dir; one letter, because a socket's path has at most 107 bytes."""

_LAST_MOMENT = timedelta(seconds=2)
_SHORT = timedelta(milliseconds=5)
_OURS = re.compile(rb"\0forkyard-([0-9a-f]{10})\0-pidfile\0([^\0]+)/\1/qemu\.pid\0")
"""A QEMU's name in its command line and its run directory, as `render_command` puts them."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One QEMU process, running or not."""

    id: str
    state: Path
    run: Path
    parent: str
    fingerprint: str
    """Of the frozen parent that it restores; empty in a parent itself."""

    @property
    def disk(self) -> Path:
        """Its own qcow2."""
        return self.state / "disk.qcow2"

    @property
    def qmp(self) -> Path:
        """QEMU's monitor."""
        return self.run / "qmp"

    @property
    def agent(self) -> Path:
        """The host's end of the guest agent's port."""
        return self.run / "agent"

    @property
    def log(self) -> Path:
        """What QEMU itself says."""
        return self.run / "log"

    @property
    def serial(self) -> Path:
        """What the guest's console says; only a parent has one."""
        return self.run / "serial"

    @property
    def tap(self) -> str:
        """Its network device on the host: at most 15 letters."""
        return f"fy{self.id}"

    @property
    def process_name(self) -> str:
        """What a person sees in `ps`, and `find_processes` looks for."""
        return f"forkyard-{self.id}"


def make_instance(run_dir: Path, state: Path, parent: str, fingerprint: str) -> Instance:
    """Make an instance with a new id and put it on record in *state*, which is there."""
    identifier = secrets.token_hex(5)
    write_record(state / RECORD, {"id": identifier, "parent": parent, "fingerprint": fingerprint})
    return Instance(identifier, state, run_dir / RUN / identifier, parent, fingerprint)


def read_instance(run_dir: Path, state: Path) -> Instance | None:
    """The instance on record in *state*, or None."""
    record = read_record(state / RECORD)
    if record is None:
        return None
    identifier = str(record["id"])
    return Instance(identifier, state, run_dir / RUN / identifier, str(record["parent"]), str(record["fingerprint"]))


def start_instance(instance: Instance, render: Callable[[int, int], list[str]], *, namespace: str | None) -> ProcessRef:
    """
    Start QEMU with a command line that *render* makes from the monitor's and the agent's descriptors.

    Both sockets listen before QEMU runs: a connection made at once waits for it, and breaks when it dies.
    """
    with ExitStack() as stack, translated(f"starting QEMU {instance.id}"):
        make_private(instance.run.parent)
        instance.run.mkdir()
        qmp, agent = (stack.enter_context(_listening(path)) for path in (instance.qmp, instance.agent))
        descriptors = (qmp.fileno(), agent.fileno())
        process = spawn(render(*descriptors), log=instance.log, namespace=namespace, pass_fds=descriptors)
        (instance.run / "pid").write_text(str(process))
    return process


def get_process(instance: Instance) -> ProcessRef | None:
    """The instance's living process by its pid file; None when there is none."""
    try:
        ref = parse_ref((instance.run / "pid").read_text())
    except FileNotFoundError:
        return None
    return ref if ref and is_alive(ref) else None


def end_instance(instance: Instance, *, timeout: timedelta) -> None:
    """Kill the process and remove what is in run_dir. Absent is success."""
    # Whoever started it may have died before it wrote the pid file.
    process = get_process(instance) or find_processes(instance.run.parent).get(instance.id)
    shutil.rmtree(instance.run, ignore_errors=True)
    if process is not None:
        # Nothing in a child is worth a clean end: its disk goes with it.
        end(process, timeout=timeout, first=signal.SIGKILL)


def find_processes(runs: Path) -> dict[str, ProcessRef]:
    """All living QEMU processes with a run directory in *runs*, there or not any more, by instance id."""
    found: dict[str, ProcessRef] = {}
    for entry in Path("/proc").iterdir():
        match = _OURS.search(_command_line(entry)) if entry.name.isdigit() else None
        if match is not None and match[2] == os.fsencode(runs):
            process = find_process(int(entry.name))
            if process is not None:
                found[match[1].decode()] = process
    return found


@contextmanager
def explained(instance: Instance) -> Iterator[None]:
    """Turn an error in the block into Unavailable with QEMU's last words, when QEMU has died."""
    try:
        yield
    except (Unavailable, OutcomeUnknown) as error:
        if not _has_ended(instance):
            raise
        text = f"QEMU {instance.id} is gone: {tail(instance.log)}"
        raise Unavailable(text) from error


def _has_ended(instance: Instance) -> bool:
    # Its sockets close a moment before the process is gone.
    look = partial(_is_gone, instance)
    try:
        return wait_for(look, what="end of QEMU", timeout=_LAST_MOMENT, interval=_SHORT)
    except NotReady:
        return False


def _is_gone(instance: Instance) -> bool | None:
    return None if get_process(instance) else True


def _listening(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)
    return server


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
