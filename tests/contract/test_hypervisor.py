"""What every hypervisor promises: QEMU with real small VMs, vSphere with a vCenter to test against, and the fake."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from forkyard.errors import CapacityExhausted, NotFound, PermanentError, TransientError, VerificationFailed
from forkyard.fake_world import FakeWorld
from forkyard.hypervisors import Hypervisor
from forkyard.hypervisors.fake import FakeHypervisor
from forkyard.model import ForkSpec, Power, Role, Stamp, Vm, VmId
from forkyard.waiting import wait_for
from forkyard.wire import POINTS
from tests.support import small_vm
from tests.support.small_vm import PATIENCE, SmallWorld, make_identity, make_stamp
from tests.support.vsphere import VsphereWorld

SERVICE = "game"


@dataclass(frozen=True, slots=True)
class Stage:
    """A hypervisor with one frozen parent, and the ways to break it."""

    hypervisor: Hypervisor
    parent: VmId
    kill: Callable[[Vm], None]
    full: Callable[[], Hypervisor]
    """The same hypervisor with no room left."""

    def spec(self, name: str, stamp: Stamp | None = None) -> ForkSpec:
        """Ask for a child at the best placement."""
        return ForkSpec(name, stamp or make_stamp(), self.hypervisor.placements(SERVICE)[0])

    def fork(self, name: str, stamp: Stamp | None = None) -> Vm:
        """Fork a child."""
        return self.hypervisor.fork(self.spec(name, stamp), timeout=PATIENCE)


@pytest.fixture(params=["fake", "qemu", "vsphere"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Give each hypervisor in turn; nothing of it remains."""
    if request.param == "fake":
        yield _fake_stage()
        return
    if request.param == "vsphere":
        yield from _vsphere_stage(request.getfixturevalue("vsphere_yard"))
        return
    world: SmallWorld = request.getfixturevalue("small_parent")
    full = world.under(replace(world.settings.qemu, memory_reserve=1 << 50))
    yield Stage(world.open(), small_vm.PARENT, small_vm.kill, full.open)
    world.clear()
    assert world.processes() == []
    assert world.devices() == {}
    assert world.files() == []


def _vsphere_stage(world: VsphereWorld) -> Iterator[Stage]:
    hypervisor = world.open()

    def full() -> Hypervisor:
        # A range of addresses that ends before it begins.
        return world.open(first_address=world.settings.vsphere.network.broadcast_address)

    yield Stage(hypervisor, hypervisor.list_parents(SERVICE)[0].id, world.kill, full)
    world.clear()
    assert world.children() == []


def _fake_stage() -> Stage:
    world = FakeWorld()
    parent = world.add_parent("game")

    def full() -> Hypervisor:
        world.capacity = len(world.vms)
        return FakeHypervisor(world)

    return Stage(FakeHypervisor(world), parent, lambda vm: world.kill(vm.name), full)


def test_a_fork_runs_with_its_stamp_an_address_and_no_identity(stage: Stage) -> None:
    stamp = make_stamp()
    vm = stage.fork("game-a-1", stamp)
    assert (vm.name, vm.role, vm.power, vm.stamp) == ("game-a-1", Role.CHILD, Power.RUNNING, stamp)
    assert vm.parent == stage.parent
    assert vm.address
    assert vm.mac
    assert not vm.identified


def test_the_same_fork_again_gives_the_child_that_is_there(stage: Stage) -> None:
    first = stage.fork("game-a-1", make_stamp("one"))
    again = stage.fork("game-a-1", make_stamp("one"))
    assert (again.id, again.pid, again.address, again.mac) == (first.id, first.pid, first.address, first.mac)
    assert len(stage.hypervisor.list_vms(SERVICE)) == 1


def test_a_name_of_another_fork_is_refused(stage: Stage) -> None:
    first = stage.fork("game-a-1", make_stamp("one"))
    with pytest.raises(PermanentError):
        stage.fork("game-a-1", make_stamp("two"))
    assert [(vm.id, vm.pid) for vm in stage.hypervisor.list_vms(SERVICE)] == [(first.id, first.pid)]


def test_children_are_listed_by_name_and_service(stage: Stage) -> None:
    for name in ("game-b-1", "game-a-1"):
        stage.fork(name)
    assert [vm.name for vm in stage.hypervisor.list_vms(SERVICE)] == ["game-a-1", "game-b-1"]
    assert [vm.name for vm in stage.hypervisor.list_vms()] == ["game-a-1", "game-b-1"]
    assert stage.hypervisor.list_vms("shop") == []


def test_forks_at_the_same_time_share_nothing(stage: Stage) -> None:
    names = [f"game-a-{number}" for number in range(6)]
    with ThreadPoolExecutor(max_workers=6) as pool:
        vms = list(pool.map(stage.fork, names))
    for values in ({vm.address for vm in vms}, {vm.mac for vm in vms}, {(vm.id, vm.pid) for vm in vms}):
        assert len(values) == len(names)
    assert stage.hypervisor.list_parents(SERVICE)[0].children == len(names)


def test_the_same_fork_at_the_same_time_makes_one_child(stage: Stage) -> None:
    spec = stage.spec("game-a-1")
    with ThreadPoolExecutor(max_workers=4) as pool:
        vms = list(pool.map(lambda _: stage.hypervisor.fork(spec, timeout=PATIENCE), range(4)))
    assert len({(vm.id, vm.pid) for vm in vms}) == 1


