"""
The Consul agent of this machine: started before the fork, configured after it.

Starting Consul in a child costs seconds of CPU time under emulation. So it is started in the parent
with two configuration files, a *gate* and the real one. The gate is a FIFO: Consul reads it first,
and blocks there with its program loaded and initialised, and with no identity. After the fork the
real file is written, a plain empty file is put in the gate's place (later releases read everything
twice, and so does a restart), and the FIFO is closed: Consul reads on and is the child's.

Consul 1.8 and current releases take this; `start_join` joins before the first synchronisation in the
former and means `retry_join` in the latter.
"""

import errno
import json
import logging
import os
import select
import shutil
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress

import consul
import requests

from forkyard import wire
from guest.agent.containers import PREFIX, ContainerService
from guest.agent.errors import AgentError, PointFailed
from guest.agent.files import write_whole
from guest.agent.settings import ConsulSettings
from guest.agent.waiting import wait_for

log = logging.getLogger(__name__)

GATE = "gate.hcl"
CONFIG = "consul.json"
API_FAILURES = (consul.ConsulException, requests.RequestException)
"""What py-consul raises when Consul is away or refuses."""


class ConsulAgent:
    """One machine's Consul agent, run by somebody else and held at the gate by us."""

    def __init__(self, settings: ConsulSettings) -> None:
        """Touch nothing yet."""
        self.settings = settings
        self.gate = settings.directory / GATE
        self.config = settings.directory / CONFIG
        self.data = settings.directory / "data"
        self._held: int | None = None
        self._told: dict[str, object] = {}
        self._client = consul.Consul(host="127.0.0.1", port=settings.http_port, connections_timeout=5)

    @property
    def is_released(self) -> bool:
        """Whether Consul was let go on, by us or before our restart."""
        return self.gate.exists() and not stat.S_ISFIFO(self.gate.stat().st_mode)

    def close_gate(self) -> None:
        """Make the gate, and forget whatever a Consul agent left here."""
        self.settings.directory.mkdir(parents=True, exist_ok=True)
        self.config.unlink(missing_ok=True)
        shutil.rmtree(self.data, ignore_errors=True)
        if self.is_released:
            self.gate.unlink()
        if not self.gate.exists():
            os.mkfifo(self.gate, 0o600)

    def hold(self, *, timeout: float) -> None:
        """Return once Consul stands at the gate; raises AgentError when it does not come."""
        if self._held is None:
            self._held = wait_for(self._open_gate, what=f"{self.gate}: Consul agent at the gate", timeout=timeout)

    def _open_gate(self) -> int | None:
        try:
            return os.open(self.gate, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:  # which says that nobody reads yet
                raise
            return None

    def warm(self) -> None:
        """Read Consul's program once, so that a child finds it in memory and not on a disk."""
        with suppress(FileNotFoundError), self.settings.binary.open("rb") as program:
            while program.read(1 << 20):
                pass

    @property
    def is_held(self) -> bool:
        """Whether Consul still stands at the gate: a FIFO without a reader says so."""
        if self._held is None:
            return False
        poller = select.poll()
        poller.register(self._held, 0)
        return not poller.poll(0)

    def prepare(self, identity: wire.Identity) -> str:
        """Write the child's configuration, and prove that the Consul agent which will read it has no identity yet."""
        if not self.is_held:
            text = "no Consul agent waits for its configuration"
            raise PointFailed(text)
        if self.data.exists():
            text = f"{self.data}: the Consul agent has kept an identity there"
            raise PointFailed(text)
        self._told = self.render(identity)
        self.write_services([])
        found = json.loads(self.config.read_text())
        if (found["node_name"], found["node_id"]) != (identity.name, identity.consul_node_id):
            text = f"{self.config} does not hold the identity that was written"
            raise PointFailed(text)
        return f"{identity.name} {identity.consul_node_id}"

    def adopt(self, identity: wire.Identity) -> None:
        """Know the configuration of a Consul agent that was let go before our restart."""
        self._told = self.render(identity)

    def write_services(self, services: Iterable[Mapping[str, object]]) -> None:
        """Put *services* in Consul's configuration, so that it announces them whenever it starts."""
        write_whole(self.config, json.dumps(self._told | {"services": list(services)}), 0o600)

    def release(self, services: Iterable[Mapping[str, object]]) -> None:
        """Let Consul go on with the child's configuration and *services*; its first synchronisation announces them."""
        if not self.is_held:
            text = "no Consul agent waits for its configuration"
            raise AgentError(text)
        self.write_services(services)
        write_whole(self.gate, "")
        assert self._held is not None  # noqa: S101 - is_held said so
        os.close(self._held)
        self._held = None

    def render(self, identity: wire.Identity) -> dict[str, object]:
        """Consul's configuration for *identity*, without services."""
        port = f":{self.settings.join_port}" if self.settings.join_port else ""
        servers = [f"{server}{port}" for server in identity.consul_join]
        return {
            "node_name": identity.name,
            "node_id": identity.consul_node_id,
            "datacenter": identity.datacenter,
            "bind_addr": identity.address.partition("/")[0],
            "client_addr": "127.0.0.1",
            "data_dir": str(self.data),
            "start_join": servers,
            "ports": {"http": self.settings.http_port, "dns": -1, "grpc": -1},
            "leave_on_terminate": True,
            "disable_update_check": True,
            "enable_central_service_config": False,
            "log_level": "warn",
            # Five wake-ups a second, as by default, are most of what an idle emulated child costs; who is missed is
            # found by the servers, which look every second.
            "gossip_lan": {"gossip_interval": "1s", "probe_interval": "5s", "probe_timeout": "2s"},
        } | self.settings.settings

    def confirm(self, identity: wire.Identity) -> None:
        """Ask the running Consul agent who it is; raises AgentError when it is not *identity*."""
        told = self._client.agent.self()["Config"]
        found = (told["NodeName"], told["NodeID"])
        if found != (identity.name, identity.consul_node_id):
            text = f"the Consul agent runs as {found[0]} {found[1]}, not as {identity.name} {identity.consul_node_id}"
            raise AgentError(text)

    def own_services(self) -> dict[str, Mapping[str, object]]:
        """Our registrations that the Consul agent has, by id; raises one of API_FAILURES."""
        return {k: v for k, v in self._client.agent.services().items() if k.startswith(PREFIX)}

    def register(self, service: ContainerService, status: str) -> None:
        """Add or replace one registration; raises one of API_FAILURES."""
        self._client.agent.service.register(
            service.name,
            service_id=service.id,
            address=service.address,
            port=service.port,
            tags=list(service.tags),
            meta=dict(service.meta),
            check=service.check.to_consul(status, failures="FailuresBeforeCritical") if service.check else None,
        )

    def deregister(self, service_id: str) -> None:
        """Remove one registration; raises one of API_FAILURES."""
        self._client.agent.service.deregister(service_id)
