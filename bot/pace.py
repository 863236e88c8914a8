"""
How often messages are edited: one budget over all of them, and within it what matters most.

Slack lets a bot edit 50 times a minute at the least. The end of a run may use all of our budget, a change of phase most
of it, a mere number or begin only what is left; so an end is never kept waiting by numbers.
"""

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from time import monotonic

WINDOW = 60.0
MOST = 40
"""Edits in any minute."""

INTERVAL = 3.0
"""Least seconds between two edits of one message that only change numbers."""


FIRST_REST, LONGEST_REST = 5.0, 300.0
"""Seconds for which one message is left alone that Slack refuses, at first and at the most."""


class Weight(IntEnum):
    """What an edit is worth: the number is the part of the budget that it may leave unused, in edits."""

    END = 0
    PHASE = 10
    NUMBER = 18
    BEGIN = 25
    """That an approved run has begun, and nothing more: many at once leave room for their first stages."""


class Pace:
    """The edits of the last minute."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Begin with none."""
        self._clock = clock
        self._edits: deque[float] = deque()
        self._last: dict[str, float] = {}
        self._until = 0.0
        self._refused: dict[str, tuple[float, float]] = {}

    def allows(self, name: str, weight: Weight) -> bool:
        """Whether the message may be edited now."""
        now = self._clock()
        while self._edits and self._edits[0] <= now - WINDOW:
            self._edits.popleft()
        if now < self._until or len(self._edits) >= MOST - weight:
            return False
        return weight is not Weight.NUMBER or now - self._last.get(name, -WINDOW) >= INTERVAL

    def spend(self, name: str) -> None:
        """Count an edit of the message."""
        now = self._clock()
        self._edits.append(now)
        self._last[name] = now

    def age(self, name: str) -> float:
        """Seconds since the message was last edited: the longest first."""
        return self._clock() - self._last.get(name, -WINDOW)

    def rest(self, seconds: float) -> None:
        """Send nothing for so long: Slack has said so, or does not answer."""
        self._until = max(self._until, self._clock() + seconds)

    def set_aside(self, name: str) -> float:
        """Leave the one message alone, twice as long as the last time; gives the seconds."""
        _, last = self._refused.get(name, (0.0, FIRST_REST / 2))
        seconds = min(2 * last, LONGEST_REST)
        self._refused[name] = (self._clock() + seconds, seconds)
        return seconds

    def take_up(self, name: str) -> None:
        """Slack took the message: nothing is wrong with it any more."""
        self._refused.pop(name, None)

    def is_refused(self, name: str) -> bool:
        """Whether Slack has refused the one message since it last took it."""
        return name in self._refused

    def is_aside(self, name: str) -> bool:
        """Whether the one message is to be left alone now."""
        return self._clock() < self._refused.get(name, (0.0, 0.0))[0]

    @property
    def resting(self) -> bool:
        """Whether nothing is to be sent now."""
        return self._clock() < self._until
