"""A registry in memory that keeps the contract to the letter: entries, marks, intents and leases of a FakeWorld."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Event

from forkyard.errors import LeaseHeld
from forkyard.fake_world import FakeWorld
from forkyard.model import Intent, LeaseHolder, Registration


@dataclass(slots=True)
class FakeLease:
    """A held lease."""

    holder: LeaseHolder
    fencing: int
    lost: Event

    def is_held(self) -> bool:
        """Until it is lost: in memory nothing has to be renewed."""
        return not self.lost.is_set()


class FakeRegistry:
    """Consul as far as the fleet sees it."""

    def __init__(self, world: FakeWorld) -> None:
        """Work on *world*."""
        self.world = world

    def registrations(self, service: str) -> list[Registration]:
        """All entries of the service that can be seen by now."""
        self.world.enter("registrations", service)
        return self.world.seen(service)

    def deregister(self, registration: Registration) -> None:
        """Remove the entry, its node's other entries and its mark."""
        fault = self.world.enter("deregister", registration.node)
        with self.world.changed:
            for key in [key for key in self.world.entries if key[0] == registration.node]:
                del self.world.entries[key]
            self.world.draining.discard((registration.service, registration.node))
            self.world.changed.notify_all()
        if fault:
            raise fault

    def set_draining(self, service: str, node: str, *, draining: bool) -> None:
        """Set or clear the mark."""
        fault = self.world.enter("set_draining", node)
        with self.world.changed:
            (self.world.draining.add if draining else self.world.draining.discard)((service, node))
            self.world.changed.notify_all()
        if fault:
            raise fault

    def intent(self, service: str) -> Intent | None:
        """What was recorded last."""
        self.world.enter("intent", service)
        return self.world.intents.get(service)

    def record_intent(self, service: str, intent: Intent) -> None:
        """Record, unless somebody with a higher fencing value was here."""
        fault = self.world.enter("record_intent", service)
        with self.world.changed:
            highest = max(
                self.world.fencing.get(service, 0), *(i.fencing for i in (self.world.intents.get(service),) if i), 0
            )
            if intent.fencing < highest:
                text = f"{service}: fencing value {intent.fencing} is below {highest}: another request has the service"
                raise LeaseHeld(text)
            self.world.intents[service] = intent
        if fault:
            raise fault

    @contextmanager
    def lease(self, service: str, holder: LeaseHolder, *, wait: timedelta) -> Iterator[FakeLease]:
        """Take the lease as soon as it is free, or name its holder after *wait*."""
        self.world.enter("lease", service)
        world = self.world
        with world.changed:
            if not world.changed.wait_for(lambda: service not in world.holders, wait.total_seconds()):
                other = world.holders[service]
                text = (
                    f"{service}: {other.who} holds the lease since {other.since:%H:%M:%S} (request {other.request_id})"
                )
                raise LeaseHeld(text)
            world.holders[service] = holder
            world.fencing[service] = world.fencing.get(service, 0) + 1
            lease = FakeLease(holder, world.fencing[service], Event())
            world.lost[service] = lease.lost
        try:
            yield lease
        finally:
            self._release(service, holder)

    def _release(self, service: str, holder: LeaseHolder) -> bool:
        with self.world.changed:
            if self.world.holders.get(service) != holder:
                return False
            del self.world.holders[service]
            self.world.changed.notify_all()
            return True

    def holder(self, service: str) -> LeaseHolder | None:
        """Who holds the lease now."""
        self.world.enter("holder", service)
        return self.world.holders.get(service)

    def break_lease(self, service: str, holder: LeaseHolder) -> None:
        """End this holder's lease; anybody else's is left alone."""
        fault = self.world.enter("break_lease", service)
        with self.world.changed:
            if self._release(service, holder):
                self.world.lost[service].set()
        if fault:
            raise fault

    def watch(self, service: str, *, stop: Event) -> Iterator[list[Registration]]:
        """The entries now and after each change, until *stop*."""
        last: list[Registration] | None = None
        while not stop.is_set():
            now = self.world.seen(service)
            if now != last:
                last = now
                yield now
                continue
            with self.world.changed:
                # Entries come to be seen, and pass, by the clock alone: look again when the next is due.
                self.world.changed.wait(min(0.05, self._next_due()))

    def _next_due(self) -> float:
        now = time.monotonic()
        due = (moment - now for e in self.world.entries.values() for moment in (e.visible, e.passing))
        return min((left for left in due if left > 0), default=0.05)
