"""How long is left of a call's timeout, how long its steps took, and a wait that a dead QEMU ends."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

from forkyard.errors import OutcomeUnknown, TransientError, Unavailable
from forkyard.waiting import wait_for

T = TypeVar("T")


class Deadline:
    """The end of a call's patience, handed on to everything that it does."""

    def __init__(self, timeout: timedelta) -> None:
        """Begin now."""
        self._end = time.monotonic() + timeout.total_seconds()

    @property
    def left(self) -> timedelta:
        """What is left; never less than a moment, so that what takes no time still succeeds."""
        return timedelta(seconds=max(0.01, self._end - time.monotonic()))


class Steps:
    """Seconds per step, in order."""

    def __init__(self) -> None:
        """Begin now."""
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def done(self, name: str) -> None:
        """The step that began with the last one's end is done."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 6)
        self._last = now

    def __str__(self) -> str:
        """For a log."""
        return ", ".join(f"{name} {seconds:.4f}" for name, seconds in self.seconds.items())


def wait_while_alive(
    look: Callable[[], T | None],
    *,
    what: str,
    timeout: timedelta,
    interval: timedelta = timedelta(milliseconds=50),
    slowest: timedelta = timedelta(milliseconds=500),
) -> T:
    """Wait as `wait_for` does, but end at once when the other side is gone: to look again would help nobody."""
    gone: list[TransientError] = []

    def look_or_end() -> T | bool | None:
        try:
            return look()
        except (Unavailable, OutcomeUnknown) as error:
            gone.append(error)
            return True

    found = wait_for(look_or_end, what=what, timeout=timeout, interval=interval, slowest=slowest)
    if gone:
        raise gone[0]
    return cast("T", found)
