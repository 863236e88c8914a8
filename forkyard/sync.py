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
from forkyard.balancer.servers import find_fault
from forkyard.errors import ForkyardError, PermanentError
from forkyard.model import Registration, Server, Upstream
from forkyard.registry import Registry

log = logging.getLogger(__name__)

SETTLE = timedelta(milliseconds=100)
"""Changes that come within this time become one reload: ten children that pass at once are one change."""
HOLD = timedelta(seconds=5)
"""How long most of a service must be gone before anybody believes it; see `is_mass_loss`."""
SPACED, FARTHEST = timedelta(seconds=0.5), timedelta(seconds=8)
"""Between two reloads that only add servers, doubled while they go on: Nginx keeps each one's workers for a while."""
_RECHECK = 30.0
"""Seconds after which a quiet service is looked at all the same: somebody may have edited its file."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_AGAIN = 0.5
"""Seconds between two looks while most of a service seems to be gone."""
_NEVER = Event()


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
    with somebody else's address, takes no more than one place. What no balancer would take is left out: one such
    entry must not keep the dead in and the new out.
    """
    servers: dict[str, Server] = {}
    addresses: set[tuple[str, int]] = set()
    for entry in sorted(registrations, key=lambda registration: (registration.node, registration.id)):
        if entry.status != "passing" or entry.draining:
            continue
        server, address = Server(entry.node, entry.address, entry.port), (entry.address, entry.port)
        taken = "its name or address is taken" if entry.node in servers or address in addresses else ""
        if fault := find_fault(server) or taken:
            log.warning("%s: %r at %r:%d is left out: %s", service, entry.node, *address, fault)
            continue
        servers[entry.node] = server
        addresses.add(address)
    return Upstream(service, tuple(sorted(servers.values())))


def converge(
    registry: Registry, balancer: Balancer, service: str, *, hold: timedelta = timedelta(0), stop: Event = _NEVER
) -> Upstream:
    """
    Make the upstream what the registry says now; raises what registry and balancer raise, with nothing changed.

    The pen is taken before the registry is read: of two that converge at once, the later reading stands. While most of
    the service seems to be gone it is looked at again, for *hold* or until *stop*.
    """
    deadline = time.monotonic() + hold.total_seconds()
    while True:
        with balancer.exclusive():
            registrations = registry.registrations(service)
            left = deadline - time.monotonic()
            if left <= 0 or stop.is_set() or not is_mass_loss(balancer.upstream(service), registrations):
                upstream = make_upstream(service, registrations)
                balancer.apply(upstream)
                return upstream
        stop.wait(min(left, _AGAIN))


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
    spaced: timedelta = SPACED,
) -> None:
    """
    Follow the registry and converge each service whenever something changes, until *stop* is set.

    Errors are logged and tried again; *changed* hears of each change that was made, from the service's own thread.
    """
    followers = [
        _Follower(registry, balancer, service, stop, changed or _unheard, settle, hold, spaced) for service in services
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
        spaced: timedelta,
    ) -> None:
        self._registry, self._balancer, self._service = registry, balancer, service
        self._stop, self._changed = stop, changed
        self._settle, self._hold = settle.total_seconds(), hold.total_seconds()
        self._news = Event()
        self._latest: list[Registration] = []
        self._lock = Lock()
        self._spaced, self._spacing, self._changed_at = spaced.total_seconds(), 0.0, 0.0

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
                self._keep_apart()
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

    def _keep_apart(self) -> None:
        """Wait while servers only come, so that many that come one by one are few reloads; who leaves is not kept."""
        while (left := self._changed_at + self._spacing - time.monotonic()) > 0 and not self._stop.is_set():
            if self._leaves():
                return
            self._news.wait(left)
            self._news.clear()

    def _leaves(self) -> bool:
        upstream = self._balancer.upstream(self._service) or Upstream(self._service, ())
        with self._lock:
            stay = {entry.node for entry in self._latest if entry.status == "passing" and not entry.draining}
        return any(server.name not in stay for server in upstream.servers)

    def _converge_once(self) -> None:
        before = {s.name for s in (self._balancer.upstream(self._service) or Upstream(self._service, ())).servers}
        after = {s.name for s in converge(self._registry, self._balancer, self._service).servers}
        if before != after:
            now, farthest = time.monotonic(), FARTHEST.total_seconds()
            goes_on = now - self._changed_at < 2 * farthest
            self._spacing = max(self._spaced, min(farthest, 2 * self._spacing) if goes_on else 0.0)
            self._changed_at = now
            added, removed = tuple(sorted(after - before)), tuple(sorted(before - after))
            log.info("%s: %d servers; in: %s; out: %s", self._service, len(after), added, removed)
            self._changed(Change(self._service, added, removed, len(after)))
