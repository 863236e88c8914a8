"""A run's stages as the lines of Slack's plan. Pure."""

from collections.abc import Sequence

from forkyard.model import Phase
from forkyard.report import ChildReport
from forkyard.stages import Stage, make_stages

TITLES = {
    Phase.FORKED: "fork the parent",
    Phase.IDENTIFIED: "customize the guests",
    Phase.REGISTERED: "register in Consul",
    Phase.READY: "pass the checks",
    Phase.SERVING: "answer through Nginx",
    Phase.DRAINING: "drain",
    Phase.RETIRED: "retire",
}


def sum_up(children: Sequence[ChildReport]) -> tuple[Stage, ...]:
    """The stages of a finished run that any child came to."""
    return make_stages(child.intervals for child in children)


def status_of(stages: Sequence[Stage], number: int, *, over: bool) -> str:
    """Slack's word for how the stage with this number is; *over*: nothing more will happen."""
    stage = stages[number]
    if stage.complete:
        return "complete"
    if over:
        return "error"
    begun = stage.done > 0 or number == 0 or stages[number - 1].done > 0
    return "in_progress" if begun else "pending"


__all__ = ["TITLES", "status_of", "sum_up"]
