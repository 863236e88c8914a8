"""
The lease of a service: a Consul session that holds the key `forkyard/SERVICE/lease`.

The fencing value is the key's ModifyIndex at the moment of taking it: an index of the whole cluster, so
it grows from holder to holder even if somebody deletes the key by hand (LockIndex would begin anew at 1).
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from threading import Event, Thread
from typing import Any

from forkyard.errors import ForkyardError, LeaseHeld, NotFound, NotReady, TransientError, VerificationFailed
from forkyard.model import LeaseHolder
from forkyard.registry import ELECTION
from forkyard.registry.consul_client import ConsulClient
from forkyard.waiting import patiently, wait_for

log = logging.getLogger(__name__)

SHORTEST_TTL = 10
"""Seconds; Consul takes no shorter one."""


@dataclass(slots=True)
class ConsulLease:
    """A held lease."""

    holder: LeaseHolder
    fencing: int
    ttl: int
    """Seconds for which it lives after it was renewed; Consul may let it live longer."""
    renewed: float
    """When the renewal that Consul granted last was asked for, by `_now`."""
    lost: Event = field(default_factory=Event)

    def is_held(self) -> bool:
        """Whether it can be relied on now; see `Lease.is_held`."""
        return not self.lost.is_set() and _now() - self.renewed < self.ttl


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is in the lease's key while somebody holds it."""

    session: str
    holder: LeaseHolder
    modified: int


def _now() -> float:
    # Goes on while this process is stopped, and while the machine sleeps.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def lease_key(service: str) -> str:
    """The key that is locked."""
    return f"forkyard/{service}/lease"


@contextmanager
def held_lease(
    client: ConsulClient, service: str, holder: LeaseHolder, *, wait: timedelta, ttl: timedelta
) -> Iterator[ConsulLease]:
    """Take the lease, renew it in the background, give it back; see `Registry.lease`."""
    seconds = max(SHORTEST_TTL, math.ceil(ttl.total_seconds()))
    session = _open_session(client, service, seconds)
    stop = Event()
    try:
        fencing, renewed = _take(client, service, session, holder, wait)
        lease = ConsulLease(holder, fencing, seconds, renewed)
        renewal = Thread(target=_renew, args=(client, session, lease, stop), name=f"lease-{service}", daemon=True)
        renewal.start()
        try:
            yield lease
        finally:
            stop.set()
            renewal.join()
    finally:
        # A session that cannot be ended now ends by itself when its time has passed.
        with suppress(ForkyardError):
            client.call(lambda c: c.session.destroy(session))


def read_holder(client: ConsulClient, service: str) -> LeaseHolder | None:
    """Who holds the lease now."""
    entry = _read(client, service)
    return entry.holder if entry else None


def read_fencing(client: ConsulClient, service: str) -> int:
    """The fencing value of who holds the lease now; 0 when nobody does."""
    entry = _read(client, service)
    return entry.modified if entry else 0


def end_lease(client: ConsulClient, service: str, holder: LeaseHolder) -> None:
    """End the session behind *holder*'s lease; anybody else's is left alone."""
    entry = _read(client, service)
    if entry is not None and entry.holder == holder:
        client.call(lambda c: c.session.destroy(entry.session))


def _open_session(client: ConsulClient, service: str, ttl: int) -> str:
    # No health check is tied to it: the default, the node's own, would end the lease of a living flow because
    # the Consul agent that it happened to speak to restarted. No lock delay: break_lease is for the dead only,
    # and a holder that lives on begins nothing more by its own clock (`ConsulLease.is_held`).
    # Asked again during an election: a session whose answer was lost on the way ends by itself.
    def create() -> str:
        made: str = client.call(
            lambda c: c.session.create(name=f"forkyard-{service}", checks=[], lock_delay=0, ttl=ttl)
        )
        return made

    return patiently(create, timeout=ELECTION)


def _take(client: ConsulClient, service: str, session: str, holder: LeaseHolder, wait: timedelta) -> tuple[int, float]:
    """Wait for the lease; return its fencing value, and when its session was last renewed."""
    value = json.dumps({**asdict(holder), "since": holder.since.isoformat()})

    def acquired() -> float | None:
        asked = _now()
        # A waiter does not renew by itself, and would lose its session while it waits.
        client.call(lambda c: c.session.renew(session))
        return asked if client.call(lambda c: c.kv.put(lease_key(service), value, acquire=session)) else None

    try:
        renewed = wait_for(acquired, what=f"{service}: the lease", timeout=wait)
    except NotReady as error:
        other = read_holder(client, service)
        text = f"{service}: {_described(other)}. Wait for it, or ask again later."
        raise LeaseHeld(text) from error
    entry = patiently(lambda: _read(client, service), timeout=ELECTION)
    if entry is None or entry.session != session:
        text = f"{service}: the lease was taken and lost again at once. Ask again."
        raise LeaseHeld(text)
    return entry.modified, renewed


def _described(holder: LeaseHolder | None) -> str:
    if holder is None:
        return "the lease could not be taken, although nobody holds it"
    return (
        f"{holder.who} has been changing it since {holder.since:%H:%M:%S} "
        f"(request {holder.request_id}, process {holder.pid} on {holder.host})"
    )


def _read(client: ConsulClient, service: str) -> _Entry | None:
    _, entry = client.call(lambda c: c.kv.get(lease_key(service), consistency="consistent"))
    if not entry or "Session" not in entry:
        return None
    try:
        fields: dict[str, Any] = json.loads(entry["Value"])
        since = datetime.fromisoformat(fields.pop("since"))
        holder = LeaseHolder(since=since, **fields)
    except (ValueError, TypeError, KeyError) as error:
        text = f"{lease_key(service)} in Consul holds no lease of forkyard ({error}). Delete the key."
        raise VerificationFailed(text) from error
    return _Entry(entry["Session"], holder, entry["ModifyIndex"])


def _renew(client: ConsulClient, session: str, lease: ConsulLease, stop: Event) -> None:
    """Renew three times in each lifetime; call it lost when Consul says so or may think so."""
    # At once the first time: taking the lease may have taken most of a lifetime, with an election in between.
    while True:
        asked = _now()
        try:
            client.call(lambda c: c.session.renew(session))
            lease.renewed = asked
        except NotFound:
            lease.lost.set()
        except TransientError as error:
            log.warning("the lease could not be renewed: %s", error)
            if not lease.is_held():
                lease.lost.set()
        except ForkyardError:
            log.exception("the lease cannot be renewed")
            lease.lost.set()
        if lease.lost.is_set():
            log.error("the lease is lost")
            return
        if stop.wait(lease.ttl / 3):
            return
