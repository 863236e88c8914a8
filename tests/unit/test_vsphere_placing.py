"""Room for children on the hosts of a cluster: what bounds it, and that shared room is given away once."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from forkyard.errors import InvalidRequest
from forkyard.hypervisors.vsphere.api import vim
from forkyard.hypervisors.vsphere.inventory import DatastoreRow, HostRow, Inventory, ParentRow
from forkyard.hypervisors.vsphere.parents import Rule, parse_rule
from forkyard.hypervisors.vsphere.placing import Room, make_placements
from forkyard.hypervisors.vsphere.specs import count_disk_levels
from forkyard.hypervisors.vsphere.vsan import list_vsan_clusters
from forkyard.settings import VsphereSettings

GIB = 1 << 30
SETTINGS = VsphereSettings(url="https://vc/sdk", memory_share=0.5, memory_reserve=0.0, child_disk=GIB)


def make_host(number: int) -> HostRow:
    return HostRow(f"host-{number}", f"esx{number}", True, 64 * GIB, 0, 10_000, 0)  # noqa: FBT003 - usable


def make_parent(number: int) -> ParentRow:
    return ParentRow(
        id=f"vm-{number}",
        name=f"game-parent-esx{number}",
        powered_on=True,
        frozen=True,
        host=f"host-{number}",
        uuid=str(number),
        created=datetime(2026, 1, 1, tzinfo=UTC),
        memory_bytes=2 * GIB,
        folder=None,
        pool=None,
        datastores=("store-1",),
        request="",
    )


def make_inventory(hosts: int, *, free: int = 10_000 * GIB, usable: bool = True) -> Inventory:
    store = DatastoreRow("store-1", "vsan", 0, free, usable)
    return Inventory((), {f"host-{n}": make_host(n) for n in range(hosts)}, {"store-1": store})


def rooms(inventory: Inventory, parents: list[ParentRow], *, addresses: int = 100_000) -> list[tuple[str, int, str]]:
    found = make_placements(parents, inventory, SETTINGS, addresses=Room(addresses, "addresses"))
    return [(place.host, place.room, place.limited_by) for place in found]


def test_a_host_takes_as_many_as_its_memory_holds() -> None:
    assert rooms(make_inventory(1), [make_parent(0)]) == [("esx0", 64, "memory")]


def test_the_roomiest_host_comes_first() -> None:
    inventory = make_inventory(2)
    busy = replace(inventory.hosts["host-0"], memory_used=32 * GIB)
    inventory = replace(inventory, hosts={**inventory.hosts, "host-0": busy})
    assert rooms(inventory, [make_parent(0), make_parent(1)]) == [("esx1", 64, "memory"), ("esx0", 32, "memory")]


def test_two_parents_on_a_host_share_its_memory() -> None:
    parents = [make_parent(0), replace(make_parent(1), host="host-0")]
    assert rooms(make_inventory(1), parents) == [("esx0", 32, "memory"), ("esx0", 32, "memory")]


def test_parents_of_several_sizes_on_a_host_are_never_given_more_than_there_is() -> None:
    large = replace(make_parent(1), host="host-0", memory_bytes=8 * GIB)
    found = rooms(make_inventory(1), [make_parent(0), large])
    assert [room for _, room, _ in found] == [8, 8]


def test_a_shared_datastore_is_given_away_once() -> None:
    found = rooms(make_inventory(3, free=10 * GIB), [make_parent(n) for n in range(3)])
    assert sum(room for _, room, _ in found) == 10
    assert {limit for _, _, limit in found} == {"datastore"}
    assert max(room for _, room, _ in found) - min(room for _, room, _ in found) <= 1


def test_an_alarm_takes_no_room_and_is_named() -> None:
    inventory = make_inventory(1, free=5 * GIB)
    stores = {key: replace(store, alarm=True) for key, store in inventory.datastores.items()}
    well, alarmed = (rooms(one, [make_parent(0)]) for one in (inventory, replace(inventory, datastores=stores)))
    assert [(host, room) for host, room, _ in alarmed] == [(host, room) for host, room, _ in well]
    assert [limit for *_, limit in alarmed] == ["datastore (its alarm is red)"]


def test_addresses_are_given_away_once() -> None:
    found = rooms(make_inventory(3), [make_parent(n) for n in range(3)], addresses=4)
    assert sorted(room for _, room, _ in found) == [1, 1, 2]
    assert {limit for _, _, limit in found} == {"addresses"}


def test_a_datastore_that_is_not_well_takes_nothing() -> None:
    assert rooms(make_inventory(1, usable=False), [make_parent(0)]) == [("esx0", 0, "datastore")]


@pytest.mark.parametrize(
    ("words", "limit"), [("2 objects lost a replica", "vSAN health: 2 objects lost a replica"), ("", "vSAN health")]
)
def test_a_datastore_whose_vsan_health_is_red_takes_nothing_and_says_why(words: str, limit: str) -> None:
    inventory = make_inventory(1)
    ill = replace(inventory.datastores["store-1"], vsan=True, ill=words)
    assert rooms(replace(inventory, datastores={"store-1": ill}), [make_parent(0)]) == [("esx0", 0, limit)]


def test_another_datastore_takes_children_while_one_is_ill() -> None:
    inventory = make_inventory(2)
    well = inventory.datastores["store-1"]
    stores = {"store-1": well, "store-2": replace(well, id="store-2", vsan=True, ill="red")}
    parents = [make_parent(0), replace(make_parent(1), datastores=("store-2",))]
    found = rooms(replace(inventory, datastores=stores), parents)
    assert found == [("esx0", 64, "memory"), ("esx1", 0, "vSAN health: red")]


def test_only_the_clusters_that_put_children_on_vsan_are_asked_for_its_health() -> None:
    inventory = make_inventory(4)
    homes = {"host-0": "domain-1", "host-1": "domain-1", "host-2": "domain-2", "host-3": None}
    hosts = {name: replace(inventory.hosts[name], cluster=cluster) for name, cluster in homes.items()}
    local = inventory.datastores["store-1"]
    stores = {"store-1": local, "store-2": replace(local, id="store-2", vsan=True)}
    inventory = replace(inventory, hosts=hosts, datastores=stores)
    parents = [replace(make_parent(n), datastores=("store-1" if n == 2 else "store-2",)) for n in range(4)]
    assert list_vsan_clusters(inventory, parents, None) == {"store-2": ["domain-1"]}
    assert list_vsan_clusters(inventory, parents, "store-2") == {"store-2": ["domain-1", "domain-2"]}
    assert list_vsan_clusters(inventory, parents, "store-1") == {}


def test_what_is_chosen_for_all_is_taken_by_its_id_whatever_else_has_its_name() -> None:
    inventory = make_inventory(1)
    twin = DatastoreRow("store-2", "vsan", 0, 5 * GIB, True)  # noqa: FBT003 - usable
    inventory = replace(inventory, datastores={**inventory.datastores, "store-2": twin})
    (place,) = make_placements(
        [make_parent(0)], inventory, SETTINGS, addresses=Room(1000, "addresses"), datastore="store-2"
    )
    assert (place.room, place.limited_by) == (5, "datastore")


def test_a_host_in_maintenance_and_a_parent_that_is_not_frozen_give_no_placement() -> None:
    inventory = make_inventory(2)
    away = replace(inventory.hosts["host-0"], usable=False)
    inventory = replace(inventory, hosts={**inventory.hosts, "host-0": away})
    assert rooms(inventory, [make_parent(0), replace(make_parent(1), frozen=False)]) == []


def test_a_busy_host_takes_nothing() -> None:
    inventory = make_inventory(1)
    busy = replace(inventory.hosts["host-0"], cpu_used=9_900)
    assert rooms(replace(inventory, hosts={"host-0": busy}), [make_parent(0)]) == [("esx0", 0, "cpu")]


def test_a_running_parent_is_bounded_by_its_disks_chain() -> None:
    parent = replace(make_parent(0), frozen=False)
    settings = replace(SETTINGS, fork_running_parents=True)
    (place,) = make_placements(
        [parent], make_inventory(1), settings, addresses=Room(1000, "addresses"), disk_levels={parent.id: 230}
    )
    assert (place.room, place.limited_by) == (9, "disk chain of a running parent")


def test_the_levels_of_a_disk_are_its_backings() -> None:
    backing = None
    for _ in range(7):
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="[vsan] a.vmdk", parent=backing)
    disks = [vim.vm.device.VirtualDisk(key=2000, backing=backing), vim.vm.device.VirtualVmxnet3(key=4000)]
    assert count_disk_levels(disks) == 7


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("game-parent-*", Rule("name", "game-parent-*")),
        ("folder:/dc/vm/parents", Rule("folder", "/dc/vm/parents")),
        ("attribute:forkyard=game", Rule("attribute", "forkyard", "game")),
    ],
)
def test_a_rule_is_read(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize("text", ["folder:", "attribute:forkyard", "tag:game"])
def test_a_rule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="attribute:NAME=VALUE"):
        parse_rule(text)
