"""
What running children look like from outside of them: the bench `identity` holds it against what their guests proved.

No guest agent is asked. The network, Consul, the app as a player meets it, and the disk under the guest tell; of the
parent's connections only the guest itself can tell that they are gone.
"""

import base64
import hashlib
import json
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TypeVar

from cli.bench.disks import read_files
from cli.bench.parts import ask
from forkyard.errors import NotReady
from forkyard.hypervisors.qemu.children import ChildStore
from forkyard.hypervisors.qemu.instance import Instance
from forkyard.model import Child, Server
from forkyard.settings import Settings
from forkyard.waiting import wait_for

MOST_OFF = 2.0
"""Seconds that a child's clock may differ from ours; what it says has whole seconds."""

_ANSWERS = timedelta(seconds=60)
_WRITTEN = timedelta(seconds=120)
"""A guest writes to its disk what is half a minute old, every half minute."""
_SECONDS = 10.0

KEY = "ssh host key on disk"

RIGHT = "right"

T = TypeVar("T")

Seen = Mapping[str, Mapping[str, str]]
"""Per witness (or point): child and value."""


def _fingerprint(public: str) -> str:
    """As ssh-keygen prints it."""
    blob = base64.b64decode(public.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _client_id(networkd: str) -> str:
    raw = next(line.partition("=")[2] for line in networkd.splitlines() if line.startswith("DUIDRawData="))
    return f"00:04:{raw}"


_FILES: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "hostname on disk": ("/etc/hostname", str),
    "machine-id on disk": ("/etc/machine-id", str),
    "dhcp client id on disk": ("/etc/systemd/networkd.conf.d/50-forkyard.conf", _client_id),
    KEY: ("/etc/ssh/ssh_host_ed25519_key.pub", _fingerprint),
}
"""Where it is, and what of the file counts."""


def look_from_outside(settings: Settings, children: Sequence[Child], servers: Sequence[Server]) -> Seen:
    """All that there is to see of the children, which Nginx has as *servers*; who is not seen is left out."""
    met = _ask_until_all(settings.nginx.url, {child.vm.name for child in children})
    addresses = {child.vm.name: child.vm.address for child in children if child.vm.address is not None}
    nodes = [node for node in _consul_nodes(settings) if node["Node"] in addresses]
    apps = _in_network(settings, partial(_meet_apps, servers))
    return {
        "child as players meet it": {name: name for name in met},
        "fork id as players meet it": met,
        "consul node id": {str(node["Node"]): str(node["ID"]) for node in nodes},
        "consul address": {str(node["Node"]): str(node["Address"]) for node in nodes},
        "neighbour mac": _neighbours(settings, addresses),
        "player's session": {name: session for name, (session, _) in apps.items()},
        "clock": {name: clock for name, (_, clock) in apps.items()},
        **_read_disks(settings, children),
    }


def _ask_until_all(url: str, wanted: set[str]) -> dict[str, str]:
    met: dict[str, str] = {}

    def look() -> bool | None:
        answer = ask(url)
        if answer is not None and answer.get("child"):
            met[str(answer["child"])] = str(answer["fork_id"])
        return True if met.keys() >= wanted else None

    try:
        wait_for(look, what="an answer of each child", timeout=_ANSWERS, slowest=timedelta(milliseconds=50))
    except NotReady:
        return met  # who is missing is told by `find_shared`
    return met


def _consul_nodes(settings: Settings) -> list[dict[str, object]]:
    with urllib.request.urlopen(f"{settings.consul.url}/v1/catalog/nodes", timeout=_SECONDS) as answer:  # noqa: S310 - from forkyard.toml
        nodes: list[dict[str, object]] = json.load(answer)
    return nodes


def _neighbours(settings: Settings, addresses: Mapping[str, str]) -> dict[str, str]:
    # Each app has just been talked to, so the network's own table has them all.
    found = dict(_in_network(settings, _list_neighbours))
    return {name: found[address] for name, address in addresses.items() if found.get(address)}


def _list_neighbours() -> list[tuple[str, str]]:
    from pyroute2 import IPRoute  # noqa: PLC0415 - this bench only

    with IPRoute() as links:
        return [(str(n.get_attr("NDA_DST")), str(n.get_attr("NDA_LLADDR") or "")) for n in links.get_neighbours()]


def _meet_apps(servers: Sequence[Server]) -> dict[str, tuple[str, str]]:
    """
    Join each child's game as a player, past the load balancer: the session's token and the clock that the app goes by.

    The token is drawn from the app's own generator: two children that shared it would give the same.
    """
    found = {}
    for server in servers:
        request = urllib.request.Request(f"http://{server.address}:{server.port}/join", data=b"{}", method="POST")
        asked = time.time()
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - a child of ours
            off = parsedate_to_datetime(answer.headers["Date"]).timestamp() - asked
            clock = RIGHT if abs(off) <= MOST_OFF else f"{off:+.0f} s"
            found[server.name] = (str(json.load(answer)["session"]), clock)
    return found


def _read_disks(settings: Settings, children: Sequence[Child]) -> dict[str, dict[str, str]]:
    store = ChildStore(settings, "")
    seen: dict[str, dict[str, str]] = {witness: {} for witness in _FILES}
    for child in children:
        instance = store.instance(child.vm.name)
        for witness, text in (_read_disk(instance, child.vm.name) if instance is not None else {}).items():
            seen[witness][child.vm.name] = text
    return seen


def _read_disk(instance: Instance, name: str) -> dict[str, str]:
    def look() -> dict[str, str] | None:
        texts = read_files(instance, [path for path, _ in _FILES.values()])
        # The key names its machine: what is older is the parent's, or not all there yet.
        written = all(texts.values()) and texts[_FILES[KEY][0]].endswith(f"@{name}")
        return {witness: of(texts[path]) for witness, (path, of) in _FILES.items()} if written else None

    try:
        return wait_for(look, what="an identity on disk", timeout=_WRITTEN, slowest=timedelta(seconds=5))
    except NotReady:
        return {}


def _in_network(settings: Settings, act: Callable[[], T]) -> T:
    from lab.daemons import call_inside  # noqa: PLC0415 - this bench only

    namespace = settings.qemu.namespace
    return call_inside(namespace, act) if namespace else act()
