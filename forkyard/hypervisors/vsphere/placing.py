"""
How much room there is for children, per parent. Pure.

What a parent has for itself (its disk's chain) bounds it alone; what several share (a host's memory, a datastore's
room, the addresses) is dealt out evenly, so that the sum of all rooms is never more than there is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from forkyard.hypervisors.vsphere.inventory import DatastoreRow, HostRow, Inventory, ParentRow
from forkyard.model import Placement, VmId
from forkyard.settings import VsphereSettings

MOST_LEVELS = 255
"""Files in the chain of one disk; vSphere refuses the next."""
_SPARE_LEVELS = 16
"""Levels of a running parent's disk that are left to others: snapshots of a backup, for instance."""
_BUSY = 0.95
"""Part of a host's processor time in use from which no child is put on it."""
_PLENTY = 1 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """How many children fit, and what bounds them."""

    number: int
    limited_by: str


def make_placements(
    parents: Sequence[ParentRow],
    inventory: Inventory,
    settings: VsphereSettings,
    *,
    addresses: Room,
    datastore: str | None = None,
    disk_levels: Mapping[str, int] = MappingProxyType({}),
) -> list[Placement]:
    """
    A placement for each parent that can be forked now, the roomiest first; those without room at the end.

    *datastore* is the id of the one that takes all children; without it each goes where its parent is. *disk_levels*
    are those of the parents that run, by their ids.
    """
    usable = [parent for parent in parents if _can_fork(parent, inventory, settings)]
    stores = {parent.id: choose_datastore(parent, inventory.datastores, datastore) for parent in usable}
    rooms = _deal_out(usable, stores, inventory, settings, addresses)
    for parent in usable:
        if datastore is not None and stores[parent.id] is None:
            rooms[parent.id].append(Room(0, "vsphere.datastore"))
        if not parent.frozen:
            left = MOST_LEVELS - _SPARE_LEVELS - disk_levels.get(parent.id, 0)
            rooms[parent.id].append(Room(max(0, left), "disk chain of a running parent"))
    found = [
        Placement(
            parent=VmId(parent.id),
            host=inventory.host_name(parent.host),
            datastore=store.name if (store := stores[parent.id]) is not None else "",
            network=settings.portgroup or "the parent's own",
            room=room.number,
            limited_by=room.limited_by,
            at_once=settings.forks_per_parent,
        )
        for parent in usable
        for room in [min(rooms[parent.id], key=lambda one: one.number)]
    ]
    return sorted(found, key=lambda place: (-place.room, place.host))


def choose_datastore(
    parent: ParentRow, datastores: Mapping[str, DatastoreRow], chosen: str | None
) -> DatastoreRow | None:
    """Where the parent's children go: the one that was chosen for all, or the parent's own; None: it cannot be seen."""
    wanted = parent.datastores if chosen is None else (chosen,)
    return next((datastores[store] for store in wanted if store in datastores), None)


def _own_rooms(host: HostRow) -> list[Room]:
    """What bounds the parents on a host, each by itself."""
    busy = host.cpu_mhz and host.cpu_used >= _BUSY * host.cpu_mhz
    return [Room(0, "cpu")] if busy else []


def _count_in_memory(parents: Iterable[ParentRow], host: HostRow, settings: VsphereSettings) -> int:
    """Children that the host's memory still takes, each as large as one of the largest of its parents."""
    free = host.memory_bytes * (1 - settings.memory_reserve) - host.memory_used
    each = max(parent.memory_bytes for parent in parents) * settings.memory_share
    return max(0, int(free / each)) if each else _PLENTY


def _count_on_disk(store: DatastoreRow, settings: VsphereSettings) -> Room:
    """Children that the datastore still takes."""
    if store.ill is not None:
        return Room(0, f"vSAN health: {store.ill}" if store.ill else "vSAN health")
    free = store.free - store.capacity * settings.datastore_reserve
    fit = int(free / settings.child_disk) if settings.child_disk else _PLENTY
    return Room(max(0, fit) if store.usable else 0, f"datastore{' (its alarm is red)' if store.alarm else ''}")


def _can_fork(parent: ParentRow, inventory: Inventory, settings: VsphereSettings) -> bool:
    host = inventory.hosts.get(parent.host or "")
    ready = parent.frozen or settings.fork_running_parents
    return parent.powered_on and ready and host is not None and host.usable


def _deal_out(
    parents: Sequence[ParentRow],
    stores: Mapping[str, DatastoreRow | None],
    inventory: Inventory,
    settings: VsphereSettings,
    addresses: Room,
) -> dict[str, list[Room]]:
    everybody = [parent.id for parent in parents]
    rooms = {parent.id: _own_rooms(inventory.hosts[parent.host or ""]) for parent in parents}
    for host in {parent.host or "": inventory.hosts[parent.host or ""] for parent in parents}.values():
        users = [parent for parent in parents if parent.host == host.id]
        _share(rooms, [parent.id for parent in users], _count_in_memory(users, host, settings), "memory")
    _share(rooms, everybody, addresses.number, addresses.limited_by)
    for store in {store.id: store for store in stores.values() if store is not None}.values():
        there = [parent for parent in everybody if (own := stores[parent]) is not None and own.id == store.id]
        room = _count_on_disk(store, settings)
        _share(rooms, there, room.number, room.limited_by)
    return rooms


def _share(rooms: Mapping[str, list[Room]], users: Sequence[str], number: int, name: str) -> None:
    for index, user in enumerate(users):
        rooms[user].append(Room(number // len(users) + (index < number % len(users)), name))
