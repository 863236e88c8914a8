"""
What forkyard.toml says, checked once; the only module that reads the environment.

Every setting has a sentence that gives its unit and its reason. An unknown key is an error: a typing
mistake must not silently become a default.
"""

import os
import tomllib
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forkyard.errors import InvalidRequest
from forkyard.model import Limits

CONFIG_VARIABLE = "FORKYARD_CONFIG"
DEFAULT_CONFIG = Path("/etc/forkyard/forkyard.toml")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ConsulSettings(_Section):
    """Where the registry is."""

    url: str = "http://127.0.0.1:18500"
    """HTTP API of any Consul server, as seen from the machine that runs the flows."""
    token_file: Path | None = None
    """File with the ACL token, so that the token is in no configuration and no process list."""
    datacenter: str = "dc1"
    join: tuple[str, ...] = ("10.77.0.11", "10.77.0.12", "10.77.0.13")
    """Addresses, as children see them, of the Consul servers that their agents join."""
    lease_ttl: timedelta = timedelta(seconds=10)
    """How long a dead flow keeps its lease; Consul accepts 10 s at the least."""


class NginxSettings(_Section):
    """The load balancer."""

    binary: str = "nginx"
    directory: Path = Path("/var/lib/forkyard/nginx")
    """Holds nginx.conf, upstreams/ (ours), logs, pid and the control socket."""
    url: str = "http://127.0.0.1:18080"
    """Where a player reaches the load balancer."""
    namespace: str | None = "forkyard"
    """Network namespace that Nginx runs in; None: the host's own."""


class PrefectSettings(_Section):
    """The workflow server."""

    api_url: str = "http://127.0.0.1:14200/api"


class QemuSettings(_Section):
    """The embedded hypervisor."""

    namespace: str | None = "forkyard"
    """Network namespace that the children's network devices are in."""
    bridge: str = "fy0"
    network: IPv4Network = IPv4Network("10.77.0.0/22")
    gateway: IPv4Address | None = None
    """None: children have no route out."""
    first_address: IPv4Address = IPv4Address("10.77.1.1")
    """Children get addresses from here to the end of the network."""
    accelerator: str = "auto"
    """`auto` tries KVM with a short deadline and falls back to TCG; or `kvm`, or `tcg`."""
    memory_reserve: int = 1 << 30
    """Bytes of host memory that placements leave alone."""
    memory_share: float = Field(default=0.6, gt=0, le=1)
    """Part of a parent's memory that a child is expected to make its own; placements count with it."""


class LabSettings(_Section):
    """The small world on one machine; only `forkyard lab` reads it."""

    load_balancer_port: int = 18080
    consul_port: int = 18500
    prefect_port: int = 14200


class ServiceSettings(_Section):
    """One app that is scaled."""

    hypervisor: str = "qemu"
    parent: str = "game"
    """Name of the parent that children are forked from."""
    minimum: int = Field(default=0, ge=0)
    maximum: int = Field(default=16, ge=1)
    step: int = Field(default=200, ge=1)
    """Most children that one request makes or retires."""
    memory_mib: int = 768
    """RAM of the parent and so of each child."""
    health_path: str = "/healthz"
    fork_timeout: timedelta = timedelta(seconds=30)
    identify_timeout: timedelta = timedelta(seconds=60)
    register_timeout: timedelta = timedelta(seconds=90)
    serve_timeout: timedelta = timedelta(seconds=60)
    drain_timeout: timedelta = timedelta(seconds=30)
    """How long open requests may go on before a retiring child is destroyed all the same."""
    orphan_after: timedelta = timedelta(minutes=10)
    """Expiry of a new child's stamp: one that no finished request keeps by then is an orphan."""

    @property
    def limits(self) -> Limits:
        """The bounds for the planner."""
        return Limits(minimum=self.minimum, maximum=self.maximum, step=self.step)


class Settings(_Section):
    """All of forkyard.toml."""

    state_dir: Path = Path("/var/lib/forkyard")
    """Frozen parents, children's disks, audit: what must survive a reboot."""
    run_dir: Path = Path("/run/forkyard")
    """Sockets, pids, logs of processes. Keep it short: a socket's path has at most 107 bytes."""
    cache_dir: Path = Path("/var/cache/forkyard")
    """What can be built again: guest images, downloaded binaries."""
    consul: ConsulSettings = ConsulSettings()
    nginx: NginxSettings = NginxSettings()
    prefect: PrefectSettings = PrefectSettings()
    qemu: QemuSettings = QemuSettings()
    lab: LabSettings = LabSettings()
    services: dict[str, ServiceSettings] = Field(default_factory=dict)

    def service(self, name: str) -> ServiceSettings:
        """The service's settings; raises InvalidRequest naming the services that there are."""
        try:
            return self.services[name]
        except KeyError as error:
            known = ", ".join(sorted(self.services)) or "none"
            text = f"{name}: no such service in forkyard.toml. Known services: {known}."
            raise InvalidRequest(text) from error


def load_settings(path: Path | None = None) -> Settings:
    """Read *path*, or the file named by FORKYARD_CONFIG, or /etc/forkyard/forkyard.toml, or the deployment's default."""
    chosen = path or Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))
    try:
        return Settings.model_validate(tomllib.loads(chosen.read_text()))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        text = f"{chosen}: {error}"
        raise InvalidRequest(text) from error
