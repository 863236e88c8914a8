"""
Is the machine idle? Asked before a fork, because work that is pending then is done again by every child.

Seen in the first forks: V8 collects its garbage some eight seconds after the last request, Go's
runtimes and journald have such afterthoughts too; a parent that was frozen at once left them to its children.
"""

import time
from pathlib import Path
from threading import Event

SPAN = 3.0
"""Seconds of one look; longer than the periods of what an idle machine does now and then."""
SPANS = 4
"""Quiet looks in a row: 12 s cover V8's eight."""
BUSY_SHARE = 0.05


def wait_until_quiet(*, patience: float, span: float = SPAN, stat: Path = Path("/proc/stat")) -> bool:
    """Return True after some quiet seconds in a row, False when there were none for *patience* seconds."""
    deadline, row, before = time.monotonic() + patience, 0, _ticks(stat)
    while time.monotonic() < deadline:
        Event().wait(span)
        now = _ticks(stat)
        busy, total = now[0] - before[0], now[1] - before[1]
        row = row + 1 if busy <= BUSY_SHARE * total else 0
        if row == SPANS:
            return True
        before = now
    return False


def _ticks(stat: Path) -> tuple[int, int]:
    """Clock ticks that all processors were busy, and all ticks."""
    ticks = [int(field) for field in stat.read_text().partition("\n")[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
