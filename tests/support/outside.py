"""
What surrounds a fleet, for tests: a namespace with a Consul cluster, an Nginx, and stand-ins for children.

Its names, addresses and ports are its own, so that it can be up beside a lab and beside other tests.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import httpx

from forkyard.balancer.nginx import NginxBalancer
from forkyard.model import Registration, Server
from forkyard.processes import ProcessRef, end, in_namespace, spawn
from forkyard.registry.consul import ConsulRegistry
from forkyard.settings import ConsulSettings, LabSettings, NginxSettings, QemuSettings, ServiceSettings, Settings
from forkyard.waiting import wait_for
from lab.consul import find_consul
from lab.consul_cluster import GOSSIP, ConsulCluster
from lab.daemons import call_inside, read_ref
from lab.inner import make_cluster, make_inner_parts
from lab.parts import start_parts, stop_parts
from tests.support.lab import free_ports

SERVICES = ("game", "shop")
CHILD_PORT = 8080


def child_address(number: int) -> str:
    """Where a stand-in listens: the namespace's whole 127.0.0.0/8 is its own."""
    return f"127.0.1.{number}"


def child(number: int) -> Server:
    """The stand-in as a server of an upstream."""
    return Server(f"game-{number}", child_address(number), CHILD_PORT)


@dataclass
class Outside:
    """The running surroundings."""

    settings: Settings
    processes: list[ProcessRef] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        """The namespace that all of it is in."""
        return str(self.settings.qemu.namespace)

    @property
    def cluster(self) -> ConsulCluster:
        """The Consul servers."""
        return make_cluster(self.settings)

    def start(self) -> None:
        """Start what does not run."""
        start_parts(make_inner_parts(self.settings), lambda _: None)

    def make_registry(self) -> ConsulRegistry:
        """A registry of its own."""
        return ConsulRegistry(self.settings.consul)

    def make_balancer(self) -> NginxBalancer:
        """A balancer of its own."""
        return NginxBalancer(self.settings.nginx)

    def put(self, path: str, body: Any) -> None:  # noqa: ANN401 - whatever Consul's API takes
        """Call Consul's HTTP API."""
        said: list[str] = []

        def accepted() -> bool | None:
            answer = httpx.put(f"{self.settings.consul.url}/v1/{path}", json=body, timeout=10, trust_env=False)
            said[:] = [answer.text]
            # A 5xx is how Consul says that its servers have just found each other anew.
            assert not answer.is_client_error, answer.text
            return answer.is_success or None

        wait_for(accepted, what=f"Consul taking {path} ({said})", timeout=timedelta(seconds=20))

    def get(self, path: str) -> Any:  # noqa: ANN401 - whatever Consul's API gives
        """Ask Consul's HTTP API."""
        return httpx.get(f"{self.settings.consul.url}/v1/{path}", timeout=10, trust_env=False).json()

    def register(self, entry: Registration) -> None:
        """Put an entry into the catalog as if an agent had, with one check of the given status."""
        service = {"ID": entry.id, "Service": entry.service, "Address": entry.address, "Port": entry.port}
        if entry.fork_id:
            service["Meta"] = {"fork_id": entry.fork_id}
        check = {"Node": entry.node, "CheckID": f"check:{entry.id}", "ServiceID": entry.id, "Status": entry.status}
        self.put(
            "catalog/register",
            {"Node": entry.node, "Address": entry.address, "Service": service, "Check": {**check, "Name": "health"}},
        )

    def forget(self, service: str) -> None:
        """Remove every entry, mark, intent and lease of a service."""
        for entry in self.get(f"health/service/{service}"):
            self.put("catalog/deregister", {"Node": entry["Node"]["Node"]})
        httpx.delete(f"{self.settings.consul.url}/v1/kv/forkyard/{service}/?recurse=1", timeout=10, trust_env=False)

    def start_agent(self, name: str, address: str, directory: Path, *, fork_id: str = "f") -> ProcessRef:
        """Run a Consul agent as one runs in a child, with a service that passes."""
        service = {
            "id": f"{name}:game",
            "name": "game",
            "address": address,
            "port": CHILD_PORT,
            "meta": {"fork_id": fork_id},
            "check": {"id": f"{name}-ttl", "ttl": "1h", "status": "passing"},
        }
        config = {
            "node_name": name,
            "datacenter": self.settings.consul.datacenter,
            "data_dir": str(directory / name),
            "bind_addr": address,
            "client_addr": address,
            "retry_join": list(self.settings.consul.join),
            "gossip_lan": GOSSIP,
            "ports": {"dns": -1},
            "disable_update_check": True,
            "log_level": "warn",
            "services": [service],
        }
        path = directory / f"{name}.json"
        path.write_text(json.dumps(config))
        binary = str(find_consul(self.settings.cache_dir))
        ref = spawn([binary, "agent", f"-config-file={path}"], log=directory / f"{name}.log", namespace=self.namespace)
        self.processes.append(ref)
        return ref

    def consul_server(self, name: str) -> ProcessRef:
        """The process of one of the cluster's agents."""
        ref = read_ref(self.cluster.directory / name / "pid")
        assert ref is not None, f"{name} does not run"
        return ref

    def leader(self) -> str:
        """Name of the server that leads."""

        def look() -> str | None:
            address = str(self.get("status/leader")).partition(":")[0]
            return next((name for name, there in self.cluster.names().items() if there == address), None)

        return wait_for(look, what="a leader", timeout=timedelta(seconds=20))

    def inside(self, *argv: str) -> subprocess.Popen[str]:
        """Start a program in the namespace."""
        return subprocess.Popen(
            in_namespace(argv, self.namespace), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def ask(self, path: str = "/", *, service: str = "game", timeout: float = 10) -> httpx.Response:
        """One request through Nginx on a connection of its own."""
        url = self.settings.nginx.url + path
        return httpx.get(url, headers={"Host": service}, timeout=timeout, trust_env=False)


@contextmanager
def outside_world(directory: Path, *, name: str = "out") -> Iterator[Outside]:
    """Run it all, then end it all."""
    world = Outside(make_settings(directory, name))
    try:
        world.start()
        children = [f"game-{n}={child_address(n)}:{CHILD_PORT}" for n in range(1, 7)]
        argv = [sys.executable, "-m", "tests.support.backend", *children]
        world.processes.append(spawn(argv, log=directory / "backend.log", namespace=world.namespace))
        wait_for(lambda: _listens(world), what="the stand-ins", timeout=timedelta(seconds=20))
        yield world
    finally:
        for ref in world.processes:
            end(ref, timeout=timedelta(seconds=3))
        stop_parts(make_inner_parts(world.settings), lambda _: None)


def _listens(world: Outside) -> bool | None:
    def look() -> bool | None:
        try:
            return httpx.get(f"http://{child_address(6)}:{CHILD_PORT}", trust_env=False).is_success or None
        except httpx.HTTPError:
            return None

    return call_inside(world.namespace, look)


def make_settings(directory: Path, name: str) -> Settings:
    """Settings of surroundings with names, ports and directories of their own."""
    balancer, consul = free_ports(2)
    namespace = f"fy-{name}-{os.getpid()}"
    return Settings(
        state_dir=directory / "state",
        run_dir=directory / "run",
        consul=ConsulSettings(url=f"http://127.0.0.1:{consul}", join=("10.76.0.11", "10.76.0.12", "10.76.0.13")),
        nginx=NginxSettings(directory=directory / "nginx", url=f"http://127.0.0.1:{balancer}", namespace=namespace),
        qemu=QemuSettings(
            namespace=namespace,
            bridge="fyo0",
            network=IPv4Network("10.76.0.0/24"),
            first_address=IPv4Address("10.76.0.100"),
        ),
        lab=LabSettings(load_balancer_port=balancer, consul_port=consul),
        services={name: ServiceSettings() for name in SERVICES},
    )
