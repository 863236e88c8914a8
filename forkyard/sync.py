"""
Keep the balancer's upstreams what the registry says: the one piece of code for the flows and for the resident sync.

A server is in the upstream when its registration passes every check and is not draining; nothing else adds or removes
one. When the registry errs or has lost its leader nothing is changed: what was last seen stays in force.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Lock

from forkyard.balancer import Balancer
from forkyard.errors import ForkyardError, PermanentError
from forkyard.model import Registration, Server, Upstream
from forkyard.registry import Registry

log = logging.getLogger(__name__)

SETTLE = timedelta(milliseconds=100)
"""Changes that come within this time become one reload: ten children that pass at once are one change."""
HOLD = timedelta(seconds=5)
"""How long most of a service must be gone before the resident sync believes it; see `is_mass_loss`."""
_RECHECK = 30.0
"""Seconds after which a quiet service is looked at all the same: somebody may have edited its file."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class Change:
    """What one convergence did to a service, for who shows it."""

    service: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    serving: int


def make_upstream(service: str, registrations: Sequence[Registration]) -> Upstream:
    """
    The upstream that these registrations ask for: those that pass and are not draining.

    One server a node and one node an address: the first by name stands, so that a guest with two entries, or
    with somebody else's address, takes no more than one place.
    """
    servers: dict[str, Server] = {}
    addresses: set[tuple[str, int]] = set()
    for entry in sorted(registrations, key=lambda registration: (registration.node, registration.id)):
        address = (entry.address, entry.port)
        if entry.status != "passing" or entry.draining:
            continue
        if entry.node in servers or address in addresses:
            log.warning("%s: %s at %s:%d is left out: its name or address is taken", service, entry.node, *address)
            continue
        servers[entry.node] = Server(entry.node, entry.address, entry.port)
        addresses.add(address)
    return Upstream(service, tuple(sorted(servers.values())))


def converge(registry: Registry, balancer: Balancer, service: str) -> Upstream:
    """
    Make the upstream what the registry says now; raises what registry and balancer raise, with nothing changed.

    The pen is taken before the registry is read: of two that converge at once, the later reading stands.
    """
    with balancer.exclusive():
        upstream = make_upstream(service, registry.registrations(service))
        balancer.apply(upstream)
    return upstream


def is_mass_loss(before: Upstream | None, registrations: Sequence[Registration]) -> bool:
    """
    Whether more than half, and at least two, of the servers in force vanish without having been told to go.

    A Consul cluster that was restarted without its data, or a network that fell apart, looks like the death of
    every child at once. An upstream that was emptied for such a reason serves nobody, while one with dead servers
    in it goes on by asking the next.
    """
    before_names = {server.name for server in (before.servers if before else ())}
    stay = {entry.node for entry in registrations if entry.status == "passing" or entry.draining}
    lost = before_names - stay
    return len(lost) > 1 and len(lost) * 2 > len(before_names)


def run_sync(
    registry: Registry,
    balancer: Balancer,
    services: Sequence[str],
    *,
    stop: Event,
    changed: Callable[[Change], None] | None = None,
    settle: timedelta = SETTLE,
    hold: timedelta = HOLD,
) -> None:
    """
    Follow the registry and converge each service whenever something changes, until *stop* is set.

    Errors are logged and tried again; *changed* hears of each change that was made, from the service's own thread.
    """
    followers = [
        _Follower(registry, balancer, service, stop, changed or _unheard, settle, hold) for service in services
    ]
    parts = [part for follower in followers for part in (follower.watch, follower.follow)]
    with ThreadPoolExecutor(max_workers=max(1, len(parts)), thread_name_prefix="sync") as pool:
        running = [pool.submit(part) for part in parts]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            # A bug in one thread must not leave a process that looks alive and follows nothing.
            stop.set()
    for part in running:
        part.result()


def _unheard(change: Change) -> None:
    log.debug("%s", change)


class _Follower:
    """One service: a thread that watches it and one that converges it."""

    def __init__(
        self,
        registry: Registry,
        balancer: Balancer,
        service: str,
        stop: Event,
        changed: Callable[[Change], None],
        settle: timedelta,
        hold: timedelta,
    ) -> None:
        self._registry, self._balancer, self._service = registry, balancer, service
        self._stop, self._changed = stop, changed
        self._settle, self._hold = settle.total_seconds(), hold.total_seconds()
        self._news = Event()
        self._latest: list[Registration] = []
        self._lock = Lock()

    def watch(self) -> None:
        """Keep the latest registrations until the end."""
        try:
            for registrations in self._registry.watch(self._service, stop=self._stop):
                with self._lock:
                    self._latest = registrations
                self._news.set()
        finally:
            self._stop.set()
            self._news.set()  # wakes the other thread, which then sees the stop

    def follow(self) -> None:
        """Converge after each change, and now and then without one, until the end."""
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            self._news.wait(_RECHECK)
            self._stop.wait(self._settle)
            self._news.clear()
            if self._stop.is_set():
                return
            try:
                self._held()
                self._converge_once()
            except ForkyardError as error:
                # A refusal will not mend itself: it waits for the next change, or for the longest pause.
                pause = _LONGEST_PAUSE if isinstance(error, PermanentError) else pause
                log.warning("%s: not converged, tried again in %.1f s: %s", self._service, pause, error)
                self._news.wait(pause)
                self._news.set()
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE

    def _held(self) -> None:
        """Wait while most of the service seems to be gone, until it is back or has stayed away long enough."""
        deadline = time.monotonic() + self._hold
        while self._lost() and (left := deadline - time.monotonic()) > 0 and not self._stop.is_set():
            log.warning("%s: most servers vanished at once; they stay in for %.1f s more", self._service, left)
            self._news.wait(left)
            self._news.clear()

    def _lost(self) -> bool:
        with self._lock:
            return is_mass_loss(self._balancer.upstream(self._service), self._latest)

    def _converge_once(self) -> None:
        before = {s.name for s in (self._balancer.upstream(self._service) or Upstream(self._service, ())).servers}
        after = {s.name for s in converge(self._registry, self._balancer, self._service).servers}
        if before != after:
            added, removed = tuple(sorted(after - before)), tuple(sorted(before - after))
            log.info("%s: %d servers; in: %s; out: %s", self._service, len(after), added, removed)
            self._changed(Change(self._service, added, removed, len(after)))
