"""What a run's progress says, as stages: from the words that the run publishes. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from flows.runs import Progress
from forkyard.model import Phase
from forkyard.report import ChildReport

TITLES = {
    Phase.FORKED: "fork the parent",
    Phase.IDENTIFIED: "customize the guests",
    Phase.REGISTERED: "register in Consul",
    Phase.READY: "pass the checks",
    Phase.SERVING: "answer through Nginx",
    Phase.DRAINING: "drain",
    Phase.RETIRED: "retire",
}

_COUNT = re.compile(r"([a-z]+) (\d+) of (\d+)")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run."""

    phase: Phase
    done: int
    total: int
    seconds: float | None = None
    failed: int = 0

    @property
    def complete(self) -> bool:
        """Whether every child has come through."""
        return self.done >= self.total


def read_stages(progress: Progress | None) -> tuple[Stage, ...]:
    """The stages that the progress names, in their order; words that are no stage are passed over."""
    found = _COUNT.findall(progress.text if progress is not None else "")
    known = {phase.value: phase for phase in TITLES}
    return tuple(Stage(known[name], int(done), int(total)) for name, done, total in found if name in known)


def sum_up(children: Sequence[ChildReport]) -> tuple[Stage, ...]:
    """The stages of a finished run, with the seconds from the first child's begin to the last one's end."""
    stages: list[Stage] = []
    for phase in TITLES:
        tries = [i for child in children for i in child.intervals if i.phase is phase]
        if not tries:
            continue
        came = sum(any(i.phase is phase and i.ok for i in child.intervals) for child in children)
        total = sum(any(i.phase is phase for i in child.intervals) for child in children)
        seconds = max(i.end for i in tries) - min(i.start for i in tries)
        stages.append(Stage(phase, came, total, seconds, failed=sum(not i.ok for i in tries)))
    return tuple(stages)


def status_of(stages: Sequence[Stage], number: int, *, over: bool) -> str:
    """Slack's word for how the stage with this number is; *over*: nothing more will happen."""
    stage = stages[number]
    if stage.complete:
        return "complete"
    if over:
        return "error"
    begun = stage.done > 0 or number == 0 or stages[number - 1].done > 0
    return "in_progress" if begun else "pending"
