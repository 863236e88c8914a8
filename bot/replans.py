"""
Plan again what could not be planned: the fleet could not be seen, or the bot that was to plan it was ended.

One look at a time for each service: a hypervisor that answers slowly must not take all workers, which carry approvals.
"""

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from time import monotonic

from forkyard.requests import Request, State

EVERY = 10.0
"""Seconds after which a request is planned once more."""


class Replans:
    """When which request was planned last."""

    def __init__(self, plan: Callable[[Request], None], submit: Callable[..., None]) -> None:
        """Have *plan* called by what *submit* has done."""
        self._plan, self._submit = plan, submit
        self._planned: dict[str, float] = {}
        self._under_way: set[str] = set()

    def look(self, rows: Collection[Request], *, recovering: bool) -> None:
        """Have those planned that wait for it; *recovering*, the bot has just begun, also what is fresh."""
        waiting = [row for row in rows if row.state in {State.DRAFTED, State.PLANNED}]
        self._planned = {row.id: self._planned[row.id] for row in waiting if row.id in self._planned}
        for row in sorted(waiting, key=lambda row: self._planned.get(row.id, 0.0)):
            age = (datetime.now(UTC) - row.requested_at).total_seconds()
            # A fresh one is being planned by whoever took it; after a restart there is nobody left who does.
            due = recovering or age > EVERY
            if due and self._is_free(row):
                self._planned[row.id] = monotonic()
                self._under_way.add(row.service)
                self._submit(self._plan_one, row)

    def _is_free(self, row: Request) -> bool:
        rested = monotonic() - self._planned.get(row.id, -EVERY) >= EVERY
        return rested and row.service not in self._under_way

    def _plan_one(self, row: Request) -> None:
        try:
            self._plan(row)
        finally:
            self._under_way.discard(row.service)
