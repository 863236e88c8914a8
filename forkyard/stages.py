"""
How far a request is, stage by stage: counted, written in words that people read, and read back from them. Pure.

The words are what a run publishes while it works; whoever follows it (the command line, the bot) takes them apart here.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from forkyard.model import Phase
from forkyard.report import STAGES, Interval

_STAGE = re.compile(r"([a-z]+) (\d+) of (\d+)(?: in (\d+\.\d) s)?(?: \((\d+) failed\))?")

_WAIT = re.compile(r"waits for (\S+): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a request."""

    phase: Phase
    done: int
    total: int
    seconds: float | None = None
    """From the first child's begin to the last one's end; None: not all are through, or nobody knows."""
    failed: int = 0
    """Tries that failed on the way, whatever came of the next one."""

    @property
    def complete(self) -> bool:
        """Whether every child has come through."""
        return self.done >= self.total


def make_stages(children: Iterable[Sequence[Interval]], totals: Mapping[Phase, int] | None = None) -> tuple[Stage, ...]:
    """
    Count the stages over the intervals of all children.

    *totals* are how many are to come through which stage while the request goes on; without them it is over, and of
    each stage those that tried it count.
    """
    tries: dict[Phase, list[Interval]] = {}
    tried, came = Counter[Phase](), Counter[Phase]()
    for intervals in children:
        for interval in intervals:
            tries.setdefault(interval.phase, []).append(interval)
        tried.update({interval.phase for interval in intervals})
        came.update({interval.phase for interval in intervals if interval.ok})
    wanted = tried if totals is None else totals
    return tuple(
        _make(phase, tries.get(phase, ()), came[phase], wanted[phase], over=totals is None)
        for phase in STAGES
        if wanted.get(phase)
    )


def _make(phase: Phase, tries: Sequence[Interval], came: int, wanted: int, *, over: bool) -> Stage:
    # A replaced child comes to a phase twice; more than all is not said.
    done = min(came, wanted)
    known = tries and (over or done >= wanted)
    seconds = max(i.end for i in tries) - min(i.start for i in tries) if known else None
    return Stage(phase, done, wanted, seconds, sum(not i.ok for i in tries))


def write_stages(stages: Iterable[Stage]) -> str:
    """Say it in words: `forked 4 of 4 in 0.2 s, identified 3 of 4 (1 failed)`."""
    return ", ".join(_write(stage) for stage in stages)


def read_stages(text: str) -> tuple[Stage, ...]:
    """The stages that a text names, in its order; words that are no stage are passed over."""
    known = {phase.value: phase for phase in STAGES}
    return tuple(
        Stage(known[name], int(done), int(total), float(seconds) if seconds else None, int(failed or 0))
        for name, done, total, seconds, failed in _STAGE.findall(text)
        if name in known
    )


def write_wait(who: str, reason: str) -> str:
    """Say for whom a request waits, who changes the service at the moment: `waits for ada: a sale`."""
    return f"waits for {who}: {reason}"


def read_wait(text: str) -> tuple[str, str] | None:
    """Who is waited for, and why they change the service; None: the text says something else."""
    found = _WAIT.fullmatch(text)
    return (found[1], found[2]) if found else None


def _write(stage: Stage) -> str:
    took = f" in {stage.seconds:.1f} s" if stage.seconds is not None else ""
    failed = f" ({stage.failed} failed)" if stage.failed else ""
    return f"{stage.phase.value} {stage.done} of {stage.total}{took}{failed}"


__all__ = ["Stage", "make_stages", "read_stages", "read_wait", "write_stages", "write_wait"]
