"""How long is left of a call's patience; handed on to everything that the call does."""

import time
from datetime import timedelta


class Deadline:
    """The end of a call's patience."""

    def __init__(self, timeout: timedelta) -> None:
        """Begin now."""
        self._end = time.monotonic() + timeout.total_seconds()

    @property
    def left(self) -> timedelta:
        """What is left; never less than a moment, so that what takes no time still succeeds."""
        return timedelta(seconds=max(0.01, self._end - time.monotonic()))

    @property
    def passed(self) -> bool:
        """Whether nothing is left."""
        return time.monotonic() >= self._end
