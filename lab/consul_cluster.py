"""
Three Consul servers in the lab's namespace, each at an address of its own, and one client agent beside Nginx.

The host talks to the client agent, as an operator's programs would: it finds a living server by
itself, so any one server may die. Their data lives in the run directory and is gone with the lab.
"""

import json
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from forkyard.errors import NotReady, Unavailable
from forkyard.processes import ProcessRef, end, tail
from forkyard.waiting import wait_for
from lab.consul import consul_version
from lab.daemons import call_inside, read_ref, start_daemon

HTTP_PORT = 8500
START_TIMEOUT = timedelta(seconds=60)
STOP_TIMEOUT = timedelta(seconds=5)

# A node is probed about once a second by somebody and may take 1 s to answer, because a guest under TCG
# on a crowded host does; a suspect then has 4 s to speak for itself. So a dead child is known
# in about 6 s, and a child that is merely slow is not thrown out.
GOSSIP = {"probe_interval": "1s", "probe_timeout": "1s", "suspicion_mult": 4}


@dataclass(frozen=True, slots=True)
class ConsulCluster:
    """The lab's Consul servers."""

    namespace: str
    client: str
    """Address of the client agent."""
    servers: tuple[str, ...]
    datacenter: str
    directory: Path
    """Configuration, data, logs and pids; short-lived."""

    def names(self) -> dict[str, str]:
        """Address per agent, the servers first."""
        servers = {f"consul-{number}": address for number, address in enumerate(self.servers, start=1)}
        return {**servers, "consul-client": self.client}


def render_agent(cluster: ConsulCluster, name: str, version: tuple[int, int, int]) -> dict[str, object]:
    """The configuration of one agent; understood by Consul 1.8 and by current releases."""
    address = cluster.names()[name]
    ui: Mapping[str, object] = {"ui": True} if version < (1, 9, 0) else {"ui_config": {"enabled": True}}
    only_servers: Mapping[str, object] = {"server": True, "bootstrap_expect": len(cluster.servers)}
    return {
        "node_name": name,
        "datacenter": cluster.datacenter,
        "data_dir": str(cluster.directory / name / "data"),
        "bind_addr": address,
        "client_addr": address,
        "retry_join": [other for other in cluster.servers if other != address],
        "retry_interval": "1s",
        "performance": {"raft_multiplier": 1},
        "gossip_lan": GOSSIP,
        "ports": {"http": HTTP_PORT, "dns": -1, "serf_wan": -1},
        # Every client outside the namespace comes through one forwarder, and so from one address.
        "limits": {"http_max_conns_per_client": 4096},
        "disable_update_check": True,
        "enable_script_checks": False,
        "log_level": "warn",
        **ui,
        **(only_servers if address in cluster.servers else {}),
    }


def start_consul(cluster: ConsulCluster, binary: Path) -> bool:
    """Start the agents that do not run, wait for a leader and all peers; say whether any was started."""
    missing = [name for name in cluster.names() if _agent(cluster, name) is None]
    version = consul_version(binary) if missing else (0, 0, 0)
    for name in missing:
        _start_agent(cluster, name, binary, version)
    try:
        wait_for(lambda: _ready(cluster), what="Consul's leader and its peers", timeout=START_TIMEOUT)
    except NotReady as error:
        text = f"{error}: {consul_trouble(cluster)}"
        raise NotReady(text) from error
    return bool(missing)


def _start_agent(cluster: ConsulCluster, name: str, binary: Path, version: tuple[int, int, int]) -> None:
    home = cluster.directory / name
    (home / "data").mkdir(parents=True, exist_ok=True)
    (home / "agent.json").write_text(json.dumps(render_agent(cluster, name, version), indent=2))
    start_daemon(
        home / "pid",
        # The leader must answer its peers in 0.5 s however busy the VMs keep the processors.
        ["nice", "-n", "-5", str(binary), "agent", f"-config-file={home / 'agent.json'}"],
        log=home / "log",
        namespace=cluster.namespace,
    )


def _agent(cluster: ConsulCluster, name: str) -> ProcessRef | None:
    return read_ref(cluster.directory / name / "pid")


def consul_trouble(cluster: ConsulCluster) -> str:
    """What is wrong with the cluster; empty text when nothing is."""
    for name in cluster.names():
        if _agent(cluster, name) is None:
            return f"{name} does not run: {tail(cluster.directory / name / 'log', 2)}"
    try:
        return "" if _ready(cluster) else "there is no leader, or a server is missing"
    except (Unavailable, FileNotFoundError) as error:
        return str(error)


def stop_consul(cluster: ConsulCluster) -> None:
    """End every agent and remove their data."""
    for name in cluster.names():
        ref = _agent(cluster, name)
        if ref is not None:
            # Killed, because a farewell that nobody will read takes half a second each.
            end(ref, timeout=STOP_TIMEOUT, first=signal.SIGKILL)
    shutil.rmtree(cluster.directory, ignore_errors=True)


def _ready(cluster: ConsulCluster) -> bool | None:
    """Whether there is a leader and every server is its peer, as the client agent sees it."""
    peers = call_inside(cluster.namespace, lambda: _get(cluster, "/v1/status/peers"))
    leader = call_inside(cluster.namespace, lambda: _get(cluster, "/v1/status/leader"))
    return True if leader and isinstance(peers, list) and len(peers) == len(cluster.servers) else None


def _get(cluster: ConsulCluster, path: str) -> object:
    url = f"http://{cluster.client}:{HTTP_PORT}{path}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            found: object = json.load(answer)
            return found
    except (urllib.error.URLError, OSError, ValueError) as error:
        text = f"{url}: {error}"
        raise Unavailable(text) from error
