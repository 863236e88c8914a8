"""The pure half of the QEMU driver: command lines, differences, room and addresses."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkyard.hypervisors.qemu.capacity import DISK_PER_CHILD, HostFacts, compute_room, expected_memory
from forkyard.hypervisors.qemu.machine import Boot, Machine, Wiring, differences, machine_type, render_command
from forkyard.hypervisors.qemu.network import choose_address, count_addresses, make_mac
from forkyard.settings import QemuSettings

MACHINE = Machine("7.2.22", "pc-q35-7.2", "max", "tcg", "", 768)
SETTINGS = QemuSettings(network=IPv4Network("10.77.0.0/29"), first_address=IPv4Address("10.77.0.2"))
GIB = 1 << 30


def _wiring(*, parent: bool) -> Wiring:
    return Wiring(
        process_name="forkyard-0123456789",
        pid_file=Path("/run/f/q/1/qemu.pid"),
        tap="fy0123456789",
        memory=Path("/parents/game/memory"),
        share=parent,
        disks=(Path("/vms/a,b/disk.qcow2"), Path("/parents/game/disk.qcow2")),
        qmp=3,
        agent=4,
        serial=Path("/run/f,1/serial") if parent else None,
        boot=Boot(Path("/vmlinuz"), Path("/initrd"), "console=ttyS0") if parent else None,
    )


def _devices(command: list[str]) -> list[str]:
    return [word for option, word in pairwise(command) if option == "-device"]


def test_parent_and_child_have_the_same_devices_in_the_same_order() -> None:
    parent, child = (render_command(MACHINE, _wiring(parent=parent)) for parent in (True, False))
    assert _devices(parent) == _devices(child)


def test_only_a_parent_writes_to_the_memory_and_only_a_child_waits_for_state() -> None:
    parent, child = (render_command(MACHINE, _wiring(parent=parent)) for parent in (True, False))
    assert any('"share": true' in word for word in parent)
    assert any('"share": false' in word for word in child)
    assert ("-incoming" in parent, "-incoming" in child) == (False, True)
    assert ("-kernel" in parent, "-kernel" in child) == (True, False)


def test_a_comma_in_a_path_stays_part_of_the_path() -> None:
    command = render_command(MACHINE, _wiring(parent=True))
    assert "file,id=serial,path=/run/f,,1/serial" in command
    assert any('"/vms/a,b/disk.qcow2"' in word for word in command)


def test_the_machine_type_is_the_releases_own() -> None:
    assert machine_type("7.2.22") == "pc-q35-7.2"
    assert machine_type("10.0.3") == "pc-q35-10.0"


def test_the_same_host_has_no_differences() -> None:
    assert differences(MACHINE, MACHINE) == ()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (replace(MACHINE, qemu="9.0.0"), "QEMU"),
        (replace(MACHINE, type="pc-q35-9.0"), "machine type"),
        (replace(MACHINE, cpu="host"), "CPU model"),
        (replace(MACHINE, accelerator="kvm"), "accelerator"),
        (replace(MACHINE, host_cpu="Another"), "processor"),
    ],
)
def test_every_difference_is_told_with_both_values(changed: Machine, named: str) -> None:
    (why,) = differences(MACHINE, changed)
    assert named in why


def test_room_is_what_the_scarcest_allows() -> None:
    child = expected_memory(SETTINGS, GIB)
    facts = HostFacts(SETTINGS.memory_reserve + 5 * child, 0, 9 * DISK_PER_CHILD, 0, 7, 3, 2)
    assert compute_room(SETTINGS, facts, GIB) == (5, "memory")
    assert compute_room(SETTINGS, replace(facts, disk_free=2 * DISK_PER_CHILD), GIB) == (2, "disk")
    assert compute_room(SETTINGS, replace(facts, addresses_free=1), GIB) == (1, "addresses")
    few = replace(SETTINGS, children_per_processor=3)
    assert compute_room(few, facts, GIB) == (3, "processors")
    assert compute_room(few, replace(facts, children=7), GIB) == (0, "processors")


def test_by_default_two_processors_have_room_for_the_hundred_small_vms_of_the_bench() -> None:
    plenty = HostFacts(999 * GIB, 0, 999 * GIB, 0, 999, children=0, processors=2)
    room, limit = compute_room(SETTINGS, plenty, GIB)
    assert limit == "processors"
    assert room > 100


def test_what_is_promised_to_living_children_is_not_given_twice() -> None:
    child = expected_memory(SETTINGS, GIB)
    facts = HostFacts(SETTINGS.memory_reserve + 5 * child, 4 * child, 99 * DISK_PER_CHILD, 0, 99, 4, 2)
    assert compute_room(SETTINGS, facts, GIB) == (1, "memory")


@given(st.integers(-GIB, 8 * GIB), st.integers(0, GIB), st.integers(-9, 9), st.integers(0, 999))
def test_room_is_never_negative(memory: int, promised: int, addresses: int, children: int) -> None:
    room, limit = compute_room(SETTINGS, HostFacts(memory, promised, GIB, 0, addresses, children, 2), GIB)
    assert room >= 0
    assert limit in {"memory", "disk", "addresses", "processors"}


def test_addresses_go_round_before_one_comes_again() -> None:
    assert count_addresses(SETTINGS) == 5
    assert choose_address(SETTINGS, [], None) == "10.77.0.2"
    assert choose_address(SETTINGS, [], "10.77.0.2") == "10.77.0.3"
    assert choose_address(SETTINGS, ["10.77.0.2"], "10.77.0.6") == "10.77.0.3"
    assert choose_address(SETTINGS, [f"10.77.0.{n}" for n in range(2, 7)], None) is None


def test_the_gateway_is_no_childs_address() -> None:
    settings = replace(SETTINGS, gateway=IPv4Address("10.77.0.2"))
    assert count_addresses(settings) == 4
    assert choose_address(settings, [], None) == "10.77.0.3"


def test_an_address_of_a_range_of_millions_is_chosen_at_once() -> None:
    settings = replace(SETTINGS, network=IPv4Network("10.0.0.0/8"), first_address=IPv4Address("10.0.0.2"))
    assert count_addresses(settings) == (1 << 24) - 3
    assert choose_address(settings, ["10.128.0.1", "10.128.0.2"], "10.128.0.0") == "10.128.0.3"
    assert choose_address(settings, ["10.0.0.2"], "10.255.255.254") == "10.0.0.3"
    assert choose_address(settings, [], "10.0.0.1") == "10.0.0.2"


def test_a_mac_is_local_unicast_and_follows_from_the_address() -> None:
    assert make_mac("10.77.1.5") == "52:54:0a:4d:01:05"
