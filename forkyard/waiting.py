"""
The one way to wait: a look that is repeated until it succeeds often enough in a row, or a deadline.

No other module sleeps. `look` returns a value when it is satisfied, or None; it may raise a
TransientError, which counts as "not yet" and becomes the cause when time runs out.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event
from typing import TypeVar

from forkyard.errors import NotReady, TransientError

T = TypeVar("T")


def wait_for(
    look: Callable[[], T | None],
    *,
    what: str,
    timeout: timedelta,
    successes: int = 1,
    interval: timedelta = timedelta(milliseconds=50),
    slowest: timedelta = timedelta(milliseconds=500),
    stop: Event | None = None,
    news: Event | None = None,
) -> T:
    """
    Repeat *look* until it has given a value *successes* times in a row; return the last value.

    The pause between looks grows by half from *interval* to *slowest*, so that a short wait is
    noticed at once and a long one costs little. Whoever knows that there is something to see sets *news*: it is
    cleared, and the next look comes at once (*stop* is then noticed after a pause).

    Raises:
        NotReady: *timeout* passed, or *stop* was set; the message names *what* and the last reason.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    pause, row, reason = interval.total_seconds(), 0, None
    stop = stop or Event()
    wake = news or stop
    while True:
        if news is not None:
            # Before the look: what is told during it is worth another one.
            news.clear()
        try:
            value = look()
            reason = None
        except TransientError as error:
            value, reason = None, error
        row = row + 1 if value is not None else 0
        if value is not None and row >= successes:
            return value
        left = deadline - time.monotonic()
        if left > 0:
            wake.wait(min(pause, left))
        if left <= 0 or stop.is_set():
            text = f"{what}: not within {timeout.total_seconds():g} s" + (f" ({reason})" if reason else "")
            raise NotReady(text) from reason
        pause = min(pause * 1.5, slowest.total_seconds()) if value is None else pause


def patiently(call: Callable[[], T], *, timeout: timedelta) -> T:
    """Make *call* until it raises no TransientError; raises the last one when *timeout* has passed."""
    last: list[TransientError] = []

    def look() -> tuple[T] | None:
        try:
            return (call(),)
        except TransientError as error:
            last[:] = [error]
            return None

    try:
        return wait_for(look, what="an answer", timeout=timeout)[0]
    except NotReady:
        # Better than that time is up: what was wrong all the time.
        raise last[0] from last[0].__cause__
