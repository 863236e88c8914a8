"""
Find what a run of the tests has left on the machine: processes, network namespaces, mounts.

Processes are known by a variable that they inherited, whatever became of their parents; mounts by the run's
temporary directory. A namespace has no owner: one that came while the tests ran counts as theirs, except where
another run of the tests goes on beside this one and could own it.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from forkyard.waiting import wait_for

TEST_RUN = "FORKYARD_TEST_RUN"
NAMESPACES = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class Traces:
    """What is there that a run of the tests may have left."""

    processes: frozenset[str]
    namespaces: frozenset[str]
    mounts: frozenset[str]
    alone: bool
    """Whether no other run of the tests goes on beside this one."""

    def __sub__(self, other: "Traces") -> "Traces":
        """What is here and not in *other*."""
        return Traces(
            processes=self.processes - other.processes,
            namespaces=self.namespaces - other.namespaces if self.alone and other.alone else frozenset(),
            mounts=self.mounts - other.mounts,
            alone=self.alone and other.alone,
        )

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.processes or self.namespaces or self.mounts)

    def describe(self) -> str:
        """One line for a person."""
        kinds = (("process", self.processes), ("namespace", self.namespaces), ("mount", self.mounts))
        return "; ".join(f"{kind} {thing}" for kind, things in kinds for thing in sorted(things))


def observe_traces(base: Path) -> Traces:
    """Look at the machine; *base* is the run's temporary directory."""
    own = os.environ.get(TEST_RUN, "")  # noqa: TID251 - set by conftest for exactly this
    processes, runs = set(), set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or process.name == str(os.getpid()):
            continue
        run, command = _run_of(process), _read(process / "cmdline").replace("\0", " ").strip()
        runs.add(run)
        if run == own or str(base) in command:
            processes.add(f"{process.name} {command[:160]}")
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return Traces(
        processes=frozenset(processes),
        namespaces=frozenset(path.name for path in NAMESPACES.glob("*")),
        mounts=frozenset(point for point in mounted if point.startswith(str(base))),
        alone=runs <= {own, ""},
    )


def wait_until_gone(base: Path, before: Traces) -> None:
    """Give what is just ending a few seconds; raise NotReady when something of the run remains."""
    wait_for(
        lambda: None if observe_traces(base) - before else True,
        what="end of all that the tests started",
        timeout=timedelta(seconds=10),
    )


def _run_of(process: Path) -> str:
    mark = f"{TEST_RUN}="
    variables = _read(process / "environ").split("\0")
    return next((variable.removeprefix(mark) for variable in variables if variable.startswith(mark)), "")


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""  # ended meanwhile
