"""
For whom a run waits: it says nothing until it has the service's lease, so whoever holds that is asked for here.

Asked in a worker, every few seconds and only for runs that have said nothing yet: the board waits for no registry.
"""

import logging
from collections.abc import Callable
from time import monotonic

from bot.blocks import clean, mention
from flows.runs import Progress
from forkyard.errors import ForkyardError
from forkyard.model import LeaseHolder
from forkyard.requests import Request, State

logger = logging.getLogger(__name__)

EVERY = 4.0
"""Seconds between two questions for one run."""


class Leases:
    """Who is waited for, as it was known a few seconds ago."""

    def __init__(self, ask: Callable[[str], LeaseHolder | None], submit: Callable[..., None]) -> None:
        """Have *ask* called by what *submit* has done."""
        self._ask, self._submit = ask, submit
        self._asked: dict[str, float] = {}
        self._holders: dict[str, str] = {}
        self._under_way: set[str] = set()

    def waits_for(self, request: Request, progress: Progress | None) -> str:
        """Who is changing the service while the request's run waits for that, and why; empty when it does not wait."""
        if request.state is not State.RUNNING or progress is None or progress.text:
            self._asked.pop(request.id, None)
            self._holders.pop(request.id, None)
            return ""
        due = monotonic() - self._asked.get(request.id, -EVERY) >= EVERY
        # One question at a time: a registry that hangs must not take all workers.
        if due and request.id not in self._under_way:
            self._asked[request.id] = monotonic()
            self._under_way.add(request.id)
            self._submit(self._look, request)
        return self._holders.get(request.id, "")

    def _look(self, request: Request) -> None:
        try:
            holder = self._ask(request.service)
        except ForkyardError as error:
            logger.info("%s: who holds the lease cannot be asked: %s", request.token, error)
            return
        finally:
            self._under_way.discard(request.id)
        if holder is None or holder.request_id == request.id:
            self._holders.pop(request.id, None)
        else:
            self._holders[request.id] = f"{mention(holder.who)} is changing it: {clean(holder.reason)}"
