"""A balancer in memory that keeps the contract to the letter: the upstreams of a FakeWorld."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from forkyard.errors import PermanentError
from forkyard.fake_world import FakeWorld
from forkyard.model import Server, Upstream


class FakeBalancer:
    """Nginx as far as the fleet sees it."""

    def __init__(self, world: FakeWorld) -> None:
        """Work on *world*."""
        self.world = world

    def upstream(self, service: str) -> Upstream | None:
        """The upstream in force."""
        self.world.enter("upstream", service)
        return self.world.upstreams.get(service)

    def check_running(self) -> None:
        """Raise what was said of it; it runs otherwise."""
        self.world.enter("check_running", "")

    def apply(self, upstream: Upstream) -> None:
        """Put it in force; two servers of one name or address are refused, as nginx refuses a broken file."""
        fault = self.world.enter("apply", upstream.service)
        for key in ("name", "address"):
            values = [getattr(server, key) for server in upstream.servers]
            if len(values) != len(set(values)) or not all(values):
                text = f"{upstream.service}: two servers with one {key}, or one with none: {values}"
                raise PermanentError(text)
        with self.world.changed:
            self.world.upstreams[upstream.service] = replace(upstream, servers=tuple(sorted(upstream.servers)))
            self.world.changed.notify_all()
        if fault:
            raise fault

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other thread from the world until the context ends."""
        with self.world.changed:
            yield

    def active_connections(self, service: str) -> dict[str, int]:
        """One for each child that still has an open connection."""
        self.world.enter("active_connections", service)
        now = time.monotonic()
        with self.world.changed:
            return {name: 1 for name, end in self.world.connections.items() if end > now}

    def probe(self, service: str, wanted: frozenset[str], *, timeout: timedelta) -> dict[str, float]:
        """Ask until each of *wanted* has answered, or time runs out."""
        begun = time.monotonic()
        self.world.enter("probe", service)
        answered: dict[str, float] = {}
        deadline = begun + timeout.total_seconds()
        with self.world.changed:
            while True:
                now = time.monotonic()
                for server in self._servers(service):
                    if server.name in wanted and server.name not in answered and self.world.answers(server):
                        answered[server.name] = now - begun
                if answered.keys() >= wanted or now >= deadline:
                    return answered
                self.world.changed.wait(min(0.05, deadline - now))

    def _servers(self, service: str) -> tuple[Server, ...]:
        upstream = self.world.upstreams.get(service)
        return upstream.servers if upstream else ()
