"""
Keep this machine's running containers, and nothing else of ours, registered with its Consul agent.

What should be there follows from the containers that run; what is there is asked of Consul. The two are
compared whenever a container comes or goes, when Consul was away, and now and then, so that a restart of
anybody leaves nothing dangling. Nothing is registered before the identity is proved.
"""

import logging
import socket
from collections.abc import Callable
from threading import Event, Lock, Thread
from urllib.parse import urlsplit

from forkyard import wire
from guest.agent.app import OK, request
from guest.agent.consul_agent import API_FAILURES, ConsulAgent
from guest.agent.containers import Check, ContainerService, list_services
from guest.agent.docker_events import Containers
from guest.agent.errors import AgentError, HookFailed

log = logging.getLogger(__name__)

PROOF_PATIENCE = 2.0
"""Seconds that a service may take to prove that it works before it is registered as critical."""
RESYNC = 60.0
"""Seconds between two looks at Consul when nothing happens."""
RETRY = 2.0
"""Seconds until the next try while Consul is away."""
FIRST_LOOK = 30.0
"""Seconds after the release until Consul is asked who it is: not while a whole fleet is starting."""


class Registrator:
    """One machine's registrations."""

    def __init__(self, consul: ConsulAgent, containers: Containers) -> None:
        """Wait for `activate`; until then nothing is registered and no timer runs."""
        self._consul = consul
        self._containers = containers
        self._wake = Event()
        self._stopped = Event()
        self._lock = Lock()
        self._written: list[ContainerService] | None = None
        containers.on_change(self._wake.set)

    def wanted(self, identity: wire.Identity) -> list[ContainerService]:
        """What should be registered now."""
        address = identity.address.partition("/")[0]
        meta = {"fork_id": identity.fork_id, "child": identity.name}
        found = [s for c in self._containers.running() for s in list_services(c, address, meta)]
        return sorted(found, key=lambda service: service.id)

    def first_services(self, identity: wire.Identity) -> list[dict[str, object]]:
        """The entries that a Consul agent which is about to start announces first, each proved or critical."""
        return [service.to_consul(prove(service.check)) for service in self.wanted(identity)]

    def activate(self, identity: wire.Identity, *, first_look: float = FIRST_LOOK) -> None:
        """Keep Consul in step from now on; the first look comes after *first_look* seconds or a container's change."""
        self._wake.clear()  # containers that came before are in what Consul announces first
        Thread(target=self._follow, args=(identity, first_look), name="registrator", daemon=True).start()

    def stop(self) -> None:
        """End the following; what is registered stays."""
        self._stopped.set()
        self._wake.set()

    def _follow(self, identity: wire.Identity, pause: float) -> None:
        sync: Callable[[wire.Identity], None] = self._first_sync
        # After our own restart Docker has yet to be asked: an empty list would deregister everything.
        self._containers.wait_until_listed()
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self._stopped.is_set():
                return
            try:
                sync(identity)
                sync, pause = self.sync, RESYNC
            except API_FAILURES as error:
                log.warning("Consul is away, trying again in %g s: %s", RETRY, error)
                pause = RETRY
            except AgentError:
                # A Consul agent that runs under another name must hear nothing more from us.
                log.exception("not registering any more")
                return

    def _first_sync(self, identity: wire.Identity) -> None:
        self._consul.confirm(identity)
        # Said here and not at the proof: a line in the journal costs a fresh child two more cold programs.
        log.info("identified as %s, and so is Consul", identity.name)
        self.sync(identity)

    def sync(self, identity: wire.Identity) -> None:
        """Make Consul have what is wanted and nothing else of ours; raises one of API_FAILURES."""
        with self._lock:
            wanted = self.wanted(identity)
            if wanted != self._written:
                # For the next start of Consul, when nobody will have proved anything.
                self._consul.write_services(service.to_consul("critical") for service in wanted)
                self._written = wanted
            there = self._consul.own_services()
            for service_id in there.keys() - {service.id for service in wanted}:
                log.info("deregister %s", service_id)
                self._consul.deregister(service_id)
            for service in wanted:
                if service.id not in there or not service.is_same_as(there[service.id]):
                    status = prove(service.check)
                    log.info("register %s as %s at %s:%d, %s", service.id, service.name, *_end(service), status)
                    self._consul.register(service, status)


def _end(service: ContainerService) -> tuple[str, int]:
    return service.address, service.port


def prove(check: Check | None) -> str:
    """`passing` when the service did just now what its check asks for, else `critical`."""
    if check is None:
        return "passing"
    try:
        if check.kind == "http":
            url = urlsplit(check.target)
            address = (url.hostname or "", url.port or 80)
            return "passing" if request("GET", address, url.path, timeout=PROOF_PATIENCE)[0] == OK else "critical"
        if check.kind == "tcp":
            host, _, port = check.target.rpartition(":")
            socket.create_connection((host, int(port)), PROOF_PATIENCE).close()
            return "passing"
    except (HookFailed, OSError) as error:
        log.info("not proved yet: %s", error)
    return "critical"
