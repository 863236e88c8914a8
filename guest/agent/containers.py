"""
What a running container should be in Consul, decided from what Docker says of it. Pure.

The rules are Registrator's: metadata comes from the environment and, stronger, from labels;
`SERVICE_<port>_KEY` is stronger than `SERVICE_KEY`; without SERVICE_NAME the image's name is the
service's. Only published TCP and UDP ports are registered, and none that listens on loopback alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PREFIX = "forkyard:"
"""Begins the id of each registration that is ours; no other is ever touched."""

DEFAULT_INTERVAL = "10s"
DEFAULT_TIMEOUT = "5s"
FAILURES = 2
"""Failed checks in a row until Consul believes them: one slow answer on a busy host takes nobody out."""
LOOPBACK = ("127.", "::1")


@dataclass(frozen=True, slots=True)
class Check:
    """How Consul finds out whether the service works."""

    kind: str
    """`http`, `tcp` or `ttl`: Consul's own key."""
    target: str
    """URL, host:port, or time to live."""
    interval: str = DEFAULT_INTERVAL
    timeout: str = DEFAULT_TIMEOUT

    def to_consul(self, status: str, *, failures: str = "failures_before_critical") -> dict[str, object]:
        """The check as Consul's configuration takes it; its API calls one key otherwise, *failures*."""
        if self.kind == "ttl":
            return {"ttl": self.target, "status": status}
        return {
            self.kind: self.target,
            "interval": self.interval,
            "timeout": self.timeout,
            "status": status,
            failures: FAILURES,
        }


@dataclass(frozen=True, slots=True)
class ContainerService:
    """One published port of a running container as an entry in Consul."""

    id: str
    name: str
    address: str
    port: int
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    check: Check | None = None

    def to_consul(self, status: str) -> dict[str, object]:
        """The entry as Consul's configuration takes it, its check beginning with *status*."""
        entry: dict[str, object] = {
            "id": self.id,
            "name": self.name,
            "address": self.address,
            "port": self.port,
            "tags": list(self.tags),
            "meta": dict(self.meta),
        }
        return entry | ({"check": self.check.to_consul(status)} if self.check else {})

    def is_same_as(self, entry: Mapping[str, Any]) -> bool:
        """Whether *entry*, as Consul's agent lists it, says the same."""
        return (self.name, self.address, self.port, set(self.tags), dict(self.meta)) == (
            entry.get("Service"),
            entry.get("Address"),
            entry.get("Port"),
            set(entry.get("Tags") or ()),
            dict(entry.get("Meta") or {}),
        )


def list_services(container: Mapping[str, Any], address: str, meta: Mapping[str, str]) -> list[ContainerService]:
    """The entries of one container, as Docker's inspect describes it, on a machine with *address*."""
    ports = sorted(set(_published(container)))
    metadata = _metadata(container["Config"])
    found = (_service(container, port, metadata, address, meta, group=len(ports) > 1) for port in ports)
    return [service for service in found if service is not None]


def container_address(container: Mapping[str, Any]) -> str:
    """Where the container answers from this machine: its address on Docker's network, or loopback on the host's."""
    settings = container["NetworkSettings"]
    networks = (settings.get("Networks") or {}).values()
    found = [n["IPAddress"] for n in networks if n.get("IPAddress")]
    return found[0] if found else "127.0.0.1"


def _published(container: Mapping[str, Any]) -> Iterator[tuple[int, int, str]]:
    """Port inside, port outside, protocol."""
    if container["HostConfig"].get("NetworkMode") == "host":
        for name in container["Config"].get("ExposedPorts") or {}:
            port, _, protocol = name.partition("/")
            yield int(port), int(port), protocol
        return
    for name, bindings in (container["NetworkSettings"].get("Ports") or {}).items():
        port, _, protocol = name.partition("/")
        for binding in bindings or ():
            if not binding.get("HostIp", "").startswith(LOOPBACK):
                yield int(port), int(binding["HostPort"]), protocol


def _metadata(config: Mapping[str, Any]) -> dict[str, str]:
    """All SERVICE_ settings without their prefix, labels over environment."""
    environment = dict(item.split("=", 1) for item in config.get("Env") or () if "=" in item)
    merged = environment | dict(config.get("Labels") or {})
    return {k.removeprefix("SERVICE_"): v for k, v in merged.items() if k.startswith("SERVICE_") and v}


def _for_port(metadata: Mapping[str, str], port: int) -> tuple[dict[str, str], bool]:
    """The settings that hold for one port, and whether the port has a name of its own."""
    general = {k: v for k, v in metadata.items() if not k.split("_", 1)[0].isdigit()}
    own = {k.removeprefix(f"{port}_"): v for k, v in metadata.items() if k.startswith(f"{port}_")}
    return general | own, "NAME" in own


def _service(
    container: Mapping[str, Any],
    ports: tuple[int, int, str],
    metadata: Mapping[str, str],
    address: str,
    meta: Mapping[str, str],
    *,
    group: bool,
) -> ContainerService | None:
    inside, outside, protocol = ports
    settings, own_name = _for_port(metadata, inside)
    if "IGNORE" in settings:
        return None
    udp = protocol == "udp"
    image = container["Config"]["Image"].rsplit("/", 1)[-1].partition("@")[0].partition(":")[0]
    name = settings.get("NAME", image) + (f"-{inside}" if group and not own_name else "")
    tags = [tag.strip() for tag in settings.get("TAGS", "").split(",") if tag.strip()]
    return ContainerService(
        id=f"{PREFIX}{container['Name'].lstrip('/')}:{inside}" + (":udp" if udp else ""),
        name=name,
        address=address,
        port=outside,
        tags=tuple(tags + (["udp"] if udp else [])),
        meta=dict(meta),
        check=None if udp else _check(settings, address, outside),
    )


def _check(settings: Mapping[str, str], address: str, port: int) -> Check | None:
    interval = settings.get("CHECK_INTERVAL", DEFAULT_INTERVAL)
    timeout = settings.get("CHECK_TIMEOUT", DEFAULT_TIMEOUT)
    if "CHECK_HTTP" in settings:
        url = f"http://{address}:{port}/{settings['CHECK_HTTP'].lstrip('/')}"
        return Check("http", url, interval, timeout)
    if "CHECK_TCP" in settings:
        return Check("tcp", f"{address}:{port}", interval, timeout)
    if "CHECK_TTL" in settings:
        return Check("ttl", settings["CHECK_TTL"])
    return None
