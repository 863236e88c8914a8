"""The reaper finds what nobody owns, removes only that, and only on the second sighting."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from forkyard.balancer.fake import FakeBalancer
from forkyard.errors import CapacityExhausted, LeaseHeld, NotReady, Unavailable
from forkyard.fake_world import FakeWorld
from forkyard.holders import hold_lease, is_dead, make_holder
from forkyard.hypervisors.fake import FakeHypervisor
from forkyard.model import (
    ForkSpec,
    LeaseHolder,
    Phase,
    Power,
    Registration,
    Server,
    Stamp,
    Upstream,
    Vm,
    VmId,
)
from forkyard.reap import OrphanKind, ReapReport, find_orphans, reap
from forkyard.registry.fake import FakeRegistry
from forkyard.settings import ServiceSettings, Settings
from forkyard.world import World
from tests.support.fleets import NOW, a_child, a_fleet, a_registration, a_vm

SETTINGS = Settings(services={"game": ServiceSettings()})
SHORT = timedelta(milliseconds=20)


@pytest.fixture
def fake() -> FakeWorld:
    world = FakeWorld()
    world.add_parent("game")
    return world


@pytest.fixture
def world(fake: FakeWorld) -> World:
    return World(SETTINGS, "game", FakeHypervisor(fake), FakeRegistry(fake), FakeBalancer(fake))


def fork(world: World, fake: FakeWorld, name: str, *, kept: bool, registered: bool = True) -> Vm:
    """A child as a flow leaves it; in the upstream when it is registered, and passing when it is kept."""
    expires = None if kept else datetime.now(UTC) + timedelta(minutes=10)
    spec = ForkSpec(name, Stamp("game", f"fork-{name}", "a-request", expires), world.hypervisor.placements("game")[0])
    vm = world.hypervisor.fork(spec, timeout=timedelta(seconds=1))
    if registered:
        with fake.changed:
            vm = fake.vms[vm.id] = replace(vm, identified=True)
            fake.pass_after = timedelta(0) if kept else timedelta(hours=1)
            fake.agent_registers(vm)
        upstream = world.balancer.upstream("game")
        there = upstream.servers if upstream is not None else ()
        world.balancer.apply(Upstream("game", (*there, Server(name, vm.address or "", 8080))))
    return vm


def run(world: World, *, dry_run: bool = False) -> ReapReport:
    return reap(world, make_holder("a-reap", who="test", reason="reap"), interval=SHORT, wait=SHORT, dry_run=dry_run)


def kinds(report: ReapReport) -> dict[str, OrphanKind]:
    return {removal.orphan.name: removal.orphan.kind for removal in report.removals}


def test_a_healthy_fleet_is_left_alone(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=True)
    report = run(world)
    assert report.removals == ()
    assert report.clean
    assert len(fake.vms) == 1


def test_a_child_that_a_killed_run_left_behind_is_removed_with_all_its_traces(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=True)
    fork(world, fake, "game-aaaaaa-2", kept=False)
    report = run(world)
    assert kinds(report) == {"game-aaaaaa-2": OrphanKind.ABANDONED}
    assert report.clean
    assert list(fake.vms) == ["game-aaaaaa-1"]
    assert {entry.registration.node for entry in fake.entries.values()} == {"game-aaaaaa-1"}
    assert [server.name for server in fake.upstreams["game"].servers] == ["game-aaaaaa-1"]
    assert fake.draining == set()


def test_a_child_that_serves_players_is_left_for_the_next_request_although_its_own_was_killed(
    world: World, fake: FakeWorld
) -> None:
    vm = fork(world, fake, "game-aaaaaa-1", kept=True)
    for expires in (datetime.now(UTC) + timedelta(minutes=9), datetime.now(UTC) - timedelta(minutes=9)):
        with fake.changed:
            fake.vms[vm.id] = replace(fake.vms[vm.id], stamp=replace(vm.stamp, expires=expires))
        assert run(world).removals == ()
    assert [server.name for server in fake.upstreams["game"].servers] == ["game-aaaaaa-1"]


def test_what_a_dead_child_left_is_found_and_told_although_every_child_gives_its_entry_the_same_id(
    world: World, fake: FakeWorld
) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=True)
    for number in (7, 8, 9):
        fake.register(a_registration(f"game-aaaaaa-{number}"))
    assert {key[1] for key in fake.entries} == {"forkyard:game:8080"}
    fake.fail("deregister", Unavailable("away"), name="game-aaaaaa-[78]")
    report = run(world)
    assert {r.orphan.name: r.error for r in report.removals} == {
        "game-aaaaaa-7": "away",
        "game-aaaaaa-8": "away",
        "game-aaaaaa-9": None,
    }
    assert not report.clean


def test_the_mark_of_a_child_that_lost_its_entry_is_cleared_with_it(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=False, registered=False)
    fake.draining.add(("game", "game-aaaaaa-1"))
    assert run(world).clean
    assert fake.draining == set()


def test_a_child_leaves_nginx_before_it_is_destroyed_and_consul_afterwards(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=False)
    fake.calls.clear()
    run(world)
    order = [call for call, _ in fake.calls if call in {"set_draining", "apply", "destroy", "deregister"}]
    assert order == ["set_draining", "apply", "destroy", "deregister", "set_draining"]


def test_a_dead_member_is_removed(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=True)
    fake.kill("game-aaaaaa-1")
    assert kinds(run(world)) == {"game-aaaaaa-1": OrphanKind.DEAD}
    assert fake.vms == {}


def test_a_registration_without_a_vm_is_removed(world: World, fake: FakeWorld) -> None:
    fake.register(a_registration("game-aaaaaa-9"))
    assert kinds(run(world)) == {"game-aaaaaa-9": OrphanKind.STRAY}
    assert fake.entries == {}


def test_a_registration_whose_vm_may_only_be_out_of_sight_is_left_alone(world: World, fake: FakeWorld) -> None:
    class Blind(FakeHypervisor):
        def list_unseen(self) -> list[str]:
            return ["game-aaaaaa-8"]

    fake.register(a_registration("game-aaaaaa-8"))
    fake.register(a_registration("game-aaaaaa-9"))
    assert kinds(run(replace(world, hypervisor=Blind(fake)))) == {"game-aaaaaa-9": OrphanKind.STRAY}
    assert [node for node, _ in fake.entries] == ["game-aaaaaa-8"]


def test_what_a_person_registered_by_hand_is_not_touched(world: World, fake: FakeWorld) -> None:
    fake.register(Registration("by-hand", "game", "old-iron", "10.77.0.200", 80, "passing"))
    assert run(world).removals == ()
    assert list(fake.entries) == [("old-iron", "by-hand")]


def test_an_upstream_line_without_a_registration_is_removed(world: World, fake: FakeWorld) -> None:
    world.balancer.apply(Upstream("game", (Server("game-gone-1", "10.77.1.200", 80),)))
    assert kinds(run(world)) == {"game-gone-1": OrphanKind.DANGLING}
    assert fake.upstreams["game"].servers == ()


def test_what_appears_between_the_two_looks_is_left_alone(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=False)
    looks = FakeRegistry(fake)
    seen = 0

    class LateRegistry(FakeRegistry):
        def registrations(self, service: str) -> list[Registration]:
            nonlocal seen
            seen += 1
            if seen == 2:
                fork(world, fake, "game-aaaaaa-2", kept=False, registered=False)
            return looks.registrations(service)

    report = run(replace(world, registry=LateRegistry(fake)))
    assert kinds(report) == {"game-aaaaaa-1": OrphanKind.ABANDONED}
    assert [orphan.name for orphan in report.seen_once] == ["game-aaaaaa-2"]
    assert list(fake.vms) == ["game-aaaaaa-2"]


def test_a_dry_run_finds_and_removes_nothing(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=False)
    report = run(world, dry_run=True)
    assert kinds(report) == {"game-aaaaaa-1": OrphanKind.ABANDONED}
    assert not report.clean
    assert len(fake.vms) == 1


def test_a_service_that_somebody_living_works_on_is_not_touched(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=False)
    ada = make_holder("r", who="ada", reason="scale")
    with world.registry.lease("game", ada, wait=SHORT), pytest.raises(LeaseHeld, match="ada"):
        run(world)
    assert len(fake.vms) == 1


def test_the_lease_of_a_dead_process_is_broken(world: World, fake: FakeWorld) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    fake.holders["game"] = replace(make_holder("r", who="ada", reason="scale"), pid=ended.pid)
    fake.lost["game"] = threading.Event()
    fork(world, fake, "game-aaaaaa-1", kept=False)
    assert len(run(world).removals) == 1


def test_one_failure_does_not_keep_the_others_from_being_removed(world: World, fake: FakeWorld) -> None:
    for number in (1, 2, 3):
        fork(world, fake, f"game-aaaaaa-{number}", kept=False)
    fake.fail("destroy", Unavailable("no answer"), name="game-aaaaaa-2")
    report = run(world)
    assert not report.clean
    assert {r.orphan.name: r.error for r in report.removals if r.error} == {"game-aaaaaa-2": "no answer"}
    assert list(fake.vms) == ["game-aaaaaa-2"]


def test_a_balancer_that_cannot_be_written_does_not_keep_vms_from_being_removed(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=False)
    fake.fail("apply", CapacityExhausted("the disk is full"))
    report = run(world)
    assert [removal.error for removal in report.removals] == ["the disk is full"]
    assert fake.vms == {}


def test_a_balancer_that_can_be_written_once_room_was_made_leaves_nothing(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=False)
    fake.fail("apply", CapacityExhausted("the disk is full"), times=1)
    assert run(world).clean
    assert fake.upstreams["game"].servers == ()


def test_a_lease_lost_between_the_looks_removes_nothing(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=False)

    class LosingRegistry(FakeRegistry):
        @contextmanager
        def lease(self, service: str, holder: LeaseHolder, *, wait: timedelta) -> Iterator[object]:  # type: ignore[override]
            with super().lease(service, holder, wait=wait) as lease:
                lease.lost.set()
                yield lease

    with pytest.raises(NotReady, match="lease was lost"):
        run(replace(world, registry=LosingRegistry(fake)))  # type: ignore[arg-type]
    assert len(fake.vms) == 1


def test_without_the_lease_only_what_has_expired_or_died_is_an_orphan() -> None:
    fleet = a_fleet(
        a_child(a_vm("fresh", kept=False), Phase.FORKED),
        a_child(a_vm("old", kept=False, expires=NOW - timedelta(seconds=1)), Phase.FORKED),
        a_child(a_vm("dead", power=Power.DEAD), Phase.FAILED),
    )
    found = find_orphans(fleet, None, now=NOW, leased=False)
    assert {orphan.name: orphan.kind for orphan in found} == {"old": OrphanKind.EXPIRED, "dead": OrphanKind.DEAD}


def test_this_process_is_not_a_dead_holder() -> None:
    assert not is_dead(make_holder("r", who="me", reason="test"))


def test_a_holder_of_another_host_boot_or_container_is_never_called_dead() -> None:
    gone = replace(make_holder("r", who="ada", reason=""), pid=1 << 22)
    assert is_dead(gone)
    assert not is_dead(replace(gone, host="elsewhere"))
    boot, namespace, started = gone.process.split()
    assert not is_dead(replace(gone, process=f"another-boot {namespace} {started}"))
    assert not is_dead(replace(gone, process=f"{boot} 1 {started}"))
    assert not is_dead(replace(gone, process=""))


def test_a_pid_that_was_used_again_is_a_dead_holder() -> None:
    me = make_holder("r", who="ada", reason="")
    place, _, started = me.process.rpartition(" ")
    assert is_dead(replace(me, process=f"{place} {int(started) - 1}"))


def test_a_clock_that_was_set_makes_nobody_dead() -> None:
    me = make_holder("r", who="ada", reason="")
    assert not is_dead(replace(me, since=me.since - timedelta(days=1)))


def test_a_living_holders_lease_is_not_broken(fake: FakeWorld) -> None:
    registry = FakeRegistry(fake)
    ada, bob = (make_holder(who, who=who, reason="scale") for who in ("ada", "bob"))
    with (
        registry.lease("game", ada, wait=SHORT),
        pytest.raises(LeaseHeld),
        hold_lease(registry, "game", bob, wait=SHORT),
    ):
        pass
    assert fake.counted()["break_lease"] == 0


def test_vm_ids_are_what_the_hypervisor_gave(world: World, fake: FakeWorld) -> None:
    fork(world, fake, "game-aaaaaa-1", kept=False)
    run(world)
    assert ("destroy", VmId("game-aaaaaa-1")) in fake.calls


def test_what_a_crash_left_in_the_hypervisors_keeping_is_removed(world: World, fake: FakeWorld, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Half:
        path: Path
        what: str = "half a directory"

    class MessyHypervisor(FakeHypervisor):
        left: ClassVar = [Half(tmp_path / "game-aaaaaa-1")]

        def list_strays(self, *, older_than: timedelta) -> list[Half]:
            assert older_than == SHORT
            return list(self.left)

        def remove_stray(self, stray: Half) -> None:
            self.left.remove(stray)

    messy = MessyHypervisor(fake)
    report = run(replace(world, hypervisor=messy))
    assert kinds(report) == {"game-aaaaaa-1": OrphanKind.REMNANT}
    assert messy.left == []
