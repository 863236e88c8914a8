"""
The wall clock: a frozen parent's stands still, and TLS fails in its children until it is stepped.

Under QEMU a request is here at once, and its time is good. Under vSphere it may have been on its way for seconds: there
its time is the earliest that it can be now, and the machine's real-time clock, which ESXi keeps going, says what it is.
"""

import time
from pathlib import Path

from guest.agent.errors import PointFailed

TOLERANCE = 0.5
"""Seconds by which the clock may differ from the wanted time afterwards."""
RTC = Path("/sys/class/rtc/rtc0/since_epoch")
RTC_MIDDLE = 0.5
"""Seconds to add to what the real-time clock says, which is whole seconds: so the error is this at most."""


def step(wall_clock: float, received: float) -> tuple[str, str]:
    """
    Set the wall clock to the host's *wall_clock*, which arrived when `time.monotonic()` was *received*.

    Returns the time now and by how much the clock was stepped.
    """
    before = time.time() - _now(wall_clock, received)
    try:
        time.clock_settime(time.CLOCK_REALTIME, _now(wall_clock, received))
    except OSError as error:
        text = f"could not be set: {error}"
        raise PointFailed(text) from error
    difference = time.time() - _now(wall_clock, received)
    if abs(difference) > TOLERANCE:
        text = f"still {difference:+.3f} s from the wanted time after it was set"
        raise PointFailed(text)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), f"stepped by {-before:+.3f} s"


def step_by_rtc(wall_clock: float, received: float, rtc: Path = RTC) -> tuple[str, str]:
    """As `step`, later by what the request took to get here, which the real-time clock tells."""
    delay, source = compare_rtc(_now(wall_clock, received), read_rtc(rtc))
    value, detail = step(wall_clock + delay, received)
    return value, f"{detail} {source}"


def compare_rtc(requested: float, rtc: int | None) -> tuple[float, str]:
    """Seconds by which it is later than the *requested* time, never fewer than none, and who says so."""
    if rtc is None:
        return 0.0, "by the request, and late by its way here: there is no real-time clock"
    delay = rtc + RTC_MIDDLE - requested
    if delay <= 0:
        return 0.0, f"by the request; the real-time clock is {-delay:.1f} s behind it"
    return delay, f"by the real-time clock, {delay:.1f} s after the request's time"


def read_rtc(rtc: Path = RTC) -> int | None:
    """Seconds since the epoch by the machine's real-time clock; None when there is none that can be read."""
    try:
        return int(rtc.read_text())
    except (OSError, ValueError):
        return None


def _now(wall_clock: float, received: float) -> float:
    return wall_clock + time.monotonic() - received
