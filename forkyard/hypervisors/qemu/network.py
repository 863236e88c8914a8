"""
The children's network: which address and MAC is whose, and when a VM's device joins the bridge.

QEMU makes the tap itself inside the namespace and the kernel removes it when QEMU ends, so none is ever
left over. A tap joins the bridge only after its guest has proved its identity.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

from forkyard.errors import NotFound, NotReady
from forkyard.settings import QemuSettings

if TYPE_CHECKING:
    from pyroute2 import IPRoute

NAMESPACES = Path("/run/netns")


def check_namespace(settings: QemuSettings) -> None:
    """Raise NotFound when the namespace of the settings is not there."""
    if settings.namespace is not None and not (NAMESPACES / settings.namespace).exists():
        raise _no_namespace(settings)


def count_addresses(settings: QemuSettings) -> int:
    """How many addresses children can have at all."""
    numbers = _numbers(settings)
    return len(numbers) - (settings.gateway is not None and int(settings.gateway) in numbers)


def choose_address(settings: QemuSettings, used: Iterable[str], last: str | None) -> str | None:
    """
    The next free address after the one given last; None when all are in use.

    Not the lowest: an address that was just given back may still stand in somebody's cache.
    """
    taken = {*used, str(settings.gateway)}
    numbers = _numbers(settings)
    given = int(IPv4Address(last)) if last is not None else -1
    start = given + 1 - numbers.start if given in numbers else 0
    # By numbers: the range may hold a quarter of a million, and the next free one is seldom far.
    return next((a for n in chain(numbers[start:], numbers[:start]) if (a := str(IPv4Address(n))) not in taken), None)


def make_mac(address: str) -> str:
    """The MAC that belongs to an address: as unique as that, and locally administered."""
    return "52:54:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


def attach(settings: QemuSettings, tap: str) -> None:
    """
    Join the VM's tap to the bridge and set it up; raises NotFound naming what is missing.

    In a thread of its own that enters the namespace and ends. Not by `IPRoute(netns=...)`, which forks this
    process to open its socket: seen in a flow, whose other threads held a lock at that moment, the forked
    process waited for that lock for ever, and the flow for it.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="attach") as pool:
        pool.submit(_attach, settings, tap).result()


def _attach(settings: QemuSettings, tap: str) -> None:
    # Half a second of import that only this moment needs.
    from pyroute2 import IPRoute, NetlinkError, netns  # noqa: PLC0415

    try:
        if settings.namespace is not None:
            netns.setns(settings.namespace, flags=0)
        with IPRoute() as links:
            bridge, device = (_find_device(links, settings, name) for name in (settings.bridge, tap))
            links.link("set", index=device, master=bridge, state="up")
    except FileNotFoundError as error:
        raise _no_namespace(settings) from error
    except NetlinkError as error:
        text = f"{tap}: joining bridge {settings.bridge}: {error}"
        raise NotReady(text) from error


def _find_device(links: "IPRoute", settings: QemuSettings, name: str) -> int:
    found = cast("list[int]", links.link_lookup(ifname=name))
    if not found:
        text = f"there is no network device {name} in namespace {settings.namespace}. {_START}"
        raise NotFound(text)
    return found[0]


_START = "Start the lab (`forkyard lab up`)."


def _no_namespace(settings: QemuSettings) -> NotFound:
    return NotFound(f"network namespace {settings.namespace} is not there. {_START}")


def _numbers(settings: QemuSettings) -> range:
    """The addresses that children can have, as numbers; the gateway may be among them."""
    return range(int(settings.first_address), int(settings.network.broadcast_address))
