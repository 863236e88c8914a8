"""What every registry promises: Consul itself, and the fake that the flows' tests use."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from queue import Queue
from threading import Event, Thread

import pytest

from forkyard.errors import LeaseHeld
from forkyard.fake_world import FakeWorld
from forkyard.model import Intent, LeaseHolder, Registration
from forkyard.registry import Registry
from forkyard.registry.fake import FakeRegistry
from tests.support.outside import Outside

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
BRIEF = timedelta(seconds=1)


@dataclass
class Bench:
    """A registry, and what agents do to it."""

    registry: Registry
    register: Callable[[Registration], None]


@pytest.fixture(params=["consul", "fake"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "fake":
        world = FakeWorld()
        yield Bench(FakeRegistry(world), world.register)
        return
    outside: Outside = request.getfixturevalue("outside")
    registry = outside.make_registry()
    yield Bench(registry, outside.register)
    registry.close()
    outside.forget("game")
    outside.forget("shop")


def entry(node: str, *, status: str = "passing", service: str = "game") -> Registration:
    number = int(node.rpartition("-")[2])
    return Registration(f"{node}:{service}", service, node, f"127.0.2.{number}", 8080, status, fork_id=f"fork-{number}")


def holder(request_id: str = "r1") -> LeaseHolder:
    return LeaseHolder(request_id, "ana", "host-1", 4711, NOW, "a sale")


def test_entries_are_listed_by_node_whatever_their_health(bench: Bench) -> None:
    bench.register(entry("game-2", status="critical"))
    bench.register(entry("game-1"))
    assert bench.registry.registrations("game") == [entry("game-1"), entry("game-2", status="critical")]


def test_a_service_that_nobody_registered_has_no_entries(bench: Bench) -> None:
    assert bench.registry.registrations("nobody") == []


def test_services_do_not_mix(bench: Bench) -> None:
    bench.register(entry("game-1"))
    bench.register(entry("shop-1", service="shop"))
    assert [r.node for r in bench.registry.registrations("shop")] == ["shop-1"]


def test_a_draining_mark_shows_and_can_be_taken_back(bench: Bench) -> None:
    bench.register(entry("game-1"))
    for _ in range(2):
        bench.registry.set_draining("game", "game-1", draining=True)
    assert [r.draining for r in bench.registry.registrations("game")] == [True]
    for _ in range(2):
        bench.registry.set_draining("game", "game-1", draining=False)
    assert [r.draining for r in bench.registry.registrations("game")] == [False]


def test_deregistering_leaves_no_trace_and_may_be_repeated(bench: Bench) -> None:
    bench.register(entry("game-1"))
    bench.register(entry("game-2"))
    bench.registry.set_draining("game", "game-1", draining=True)
    for _ in range(2):
        bench.registry.deregister(entry("game-1"))
    assert [r.node for r in bench.registry.registrations("game")] == ["game-2"]
    bench.register(entry("game-1"))
    assert not any(r.draining for r in bench.registry.registrations("game"))


def test_there_is_no_intent_before_one_is_recorded(bench: Bench) -> None:
    assert bench.registry.intent("game") is None


def test_the_intent_recorded_last_is_read_back(bench: Bench) -> None:
    with bench.registry.lease("game", holder(), wait=BRIEF) as lease:
        for wanted in (3, 5):
            bench.registry.record_intent("game", Intent(wanted, "r1", lease.fencing))
        assert bench.registry.intent("game") == Intent(5, "r1", lease.fencing)


def test_an_intent_under_an_older_lease_is_refused(bench: Bench) -> None:
    with bench.registry.lease("game", holder("r1"), wait=BRIEF) as old:
        pass
    with bench.registry.lease("game", holder("r2"), wait=BRIEF) as new:
        bench.registry.record_intent("game", Intent(4, "r2", new.fencing))
        with pytest.raises(LeaseHeld):
            bench.registry.record_intent("game", Intent(9, "r1", old.fencing))
    assert bench.registry.intent("game") == Intent(4, "r2", new.fencing)


def test_fencing_grows_from_holder_to_holder(bench: Bench) -> None:
    values = []
    for number in range(3):
        with bench.registry.lease("game", holder(f"r{number}"), wait=BRIEF) as lease:
            values.append(lease.fencing)
    assert values == sorted(set(values))


def test_a_lease_names_its_holder_while_it_is_held(bench: Bench) -> None:
    assert bench.registry.holder("game") is None
    with bench.registry.lease("game", holder(), wait=BRIEF) as lease:
        assert bench.registry.holder("game") == holder() == lease.holder
        assert not lease.lost.is_set()
        assert lease.is_held()
    assert bench.registry.holder("game") is None


def test_a_second_holder_is_told_who_is_first(bench: Bench) -> None:
    with bench.registry.lease("game", holder("first-request"), wait=BRIEF):
        with (
            pytest.raises(LeaseHeld, match=r"ana.*first-request"),
            bench.registry.lease("game", holder("r2"), wait=BRIEF),
        ):
            pytest.fail("two hold the lease")
        assert bench.registry.holder("game") == holder("first-request")


def test_leases_of_two_services_do_not_meet(bench: Bench) -> None:
    with (
        bench.registry.lease("game", holder("r1"), wait=BRIEF),
        bench.registry.lease("shop", holder("r2"), wait=BRIEF),
    ):
        assert bench.registry.holder("shop") == holder("r2")


def test_a_waiter_gets_the_lease_when_it_is_given_back(bench: Bench) -> None:
    taken: Queue[int] = Queue()

    def wait() -> None:
        with bench.registry.lease("game", holder("r2"), wait=timedelta(seconds=20)) as lease:
            taken.put(lease.fencing)

    waiter = Thread(target=wait)
    with bench.registry.lease("game", holder("r1"), wait=BRIEF) as first:
        waiter.start()
        waiter.join(0.5)
        assert taken.empty()
    assert taken.get(timeout=10) > first.fencing
    waiter.join()


def test_breaking_a_lease_tells_its_holder_and_frees_it(bench: Bench) -> None:
    with bench.registry.lease("game", holder("r1"), wait=BRIEF) as lease:
        bench.registry.break_lease("game", holder("r1"))
        with bench.registry.lease("game", holder("r2"), wait=timedelta(seconds=5)):
            assert bench.registry.holder("game") == holder("r2")
        assert lease.lost.wait(10)
        assert not lease.is_held()


def test_breaking_leaves_the_lease_of_anybody_else_alone(bench: Bench) -> None:
    with bench.registry.lease("game", holder("r1"), wait=BRIEF):
        bench.registry.break_lease("game", replace(holder("r1"), pid=4712))
        assert bench.registry.holder("game") == holder("r1")


def test_watching_yields_what_is_there_and_each_change(bench: Bench) -> None:
    bench.register(entry("game-1"))
    stop, seen = Event(), Queue[list[Registration]]()

    def watch() -> None:
        for registrations in bench.registry.watch("game", stop=stop):
            seen.put(registrations)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        assert seen.get(timeout=10) == [entry("game-1")]
        bench.register(entry("game-2", status="critical"))
        assert seen.get(timeout=10) == [entry("game-1"), entry("game-2", status="critical")]
        bench.registry.set_draining("game", "game-1", draining=True)
        assert [r.draining for r in seen.get(timeout=10)] == [True, False]
        bench.registry.deregister(entry("game-2", status="critical"))
        assert [r.node for r in seen.get(timeout=10)] == ["game-1"]
    finally:
        stop.set()
        watcher.join(10)
    assert not watcher.is_alive()
