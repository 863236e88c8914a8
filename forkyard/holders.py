"""
Who holds a service's lease, and whether that process still lives.

A flow that was killed keeps its lease until the registry's TTL has passed. When its process was one of
this host and is provably gone, nobody needs to wait for that: the lease is broken, with a line in the log.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from forkyard.model import LeaseHolder
from forkyard.processes import find_process
from forkyard.registry import ELECTION, Lease, Registry
from forkyard.waiting import patiently

logger = logging.getLogger(__name__)

_CLOCK_SLACK = timedelta(seconds=2)
"""Start times come from the clock since boot, and NTP may have stepped the wall clock since."""


def make_holder(request_id: str, *, who: str, reason: str) -> LeaseHolder:
    """Describe this process as a lease's holder."""
    return LeaseHolder(
        request_id=request_id,
        who=who,
        host=socket.gethostname(),
        pid=os.getpid(),
        since=datetime.now(UTC),
        reason=reason,
    )


def is_dead(holder: LeaseHolder) -> bool:
    """Whether the holder's process is provably gone; False for one of another host, of which nothing is known."""
    if holder.host != socket.gethostname():
        return False
    process = find_process(holder.pid)
    # The pid may have been used again: then its process is younger than the lease.
    return process is None or _start_time(process.started) > holder.since + _CLOCK_SLACK


@contextmanager
def hold_lease(registry: Registry, service: str, holder: LeaseHolder, *, wait: timedelta) -> Iterator[Lease]:
    """
    Take the service's lease, breaking that of a dead holder first; give it back at the end.

    Raises:
        LeaseHeld: somebody who lives (or of whom nothing is known) holds it for longer than *wait*.
        Unavailable: the registry does not answer, for longer than it takes to choose another leader.
    """
    other = patiently(lambda: registry.holder(service), timeout=ELECTION)
    if other is not None and is_dead(other):
        logger.warning(
            "%s: the lease of %s (process %d, %s) is broken: that process is gone",
            service,
            other.who,
            other.pid,
            other.reason,
        )
        registry.break_lease(service, other)
    with registry.lease(service, holder, wait=wait) as lease:
        yield lease


def _start_time(ticks: int) -> datetime:
    boot = next(
        int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime ")
    )
    return datetime.fromtimestamp(boot + ticks / os.sysconf("SC_CLK_TCK"), UTC)
