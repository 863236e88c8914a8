"""
How far a request is, stage by stage: counted, written in words that people read, and read back from them. Pure.

The words are what a run publishes while it works; whoever follows it (the command line, the bot) takes them apart here.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from forkyard.model import Phase
from forkyard.report import STAGES, Interval

_STAGE = re.compile(r"([a-z]+) (\d+) of (\d+)(?: in (\d+\.\d) s)?(?: \((\d+) failed\))?")


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


def make_stage(phase: Phase, children: Iterable[Sequence[Interval]], total: int | None = None) -> Stage:
    """
    Count one stage over the intervals of all children.

    *total* children are to come through while it goes on; without it the request is over, and those that tried count.
    """
    tried = [[i for i in intervals if i.phase is phase] for intervals in children]
    tries = [i for intervals in tried for i in intervals]
    came = sum(any(i.ok for i in intervals) for intervals in tried)
    wanted = sum(bool(intervals) for intervals in tried) if total is None else total
    # A replaced child comes to a phase twice; more than all is not said.
    done = min(came, wanted)
    over = total is None or done >= wanted
    seconds = max(i.end for i in tries) - min(i.start for i in tries) if tries and over else None
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


def _write(stage: Stage) -> str:
    took = f" in {stage.seconds:.1f} s" if stage.seconds is not None else ""
    failed = f" ({stage.failed} failed)" if stage.failed else ""
    return f"{stage.phase.value} {stage.done} of {stage.total}{took}{failed}"


__all__ = ["Stage", "make_stage", "read_stages", "write_stages"]
