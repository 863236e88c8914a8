"""
How long it will take to bring up so many children, from how long it took.

Pure, and rather too long than too short: a pre-sale that begins with half a fleet is worse than ten idle minutes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from forkyard.requests import Request

WITHOUT_HISTORY = timedelta(minutes=15)
"""The lead where no run tells better."""

MARGIN = timedelta(minutes=2)
"""For a start that is late, a lease that is waited for, a child that is made twice."""

FACTOR = 2
RUNS = 5
"""So many last runs count: machines and images change."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run that did what was asked."""

    children: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Lead:
    """How long before its start an event must begin, and why."""

    length: timedelta
    why: str


def list_runs(requests: Iterable[Request]) -> list[Run]:
    """What finished requests tell, in their order; those that made no children tell nothing."""
    found: list[Run] = []
    for request in requests:
        result = request.result or {}
        made = int(result.get("serving") or 0) - int(result.get("before") or 0)
        if result.get("ok") and made > 0:
            found.append(Run(made, float(result.get("seconds", 0))))
    return found


def estimate_seconds(runs: Sequence[Run], children: int) -> float | None:
    """Seconds for so many children, newest runs first; None: no run tells."""
    if not runs or children <= 0:
        return None if children > 0 else 0.0
    # More children take longer in proportion; fewer are not believed to be quicker than what was seen.
    return max(run.seconds * max(1.0, children / run.children) for run in runs[:RUNS])


def find_lead(runs: Sequence[Run], children: int) -> Lead:
    """The lead for so many children, in whole minutes, with the sentence that explains it."""
    seconds = estimate_seconds(runs, children)
    if seconds is None:
        minutes = int(WITHOUT_HISTORY.total_seconds() // 60)
        return Lead(WITHOUT_HISTORY, f"no run tells yet how long it takes; starting {minutes} min before")
    slowest = max(runs[:RUNS], key=lambda run: run.seconds * max(1.0, children / run.children))
    minutes = max(1, math.ceil((seconds * FACTOR + MARGIN.total_seconds()) / 60))
    why = f"{slowest.children} children took {slowest.seconds:.0f} s; starting {minutes} min before"
    return Lead(timedelta(minutes=minutes), why)
