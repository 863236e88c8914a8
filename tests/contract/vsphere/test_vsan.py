"""vSAN's own health: its red takes the room away and says why, and whatever is not red or not known takes nothing."""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from forkyard.hypervisors.vsphere import vsan
from forkyard.hypervisors.vsphere.driver import VsphereHypervisor
from tests.support.vsphere import VsphereWorld

SERVICE = "game"
ASKING = "VsanQueryVcClusterHealthSummary"


@pytest.fixture
def world(vsphere_yard: VsphereWorld) -> Iterator[VsphereWorld]:
    """Give the vCenter as it was in the beginning, its calls not counted yet."""
    vsphere_yard.vcenter.calls(reset=True)
    yield vsphere_yard
    vsphere_yard.clear()


def limits(hypervisor: VsphereHypervisor) -> set[str]:
    """What bounds the placements that have no room."""
    return {place.limited_by for place in hypervisor.placements(SERVICE) if place.room == 0}


def asked(world: VsphereWorld) -> int:
    return world.vcenter.calls().get(ASKING, 0)


def test_red_gives_no_room_and_says_why(world: VsphereWorld) -> None:
    world.vcenter.set_datastore(vsan_health="red")
    places = world.open().placements(SERVICE)
    assert {place.host for place in places} == {f"esx-0{n}" for n in range(1, 5)}
    assert {(place.room, place.limited_by) for place in places} == {(0, "vSAN health: 2 objects have lost a replica")}


def test_red_does_not_count_when_the_settings_say_so(world: VsphereWorld) -> None:
    world.vcenter.set_datastore(vsan_health="red")
    assert limits(world.open(vsan_health=False)) == set()
    assert asked(world) == 0


@pytest.mark.parametrize("health", ["green", "yellow"])
def test_what_is_not_red_gives_room(world: VsphereWorld, health: str) -> None:
    world.vcenter.set_datastore(vsan_health=health)
    assert limits(world.open()) == set()
    assert asked(world) == 1


@pytest.mark.parametrize(("health", "said"), [("absent", "404"), ("garbled", "its answer cannot be read")])
def test_a_service_that_is_not_there_or_cannot_be_read_gives_room_and_the_log_says_so_once(
    world: VsphereWorld, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, health: str, said: str
) -> None:
    monkeypatch.setattr(vsan, "ASKED_EVERY", 0.0)
    world.vcenter.set_datastore(vsan_health=health)
    hypervisor = world.open()
    with caplog.at_level(logging.INFO, logger=vsan.__name__):
        assert [limits(hypervisor), limits(hypervisor)] == [set(), set()]
    assert [record.levelname for record in caplog.records if record.name == vsan.__name__] == ["INFO"]
    assert said in caplog.text


@pytest.mark.parametrize("fault", ["NoPermission", "NotAuthenticated", "NotSupported", "SystemError", "drop"])
def test_a_service_that_refuses_gives_room_and_costs_no_session(world: VsphereWorld, fault: str) -> None:
    world.vcenter.set_datastore(vsan_health="red")
    world.vcenter.fail(ASKING, fault, when="call")
    assert limits(world.open()) == set()
    assert (world.vcenter.struck(), world.vcenter.calls()["Login"]) == (1, 1)


def test_a_service_that_does_not_answer_is_not_waited_for(world: VsphereWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsan, "ANSWER_WITHIN", 0.5)
    world.vcenter.set_datastore(vsan_health="red")
    world.vcenter.delay(ASKING, call=3)
    hypervisor = world.open()
    hypervisor.list_vms()
    began = time.monotonic()
    assert limits(hypervisor) == set()
    assert time.monotonic() - began < 2


def test_it_is_asked_once_for_many_looks(world: VsphereWorld) -> None:
    hypervisor = world.open()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: limits(hypervisor), range(8))) == [set()] * 8
    assert limits(hypervisor) == set()
    assert (asked(world), hypervisor.session.calls[ASKING]) == (1, 1)


def test_a_health_that_turns_is_seen_with_the_next_question(
    world: VsphereWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypervisor = world.open()
    assert limits(hypervisor) == set()
    world.vcenter.set_datastore(vsan_health="red")
    assert limits(hypervisor) == set()
    monkeypatch.setattr(vsan, "ASKED_EVERY", 0.0)
    assert limits(hypervisor) == {"vSAN health: 2 objects have lost a replica"}
    world.vcenter.set_datastore(vsan_health="green")
    assert limits(hypervisor) == set()


def test_the_service_hears_only_those_whose_certificate_check_passed_and_who_are_logged_in(world: VsphereWorld) -> None:
    world.vcenter.set_datastore(vsan_health="red")
    by_authority = world.open(thumbprint="", ca_file=world.vcenter.door.certificate)
    assert limits(by_authority) == {"vSAN health: 2 objects have lost a replica"}
    pinned = world.open()
    pinned.list_vms()
    stub = pinned.session.stub_at("/vsanHealth", version="vsan.version.version3", timeout=5)
    stub.schemeArgs["pin"] = "ab" * 32
    assert limits(pinned) == set()
    assert asked(world) == 1
