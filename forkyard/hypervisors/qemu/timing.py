"""How long is left of a call's timeout, and how long its steps took."""

import time
from datetime import timedelta


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
