"""What the service registry promises: who is there, who is leaving, who may write."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from threading import Event
from typing import Protocol

from forkyard.model import Intent, LeaseHolder, Registration

ELECTION = timedelta(seconds=10)
"""How long a registry that does not answer is asked again before a request: for so long it may choose a new leader."""


class Lease(Protocol):
    """A held lease: renewed in the background until the context ends."""

    holder: LeaseHolder
    fencing: int
    """Grows with each holder; an intent under a lower one is refused."""
    lost: Event
    """Set when the registry no longer honours the lease: stop making changes."""

    def is_held(self) -> bool:
        """
        Whether it can be relied on at this moment; asked before each change.

        Not when *lost* is set, and not when it was last renewed longer ago than it lives: who was stopped for a while
        must know that before the thread that renews it has come to say so.
        """
        ...


class Registry(Protocol):
    """Consul, seen from the fleet. Raises only `forkyard.errors`; calls may be repeated."""

    def registrations(self, service: str) -> list[Registration]:
        """All entries of the service, whatever their health, by node name."""
        ...

    def deregister(self, registration: Registration) -> None:
        """Remove the entry and its node's, so that a dead child leaves no trace. Absent is success."""
        ...

    def set_draining(self, service: str, node: str, *, draining: bool) -> None:
        """Mark that the child takes no new work (or does again). Survives the caller."""
        ...

    def intent(self, service: str) -> Intent | None:
        """What the service should be, as last recorded."""
        ...

    def record_intent(self, service: str, intent: Intent) -> None:
        """Put what is wanted on record; raises LeaseHeld when a higher fencing value was seen."""
        ...

    def lease(self, service: str, holder: LeaseHolder, *, wait: timedelta) -> AbstractContextManager[Lease]:
        """The exclusive right to change the service; raises LeaseHeld, naming the holder, after *wait*."""
        ...

    def holder(self, service: str) -> LeaseHolder | None:
        """Who holds the lease now."""
        ...

    def break_lease(self, service: str, holder: LeaseHolder) -> None:
        """End the lease of a holder that is known to be dead; a lease of anybody else is left alone."""
        ...

    def watch(self, service: str, *, stop: Event) -> Iterator[list[Registration]]:
        """
        The entries now, and again whenever they (or their draining marks) change, until *stop*.

        By blocking queries. While the registry is away it yields nothing: what was last seen stays in force.
        """
        ...
