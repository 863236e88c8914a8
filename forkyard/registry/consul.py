"""
Consul as the registry: entries from its catalog and health checks; marks, intents and leases in its KV store.

    forkyard/SERVICE/draining/NODE   there: the child takes no new work
    forkyard/SERVICE/intent          what the service should be, as JSON
    forkyard/SERVICE/lease           locked by the session of who changes the service; see `consul_lease`
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from datetime import timedelta
from threading import Event
from typing import Any

from forkyard.errors import LeaseHeld, PermanentError, VerificationFailed
from forkyard.model import Intent, LeaseHolder, Registration
from forkyard.registry.consul_client import ConsulClient
from forkyard.registry.consul_lease import ConsulLease, end_lease, held_lease, read_fencing, read_holder
from forkyard.registry.consul_watch import Query, watch_queries
from forkyard.settings import ConsulSettings
from forkyard.waiting import wait_for

_SEVERITY = ("passing", "warning", "critical")
_INTENT_TIMEOUT = timedelta(seconds=10)


class ConsulRegistry:
    """The registry in one Consul datacenter."""

    def __init__(self, settings: ConsulSettings) -> None:
        """Use the agent that the settings name; nothing is sent before the first call."""
        self._client = ConsulClient(settings)
        self._lease_ttl = settings.lease_ttl

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def registrations(self, service: str) -> list[Registration]:
        """All entries of the service, whatever their health, by node name."""
        _, entries = self._client.call(lambda c: c.health.service(service))
        _, marks = self._client.call(lambda c: c.kv.get(_marks(service), recurse=True))
        return _registrations(service, entries, marks)

    def deregister(self, registration: Registration) -> None:
        """Remove the entry, its node's other entries, the node itself and its mark. Absent is success."""
        node = registration.node
        # Without a forced leave a server that still remembers the dead member puts its node back into the catalog.
        # It is refused when no agent of this name was ever a member: the entry was registered by somebody else.
        # Not with `prune`: for a member that has not been missed yet (its VM was killed a moment ago) the agent then
        # sleeps ten seconds under serf's lock, and is itself suspected to be dead meanwhile.
        with suppress(PermanentError):
            self._client.call(lambda c: c.agent.force_leave(node))
        self._client.call(lambda c: c.catalog.deregister(node))
        self._client.call(lambda c: c.kv.delete(_mark(registration.service, node)))

    def set_draining(self, service: str, node: str, *, draining: bool) -> None:
        """Set or clear the mark that the child takes no new work."""
        if draining:
            self._client.call(lambda c: c.kv.put(_mark(service, node), "draining"))
        else:
            self._client.call(lambda c: c.kv.delete(_mark(service, node)))

    def intent(self, service: str) -> Intent | None:
        """What the service should be, as last recorded."""
        return self._read_intent(service)[1]

    def record_intent(self, service: str, intent: Intent) -> None:
        """Record it, unless somebody with a higher fencing value was here, or is now."""

        def recorded() -> int | None:
            modified, last = self._read_intent(service)
            highest = max(last.fencing if last else 0, read_fencing(self._client, service))
            if highest > intent.fencing:
                return highest
            value = json.dumps(asdict(intent))
            done = self._client.call(lambda c: c.kv.put(_intent(service), value, cas=modified))
            return intent.fencing if done else None

        fencing = wait_for(recorded, what=f"{service}: recording the intent", timeout=_INTENT_TIMEOUT)
        if fencing > intent.fencing:
            text = (
                f"{service}: another request took the lease after request {intent.request_id} "
                f"(fencing value {fencing} against {intent.fencing}). Nothing was recorded."
            )
            raise LeaseHeld(text)

    def lease(self, service: str, holder: LeaseHolder, *, wait: timedelta) -> AbstractContextManager[ConsulLease]:
        """The exclusive right to change the service; raises LeaseHeld, naming the holder, after *wait*."""
        return held_lease(self._client, service, holder, wait=wait, ttl=self._lease_ttl)

    def holder(self, service: str) -> LeaseHolder | None:
        """Who holds the lease now."""
        return read_holder(self._client, service)

    def break_lease(self, service: str, holder: LeaseHolder) -> None:
        """End the lease of a holder that is known to be dead; a lease of anybody else is left alone."""
        end_lease(self._client, service, holder)

    def watch(self, service: str, *, stop: Event) -> Iterator[list[Registration]]:
        """The entries now, and again whenever they or their draining marks change, until *stop*."""
        queries: tuple[Query, Query] = (
            lambda c, blocking: c.health.service(service, **blocking),
            lambda c, blocking: c.kv.get(_marks(service), recurse=True, **blocking),
        )
        last: list[Registration] | None = None
        for entries, marks in watch_queries(self._client, queries, name=service, stop=stop):
            now = _registrations(service, entries, marks)
            if now != last:
                last = now
                yield now

    def _read_intent(self, service: str) -> tuple[int, Intent | None]:
        """The intent and the index to replace it at; 0 when there is none."""
        _, entry = self._client.call(lambda c: c.kv.get(_intent(service), consistency="consistent"))
        if not entry:
            return 0, None
        try:
            return entry["ModifyIndex"], Intent(**json.loads(entry["Value"]))
        except (ValueError, TypeError) as error:
            text = f"{_intent(service)} in Consul holds no intent of forkyard ({error}). Delete the key."
            raise VerificationFailed(text) from error


def _marks(service: str) -> str:
    return f"forkyard/{service}/draining/"


def _mark(service: str, node: str) -> str:
    return _marks(service) + node


def _intent(service: str) -> str:
    return f"forkyard/{service}/intent"


def _registrations(
    service: str, entries: Sequence[Mapping[str, Any]], marks: Sequence[Mapping[str, Any]] | None
) -> list[Registration]:
    draining = {mark["Key"].removeprefix(_marks(service)) for mark in marks or ()}
    found = (
        Registration(
            id=entry["Service"]["ID"],
            service=service,
            node=entry["Node"]["Node"],
            address=entry["Service"]["Address"] or entry["Node"]["Address"],
            port=entry["Service"]["Port"],
            status=_worst(entry["Checks"]),
            fork_id=meta["fork_id"] if (meta := entry["Service"].get("Meta")) and "fork_id" in meta else None,
            draining=entry["Node"]["Node"] in draining,
        )
        for entry in entries
    )
    return sorted(found, key=lambda registration: (registration.node, registration.id))


def _worst(checks: Sequence[Mapping[str, Any]]) -> str:
    """The worst of the node's and the service's checks; what Consul may call otherwise is critical."""
    statuses = [check["Status"] if check["Status"] in _SEVERITY else "critical" for check in checks]
    return max(statuses, key=_SEVERITY.index, default="passing")
