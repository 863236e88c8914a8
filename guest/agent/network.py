"""
The network device: its MAC, its address, its route, all by netlink.

The device is up but without a carrier while the identity is taken: the host lets no packet through
until every point is proved. So addresses can be set and proved before anyone could hear of them.
"""

import ipaddress
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from guest.agent.errors import PointFailed
from guest.agent.waiting import wait_for

ETH_P_ARP = 0x0806
BROADCAST = b"\xff" * 6
REHEARSAL = "127.254.254.254"
CARRIER_PATIENCE = 10.0
"""Seconds from the host's word that the link is up to the driver's."""


class Network:
    """One network device and who else is on this machine. Used by one thread."""

    def __init__(self, interface: str) -> None:
        """Open the netlink socket now, so that nothing is opened after the fork."""
        self.interface = interface
        self._netlink = IPRoute()

    def rehearse(self) -> None:
        """Send each kind of message once; it ends as it began, because only loopback is changed and changed back."""
        self.mac()
        self.addresses()
        self.local_networks()
        list(self._default_routes())
        loopback = socket.if_nametoindex("lo")
        self._netlink.link("set", index=loopback, state="up")
        for change in ("replace", "del"):
            self._netlink.addr(change, index=loopback, address=REHEARSAL, prefixlen=32)

    def set_mac(self, mac: str) -> str:
        """Give the device *mac* while it is down; it stays down."""
        index = self._index()
        try:
            self._netlink.link("set", index=index, state="down")
            self._netlink.link("set", index=index, address=mac)
        except NetlinkError as error:
            text = f"could not be set on {self.interface}: {error}"
            raise PointFailed(text) from error
        found = self.mac()
        if found != mac.lower():
            text = f"{self.interface} has {found}, not {mac}"
            raise PointFailed(text)
        return found

    def set_address(self, address: str, gateway: str | None) -> str:
        """Make *address* the device's only one and *gateway* the default route; the device is up afterwards."""
        wanted = ipaddress.IPv4Interface(address)
        index = self._index()
        try:
            self._netlink.flush_addr(index=index)
            self._netlink.addr("add", index=index, address=str(wanted.ip), prefixlen=wanted.network.prefixlen)
            self._netlink.link("set", index=index, state="up")
            if gateway:
                self._netlink.route("replace", dst="default", gateway=gateway, oif=index)
        except NetlinkError as error:
            text = f"could not be set on {self.interface}: {error}"
            raise PointFailed(text) from error
        self._prove_address(wanted, gateway)
        return str(wanted)

    def _prove_address(self, wanted: ipaddress.IPv4Interface, gateway: str | None) -> None:
        found = self.addresses()
        if found != [str(wanted)]:
            text = f"{self.interface} has {', '.join(found) or 'no address'}, not only {wanted}"
            raise PointFailed(text)
        routes = {r.get_attr("RTA_GATEWAY") for r in self._default_routes()}
        if routes != ({gateway} if gateway else set()):
            text = f"default route by {', '.join(map(str, routes)) or 'nobody'}, not by {gateway or 'nobody'}"
            raise PointFailed(text)

    def mac(self) -> str:
        """The device's MAC as the kernel has it, in lower case."""
        for link in self._netlink.get_links(self._index()):
            return str(link.get_attr("IFLA_ADDRESS")).lower()
        text = f"{self.interface}: gone"
        raise PointFailed(text)

    def addresses(self) -> list[str]:
        """The device's IPv4 addresses with their prefix lengths."""
        found = self._netlink.get_addr(index=self._index(), family=socket.AF_INET)
        return sorted(f"{a.get_attr('IFA_LOCAL')}/{a['prefixlen']}" for a in found)

    def refuse_addresses(self) -> None:
        """Raise PointFailed when the device has an IPv4 address: who gave it one would do so in each child."""
        found = self.addresses()
        if found:
            text = (
                f"{self.interface} has {', '.join(found)}, and what gave it that would do so in each child. Reboot "
                f"this machine: from then on systemd-networkd leaves {self.interface} alone. If it has an address even "
                "then, take the device out of whatever else sets up networks here."
            )
            raise PointFailed(text)

    def local_networks(self) -> tuple[ipaddress.IPv4Network, ...]:
        """The networks that never leave this machine: loopback, and Docker's bridges."""
        mine = self._index()
        found = [a for a in self._netlink.get_addr(family=socket.AF_INET) if a["index"] != mine]
        nets = {ipaddress.IPv4Interface(f"{a.get_attr('IFA_LOCAL')}/{a['prefixlen']}").network for a in found}
        return (ipaddress.IPv4Network("127.0.0.0/8"), *sorted(nets))

    def wait_for_carrier(self) -> None:
        """Return once the driver has seen the link that the host has just put up; raises AgentError."""
        carrier = Path("/sys/class/net") / self.interface / "carrier"
        what = f"{self.interface}: carrier"
        wait_for(lambda: True if carrier.read_text().strip() == "1" else None, what=what, timeout=CARRIER_PATIENCE)

    def announce(self) -> None:
        """Tell all neighbours by gratuitous ARP (request and reply, as RFC 5227 has it) whose the address is."""
        mac = bytes.fromhex(self.mac().replace(":", ""))
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as link:
            link.bind((self.interface, ETH_P_ARP))
            for address in self.addresses():
                ip = ipaddress.IPv4Interface(address).ip.packed
                for operation in (1, 2):
                    link.send(_arp(operation, mac, ip))

    def _default_routes(self) -> Iterator[Any]:
        routes = self._netlink.get_routes(family=socket.AF_INET, table=254)
        return (r for r in routes if r["dst_len"] == 0)

    def _index(self) -> int:
        try:
            return socket.if_nametoindex(self.interface)
        except OSError as error:
            text = f"{self.interface}: no such network device"
            raise PointFailed(text) from error


def _arp(operation: int, mac: bytes, ip: bytes) -> bytes:
    head = BROADCAST + mac + struct.pack("!H", ETH_P_ARP)
    target = BROADCAST if operation == 2 else b"\0" * 6  # noqa: PLR2004 - 2 is a reply
    return head + struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac + ip + target + ip
