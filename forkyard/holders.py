"""
Who holds a service's lease, and whether that process still lives.

A flow that was killed keeps its lease until the registry's TTL has passed. When its process was one of
this host and is provably gone, nobody needs to wait for that: the lease is broken, with a line in the log.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from forkyard.model import LeaseHolder
from forkyard.processes import ProcessRef, find_process
from forkyard.registry import ELECTION, Lease, Registry
from forkyard.waiting import patiently

logger = logging.getLogger(__name__)


def make_holder(request_id: str, *, who: str, reason: str) -> LeaseHolder:
    """Describe this process as a lease's holder."""
    return LeaseHolder(
        request_id=request_id,
        who=who,
        host=socket.gethostname(),
        pid=os.getpid(),
        since=datetime.now(UTC),
        reason=reason,
        process=_mark(find_process(os.getpid())),
    )


def is_dead(holder: LeaseHolder) -> bool:
    """
    Whether the holder's process is provably gone.

    False for one of another host, boot or pid namespace (a container's), of which nothing is known: its lease runs out.
    """
    place, _, _ = holder.process.rpartition(" ")
    if holder.host != socket.gethostname() or place != _find_place():
        return False
    # The pid may have been used again. By ticks since boot, which no step of the wall clock moves.
    return _mark(find_process(holder.pid)) != holder.process


@contextmanager
def hold_lease(
    registry: Registry,
    service: str,
    holder: LeaseHolder,
    *,
    wait: timedelta,
    told: Callable[[LeaseHolder], None] = lambda _: None,
) -> Iterator[Lease]:
    """
    Take the service's lease, breaking that of a dead holder first; give it back at the end.

    *told* hears for whom it waits.

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
    elif other is not None:
        told(other)
    with registry.lease(service, holder, wait=wait) as lease:
        yield lease


def _mark(process: ProcessRef | None) -> str:
    return f"{_find_place()} {process.started}" if process is not None else ""


@cache
def _find_place() -> str:
    """The boot and the pid namespace that we are in: only there a pid says anything."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').stat().st_ino}"
