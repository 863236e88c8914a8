"""
What all tasks of one request share: the world, the permission to change it, and the journal of what was done.

`Work` is a plain class on purpose: Prefect looks into dataclasses that are passed to a task, at each call,
and has nothing to find in here.
"""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event, Lock
from typing import TYPE_CHECKING, Protocol, TypeVar, overload

from forkyard.errors import MENDABLE, ForkyardError, TransientError
from forkyard.model import Fleet, Outcome, Phase, ScalePlan, ScaleRequest
from forkyard.registry import Lease
from forkyard.report import Journal, Report
from forkyard.world import World
from tasks.pace import Pace

if TYPE_CHECKING:
    from tasks.registration import RegistrationWatch

T = TypeVar("T")
Item = TypeVar("Item")

logger = logging.getLogger(__name__)

PARALLEL = 320
"""Children that are worked on at once, all batches together: they mostly wait for a hypervisor or a guest."""

ALONE = 64
"""The same for one batch by itself, which is no more than a call or two for each child."""

ATTEMPTS = 4
"""How often one call for one child is made at most, the first included."""


class Batch(Sequence[Item]):
    """
    What one task is given for several children, or returns of them, in order.

    A plain class on purpose: Prefect looks through lists, and the dataclasses in them, at each call and each result.
    For fifty children that takes a tenth of a second of processor time, for twenty batches of them as long as forking.
    """

    def __init__(self, items: Iterable[Item] = ()) -> None:
        """Hold *items*."""
        self._items = tuple(items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        """The item, or those of a range."""
        return self._items[index]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._items)


class Permit:
    """
    Whether changes may still be begun; asked before each one.

    Withdrawn for good when the request is cancelled; gone also when the lease is lost.
    """

    def __init__(self) -> None:
        """Begin without a lease, so without permission."""
        self.stop = Event()
        """Set when the request must end: whoever waits for a guest stops waiting."""
        self.fencing = 0
        self._lease: Lease | None = None
        self._reason = "no lease is held"
        self._fork_failures = 0
        self._fork_limit = 0
        self._lock = Lock()

    def grant(self, lease: Lease, *, fork_limit: int) -> None:
        """Permit changes while *lease* is held, and forks until *fork_limit* children have failed."""
        self._lease, self.fencing, self._fork_limit = lease, lease.fencing, fork_limit

    def withdraw(self, reason: str) -> None:
        """Permit nothing any more."""
        self._reason = reason
        self.stop.set()

    def note_failure(self) -> None:
        """Count one child that could not be made."""
        with self._lock:
            self._fork_failures += 1

    def refusal(self, *, undo: bool = False) -> str | None:
        """Why no change may be begun, or None; to *undo* is permitted also after the permit was withdrawn."""
        if self._lease is None or (self.stop.is_set() and not undo):
            return self._reason
        return "the lease was lost, and somebody else may be changing the service" if self.lease_lost else None

    @property
    def lease_lost(self) -> bool:
        """Whether the lease was held and can no longer be relied on."""
        return self._lease is not None and not self._lease.is_held()

    @property
    def breaker_open(self) -> bool:
        """Whether so many children failed that making more is pointless."""
        return self._fork_failures >= self._fork_limit


class Gate(Protocol):
    """What a request must pass before it changes anything (`forkyard.requests.gate`)."""

    def enter(self) -> None:
        """Raise a ForkyardError unless the request may be carried out."""
        ...

    def check(self, plan: ScalePlan, fleet: Fleet) -> None:
        """Raise a ForkyardError unless this is what was approved."""
        ...

    def leave(self, report: Report, error: BaseException | None) -> None:
        """Put on record how it ended; raises nothing."""
        ...


class NoGate:
    """For a caller that is itself the authority: a bench, a test."""

    def enter(self) -> None:
        """Let it pass."""

    def check(self, plan: ScalePlan, fleet: Fleet) -> None:
        """Let it pass."""

    def leave(self, report: Report, error: BaseException | None) -> None:
        """Keep no record."""


class Work:
    """One request at work on one service."""

    def __init__(self, world: World, request: ScaleRequest, journal: Journal, gate: Gate | None = None) -> None:
        """Begin with nothing permitted."""
        self.world = world
        self.request = request
        self.journal = journal
        self.gate = gate or NoGate()
        self.permit = Permit()
        self.pace = Pace()
        self.watch: RegistrationWatch | None = None
        self.width = 1
        """How many children of each batch that is on its way are worked on at once."""
        self.draining: set[str] = set()
        """Children that this request has marked and not yet destroyed."""

    @property
    def service(self) -> str:
        """The service that is scaled."""
        return self.world.service

    def attempt(
        self,
        name: str,
        phase: Phase | None,
        call: Callable[[timedelta], T],
        timeout: timedelta,
        *,
        undo: bool = False,
    ) -> Outcome[T]:
        """
        Do one thing for one child, again when that may help, and say what came of it; never raises.

        *call* is given the time that is left of *timeout* for all attempts together. With *undo* it is
        made also after the request was cancelled, but never after the lease was lost.
        """
        started = datetime.now(UTC)
        if phase is not None:
            self.journal.begin(name, phase, started)
        outcome = self._try(name, call, started + timeout, undo=undo)
        seconds = (datetime.now(UTC) - started).total_seconds()
        if phase is not None:
            self.journal.end(name, phase, seconds, outcome.error, mendable=outcome.mendable)
        elif outcome.error is not None:
            self.journal.failed(name, outcome.error, mendable=outcome.mendable)
        return replace(outcome, started=started, seconds=seconds)

    def _try(self, name: str, call: Callable[[timedelta], T], deadline: datetime, *, undo: bool) -> Outcome[T]:
        for pause in _pauses():
            refusal = self.permit.refusal(undo=undo)
            if refusal is not None:
                return Outcome(name, None, f"{name}: stopped before its next step: {refusal}")
            try:
                return Outcome(name, call(deadline - datetime.now(UTC)))
            except TransientError as error:
                # One more go only while the child could still make it in time.
                if pause is None or datetime.now(UTC) + timedelta(seconds=pause) >= deadline:
                    return Outcome(name, None, str(error), transient=True)
                logger.info("%s: again in %.1f s: %s", name, pause, error)
                self.permit.stop.wait(pause)
            except ForkyardError as error:
                return Outcome(name, None, str(error), mendable=isinstance(error, MENDABLE))
            except Exception as error:  # a bug met by one child must not leave the others half made
                logger.exception("%s: a bug", name)
                return Outcome(name, None, f"{name}: a bug: {type(error).__name__}: {error}")
        raise AssertionError  # the last pause is None, and that returns

    def each(self, items: Sequence[Item], act: Callable[[Item], T], *, most: int = ALONE) -> Batch[T]:
        """Act on each item of a batch, at most *most* at once; results in the items' order."""
        if len(items) <= 1:
            return Batch(act(item) for item in items)
        with ThreadPoolExecutor(min(most, len(items)), thread_name_prefix="batch") as pool:
            return Batch(pool.map(act, items))

    def each_among_others(self, items: Sequence[Item], act: Callable[[Item], T]) -> Batch[T]:
        """The same for a batch that is on its way beside others."""
        return self.each(items, act, most=self.width)


def _pauses() -> Iterator[float | None]:
    """Seconds to wait after each failed attempt, with jitter, so that children do not come back all at once."""
    for attempt in range(ATTEMPTS - 1):
        yield random.uniform(0.5, 1.5) * 0.4 * 2**attempt  # noqa: S311 - jitter, not a secret
    yield None