def test_a_child_proves_every_identity_point(stage: Stage) -> None:
    vm = stage.fork("game-a-1")
    report = stage.hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert report.proved
    assert report.fork_id == vm.stamp.fork_id
    assert {point.point for point in report.points} == set(POINTS)
    assert [seen.identified for seen in stage.hypervisor.list_vms(SERVICE)] == [True]


def test_identities_differ_where_they_must(stage: Stage) -> None:
    found: dict[str, set[str]] = {}
    for number in range(3):
        vm = stage.fork(f"game-a-{number}")
        report = stage.hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
        for point in report.points:
            found.setdefault(point.point, set()).add(point.value)
    assert all(len(found[point]) == 3 for point in ("mac", "address", "hostname", "fork_uuid"))


def test_an_identity_can_be_given_again(stage: Stage) -> None:
    vm = stage.fork("game-a-1")
    identity = make_identity(vm)
    stage.hypervisor.identify(vm.id, identity, timeout=PATIENCE)
    assert stage.hypervisor.identify(vm.id, identity, timeout=PATIENCE).proved


def test_an_identity_that_is_not_the_childs_own_is_refused(stage: Stage) -> None:
    vm = stage.fork("game-a-1")
    right = make_identity(vm)
    for wrong in (
        replace(right, mac="52:54:00:00:00:99"),
        replace(right, address="10.77.3.99/22"),
        replace(right, fork_id="another"),
        replace(right, name="another"),
    ):
        with pytest.raises(VerificationFailed):
            stage.hypervisor.identify(vm.id, wrong, timeout=PATIENCE)
    assert [seen.identified for seen in stage.hypervisor.list_vms(SERVICE)] == [False]


def test_a_child_that_dies_is_seen_and_leaves_nothing_when_destroyed(stage: Stage) -> None:
    vm = stage.fork("game-a-1")
    stage.kill(vm)
    dead = wait_for(
        lambda: next((seen for seen in stage.hypervisor.list_vms() if seen.power is Power.DEAD), None),
        what="the child's death to be seen",
        timeout=timedelta(seconds=5),
    )
    assert dead.name == vm.name
    with pytest.raises(TransientError):
        stage.hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    stage.hypervisor.destroy(vm.id, timeout=PATIENCE)
    assert stage.hypervisor.list_vms() == []


def test_destroying_twice_is_success(stage: Stage) -> None:
    vm = stage.fork("game-a-1")
    for _ in range(2):
        stage.hypervisor.destroy(vm.id, timeout=PATIENCE)
    assert stage.hypervisor.list_vms() == []
    stage.hypervisor.destroy(VmId("never-there"), timeout=PATIENCE)


def test_a_stamp_is_renewed_and_keeps_its_fork(stage: Stage) -> None:
    vm = stage.fork("game-a-1")
    kept = stage.hypervisor.restamp(vm.id, replace(vm.stamp, expires=None))
    assert kept.stamp.expires is None
    assert stage.hypervisor.list_vms()[0].stamp == kept.stamp
    later = replace(vm.stamp, expires=datetime(2030, 1, 1, tzinfo=UTC))
    assert stage.hypervisor.restamp(vm.id, later).stamp == later
    with pytest.raises(PermanentError):
        stage.hypervisor.restamp(vm.id, replace(vm.stamp, fork_id="another"))


def test_a_frozen_parent_is_returned_as_it_is(stage: Stage) -> None:
    first, again = (stage.hypervisor.freeze(stage.parent, timeout=PATIENCE) for _ in range(2))
    assert first == again == stage.hypervisor.list_parents(SERVICE)[0]
    assert stage.hypervisor.list_parents("shop") == []


def test_a_parent_that_is_not_there_is_not_found(stage: Stage) -> None:
    with pytest.raises(NotFound):
        stage.hypervisor.freeze(VmId("nobody"), timeout=PATIENCE)
    placement = replace(stage.hypervisor.placements(SERVICE)[0], parent=VmId("nobody"))
    with pytest.raises(NotFound):
        stage.hypervisor.fork(ForkSpec("game-a-1", make_stamp(), placement), timeout=PATIENCE)
    assert stage.hypervisor.list_vms() == []


def test_a_child_that_is_not_there_is_not_found(stage: Stage) -> None:
    vm = stage.fork("game-a-1")
    stage.hypervisor.destroy(vm.id, timeout=PATIENCE)
    with pytest.raises(NotFound):
        stage.hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    with pytest.raises(NotFound):
        stage.hypervisor.restamp(vm.id, vm.stamp)


def test_a_placement_tells_its_room_and_what_bounds_it(stage: Stage) -> None:
    placement = stage.hypervisor.placements(SERVICE)[0]
    assert placement.room > 0
    assert placement.limited_by
    assert stage.hypervisor.placements("shop") == []


def test_without_room_a_fork_is_refused_and_nothing_is_made(stage: Stage) -> None:
    spec = stage.spec("game-a-1")
    full = stage.full()
    assert full.placements(SERVICE)[0].room == 0
    with pytest.raises(CapacityExhausted):
        full.fork(spec, timeout=PATIENCE)
    assert stage.hypervisor.list_vms() == []
