"""
What is asked of vCenter, as its own data objects. Pure: nothing is sent from here.

A fork's network adapters come disconnected, each by `migrateConnect`; without that word vCenter would connect the
child under its parent's addresses. The host is never named: a child starts where its parent runs.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface

from forkyard.hypervisors.vsphere.api import Managed, vim
from forkyard.wire import Identity

_CONNECT = vim.vm.device.VirtualDevice.ConnectInfo


@dataclass(frozen=True, slots=True)
class Location:
    """Where a child's files, shares and name go; None: where the parent's are."""

    folder: Managed
    pool: Managed = None
    datastore: Managed = None
    portgroup: Managed = None
    """Backing of the network adapters; None: the parent's own."""


def list_adapters(devices: Iterable[Managed]) -> list[Managed]:
    """The network adapters among a VM's devices, in their order."""
    return [device for device in devices if isinstance(device, vim.vm.device.VirtualEthernetCard)]


def count_disk_levels(devices: Iterable[Managed]) -> int:
    """How many files the longest chain of a VM's disks has; vSphere stops at 255."""
    longest = 0
    for device in devices:
        if isinstance(device, vim.vm.device.VirtualDisk):
            levels, backing = 0, device.backing
            while backing is not None:
                levels, backing = levels + 1, getattr(backing, "parent", None)
            longest = max(longest, levels)
    return longest


def make_options(values: Mapping[str, str]) -> list[Managed]:
    """Extra configuration; an empty value removes a key."""
    return [vim.option.OptionValue(key=key, value=value) for key, value in values.items()]


def make_clone_spec(
    name: str, bios_uuid: str, values: Mapping[str, str], adapters: Iterable[Managed], location: Location
) -> Managed:
    """An Instant Clone that starts without network and carries *values* from its first moment."""
    changes = [
        _edit(adapter, _CONNECT(**_DISCONNECTED), location.portgroup or _backing_like(adapter.backing))
        for adapter in adapters
    ]
    place = vim.vm.RelocateSpec(
        folder=location.folder, pool=location.pool, datastore=location.datastore, deviceChange=changes
    )
    return vim.vm.InstantCloneSpec(name=name, biosUuid=bios_uuid, config=make_options(values), location=place)


def make_change(
    values: Mapping[str, str],
    *,
    adapters: Iterable[Managed] = (),
    connected: bool = False,
    annotation: str | None = None,
) -> Managed:
    """A change of a running VM: its values, the state of the cables of its own *adapters*, its note for people."""
    connect = _CONNECT(connected=connected, startConnected=connected, allowGuestControl=False)
    return vim.vm.ConfigSpec(
        extraConfig=make_options(values),
        deviceChange=[_rewire(adapter, connect) for adapter in adapters],
        annotation=annotation,
    )


def make_customization(identity: Identity) -> Managed:
    """Host name and address for vSphere's guest customization of Linux; its first adapter is the one that serves."""
    kinds = vim.vm.customization
    interface = IPv4Interface(identity.address)
    card = kinds.IPSettings(
        ip=kinds.FixedIp(ipAddress=str(interface.ip)),
        subnetMask=str(interface.netmask),
        gateway=[identity.gateway] if identity.gateway else [],
    )
    return kinds.Specification(
        identity=kinds.LinuxPrep(hostName=kinds.FixedName(name=identity.name), domain="", hwClockUTC=True),
        globalIPSettings=kinds.GlobalIPSettings(),
        nicSettingMap=[kinds.AdapterMapping(macAddress=identity.mac, adapter=card)],
    )


_DISCONNECTED = {
    "migrateConnect": "disconnect",
    "connected": False,
    "startConnected": False,
    # Or a guest could plug itself in.
    "allowGuestControl": False,
}


def _backing_like(backing: Managed) -> Managed:
    """The same network. On a distributed switch without the port: the parent stands in that one."""
    if not isinstance(backing, vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo):
        return backing
    port = vim.dvs.PortConnection(portgroupKey=backing.port.portgroupKey, switchUuid=backing.port.switchUuid)
    return type(backing)(port=port)


def _edit(adapter: Managed, connect: Managed, backing: Managed) -> Managed:
    # Of the parent's adapter only the key: above all not its MAC.
    device = type(adapter)(key=adapter.key, backing=backing, connectable=connect)
    return vim.vm.device.VirtualDeviceSpec(operation="edit", device=device)


def _rewire(adapter: Managed, connect: Managed) -> Managed:
    # As it is, MAC and network and all: what a change leaves unsaid, vCenter may choose anew.
    device = copy.copy(adapter)
    device.connectable = connect
    return vim.vm.device.VirtualDeviceSpec(operation="edit", device=device)
