"""What /etc/forkyard/agent.toml says; an unknown key is an error, so that no typing mistake becomes a default."""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from forkyard import wire
from guest.agent.errors import ConfigError

T = TypeVar("T")

DEFAULT_CONFIG = Path("/etc/forkyard/agent.toml")


@dataclass(frozen=True, slots=True)
class AppSettings:
    """The container that holds the app, and its hooks."""

    container: str
    """Docker's name of the container."""
    port: int
    """The app's port inside the container; the hooks go there directly, past every published port."""
    health: str = "/healthz"
    quiesce: str = "/quiesce"
    reidentify: str = "/reidentify"
    warm: str = ""
    """A POST that makes the app run its hot paths once before the fork; empty: it has none."""
    timeout: float = 10.0
    """Seconds that one hook may take."""


@dataclass(frozen=True, slots=True)
class ConsulSettings:
    """The Consul agent of this machine, which forkyard-consul.service runs."""

    directory: Path = Path("/run/forkyard-agent/consul")
    """Gate, configuration and data; on a tmpfs, because nothing in it may outlive the fork's identity."""
    binary: Path = Path("/usr/bin/consul")
    """Read once before the fork, so that the child finds the program in memory."""
    http_port: int = 8500
    join_port: int = 0
    """Gossip port of the servers that are joined; 0: Consul's default."""
    settings: dict[str, object] = field(default_factory=dict)
    """Further keys of Consul's own configuration; they win over the agent's."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """All of agent.toml."""

    app: AppSettings
    consul: ConsulSettings = ConsulSettings()
    channel: str = f"virtio:{wire.PORT_NAME}"
    """`virtio:NAME` under QEMU, `guestinfo` under vSphere, or `unix:PATH` to try the agent outside of a VM."""
    interface: str = "eth0"
    """The device that gets the child's MAC and address."""
    docker: str = "unix:///var/run/docker.sock"
    shared_dir: Path = Path("/run/forkyard")
    """Holds identity.json; mounted into containers, so nothing else is kept in it."""
    private_dir: Path = Path("/run/forkyard-agent")
    """What only the agent reads: the report, so that it knows after a restart that it is identified."""
    root: Path = Path("/")
    """Where etc/ and var/ are; another one only in tests and rehearsals."""

    @property
    def is_under_vsphere(self) -> bool:
        """Whether vSphere runs this machine: its guestinfo is how the host is heard."""
        return self.channel.partition(":")[0] == "guestinfo"


def load_settings(path: Path) -> AgentSettings:
    """Read *path*; raises ConfigError naming the file and the key."""
    try:
        table = tomllib.loads(path.read_text())
        app = _section(AppSettings, table.pop("app", {}))
        consul = _section(ConsulSettings, table.pop("consul", {}))
        return _section(AgentSettings, table | {"app": app, "consul": consul})
    except (OSError, tomllib.TOMLDecodeError, TypeError) as error:
        text = f"{path}: {error}"
        raise ConfigError(text) from error


def _section(kind: type[T], table: dict[str, object]) -> T:
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]  # every section is a dataclass
    unknown = sorted(set(table) - set(known))
    if unknown:
        text = f"unknown key {unknown[0]!r}; known: {', '.join(known)}"
        raise TypeError(text)
    return kind(**{k: Path(v) if known[k].type is Path and isinstance(v, str) else v for k, v in table.items()})
