"""
Clocks for durations: no step of the wall clock moves them.

Within a process `time.monotonic` and a `Deadline`. What crosses processes (claims, ages, marks on disk) carries
`boot_id` and `boottime` together: seconds since boot mean nothing in another boot. The wall clock is for people, the
calendar and signatures.
"""

import time
from datetime import timedelta
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> str:
    """Return what names this boot of the machine, a UUID."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def boottime() -> float:
    """Return the seconds since boot, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Deadline:
    """The end of a call's patience, handed on to everything that the call does."""

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
