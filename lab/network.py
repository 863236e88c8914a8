"""
The lab's network: a namespace, and in it one bridge that has every address of the lab.

Nothing is routed out of it, so it collides with no Consul, Nginx or VPN of the host, and no packet
leaves. Making it twice changes nothing; removing it takes the children's devices with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from pyroute2 import IPRoute, netns

from forkyard.errors import InvalidRequest
from forkyard.settings import Settings
from lab.daemons import NAMESPACES, call_inside


@dataclass(frozen=True, slots=True)
class LabNetwork:
    """What the lab needs of a network."""

    namespace: str
    bridge: str
    network: IPv4Network
    addresses: tuple[IPv4Address, ...]
    """All on the bridge itself: the load balancer's first, then the Consul servers'."""

    @property
    def load_balancer(self) -> IPv4Address:
        """Where Nginx listens."""
        return self.addresses[0]


def lab_network(settings: Settings) -> LabNetwork:
    """
    The network that the settings describe.

    Raises:
        InvalidRequest: Nginx and the VMs are in two namespaces, or a Consul server lies outside the network.
    """
    namespace, network = settings.qemu.namespace, settings.qemu.network
    if namespace is None or settings.nginx.namespace != namespace:
        text = (
            f"the lab needs one namespace: nginx.namespace is {settings.nginx.namespace!r} and qemu.namespace is "
            f"{namespace!r}. Set both to the same name in forkyard.toml."
        )
        raise InvalidRequest(text)
    servers = tuple(IPv4Address(text) for text in settings.consul.join)
    outside = [str(address) for address in servers if address not in network]
    if outside:
        text = f"consul.join: {', '.join(outside)} is not in qemu.network {network}. Choose addresses inside it."
        raise InvalidRequest(text)
    return LabNetwork(namespace, settings.qemu.bridge, network, (network[1], *servers))


def ensure_network(network: LabNetwork) -> bool:
    """Make what is missing of the namespace, the bridge and its addresses; say whether anything was."""
    made = not is_namespace(network.namespace)
    if made:
        remove_network(network.namespace)  # the file of a namespace that a crash left behind
        netns.create(network.namespace)
    return call_inside(network.namespace, lambda: _ensure_bridge(network)) or made


def _ensure_bridge(network: LabNetwork) -> bool:
    with IPRoute() as links:
        loopback = links.link_lookup(ifname="lo")[0]
        links.link("set", index=loopback, state="up")
        found = links.link_lookup(ifname=network.bridge)
        made = not found
        if made:
            # No spanning tree: a child's port must forward from its first packet. A MAC of its own: without
            # one the bridge takes the lowest of its ports', and each child that leaves would change it for all.
            links.link(
                "add",
                ifname=network.bridge,
                kind="bridge",
                br_stp_state=0,
                br_forward_delay=0,
                address="06:66:" + ":".join(f"{octet:02x}" for octet in network.load_balancer.packed),
            )
            found = links.link_lookup(ifname=network.bridge)
        _add_addresses(links, found[0], network.addresses, network.network.prefixlen)
        links.link("set", index=found[0], state="up")
    _tune()
    return made


def _tune() -> None:
    # Nginx opens a connection for each request to a child and closes it first: with the usual 28,000 ports, each
    # waiting 60 s, a load test of a minute would run out of them.
    for name, value in (("tcp_tw_reuse", "1"), ("ip_local_port_range", "10000 64999")):
        (Path("/proc/sys/net/ipv4") / name).write_text(value)


def _add_addresses(links: IPRoute, index: int, wanted: Sequence[IPv4Address], prefix: int) -> None:
    there = {message.get_attr("IFA_ADDRESS") for message in links.get_addr(index=index)}
    for address in wanted:
        if str(address) not in there:
            interface = IPv4Interface(f"{address}/{prefix}")
            links.addr("add", index=index, address=str(interface.ip), prefixlen=prefix)


def is_namespace(name: str) -> bool:
    """Whether a namespace of this name is there and mounted (a file left by a crash is not one)."""
    try:
        return (NAMESPACES / name).stat().st_dev != NAMESPACES.stat().st_dev
    except FileNotFoundError:
        return False


def remove_network(namespace: str) -> None:
    """Remove the namespace with all that is in it; absent is success."""
    if is_namespace(namespace):
        netns.remove(namespace)
    else:
        (NAMESPACES / namespace).unlink(missing_ok=True)
