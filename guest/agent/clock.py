"""The wall clock: a frozen parent's stands still, and TLS fails in its children until it is stepped."""

import time

from guest.agent.errors import PointFailed

TOLERANCE = 0.5
"""Seconds by which the clock may differ from the host's afterwards."""


def step(wall_clock: float, received: float) -> tuple[str, str]:
    """
    Set the wall clock to the host's *wall_clock*, which arrived when `time.monotonic()` was *received*.

    Returns the time now and by how much the clock was stepped.
    """
    before = time.time() - _wanted(wall_clock, received)
    try:
        time.clock_settime(time.CLOCK_REALTIME, _wanted(wall_clock, received))
    except OSError as error:
        text = f"could not be set: {error}"
        raise PointFailed(text) from error
    difference = time.time() - _wanted(wall_clock, received)
    if abs(difference) > TOLERANCE:
        text = f"still {difference:+.3f} s from the host's after it was set"
        raise PointFailed(text)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), f"stepped by {-before:+.3f} s"


def _wanted(wall_clock: float, received: float) -> float:
    return wall_clock + time.monotonic() - received
