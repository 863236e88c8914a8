"""What the upstream should be, and how often Nginx is told: on a pretended Consul and a pretended Nginx."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from threading import Event, Thread, Timer
from time import monotonic

import pytest

from forkyard.balancer.fake import FakeBalancer
from forkyard.fake_world import FakeWorld
from forkyard.model import Registration, Server, Upstream
from forkyard.registry.fake import FakeRegistry
from forkyard.sync import Change, converge, is_mass_loss, make_upstream, run_sync
from tests.support.lab import until


def entry(number: int, *, status: str = "passing", draining: bool = False) -> Registration:
    return Registration(
        "forkyard:game:8080", "game", f"game-{number}", f"10.77.1.{number}", 8080, status, "f", draining
    )


def upstream(*numbers: int) -> Upstream:
    return Upstream("game", tuple(Server(f"game-{n}", f"10.77.1.{n}", 8080) for n in numbers))


@pytest.fixture
def fake() -> FakeWorld:
    return FakeWorld()


def register(fake: FakeWorld, *numbers: int, status: str = "passing") -> None:
    for number in numbers:
        fake.register(entry(number, status=status))


@contextmanager
def syncing(fake: FakeWorld, *, spaced: timedelta) -> Iterator[list[Change]]:
    """Run the resident sync; gives the changes that it makes."""
    stop, changes = Event(), list[Change]()
    follow = partial(run_sync, FakeRegistry(fake), FakeBalancer(fake), ["game"], changed=changes.append)
    resident = Thread(target=lambda: follow(stop=stop, spaced=spaced))
    resident.start()
    try:
        yield changes
    finally:
        stop.set()
        resident.join(15)
    assert not resident.is_alive()


def test_only_what_passes_and_is_not_draining_is_a_server() -> None:
    entries = [entry(1), entry(2, status="warning"), entry(3, status="critical"), entry(4, draining=True), entry(5)]
    assert make_upstream("game", entries) == upstream(1, 5)


def test_a_second_entry_of_a_node_or_of_an_address_takes_no_place() -> None:
    thief = Registration("thief:game", "game", "thief", "10.77.1.1", 8080, "passing")
    twin = Registration("game-1:game:2", "game", "game-1", "127.0.1.9", 9, "passing")
    assert make_upstream("game", [thief, twin, entry(1)]) == upstream(1)


@pytest.mark.parametrize(
    ("node", "address", "port"),
    [("web_1", "10.77.1.9", 80), ("web", "web.example", 80), ("web", "fd00::9", 80), ("web", "10.77.1.9", 0)],
)
def test_an_entry_that_no_balancer_takes_keeps_no_other_out(node: str, address: str, port: int) -> None:
    strange = Registration("by-hand", "game", node, address, port, "passing")
    assert make_upstream("game", [strange, entry(1), entry(2)]) == upstream(1, 2)


@pytest.mark.parametrize(
    ("before", "entries", "loss"),
    [
        ((1, 2, 3, 4), [], True),
        ((1, 2, 3, 4), [entry(1), entry(2, status="critical")], True),
        ((1, 2, 3, 4), [entry(1), entry(2)], False),
        ((1, 2, 3, 4), [entry(n, draining=n > 1) for n in (1, 2, 3, 4)], False),
        ((1,), [], False),
        ((), [entry(1)], False),
    ],
)
def test_most_of_a_service_vanishing_untold_is_a_mass_loss(
    before: tuple[int, ...],
    entries: list[Registration],
    loss: bool,  # noqa: FBT001 - a table's column
) -> None:
    assert is_mass_loss(upstream(*before), entries) is loss


def test_converging_waits_for_a_service_that_seems_to_be_gone_and_takes_what_comes_back(fake: FakeWorld) -> None:
    FakeBalancer(fake).apply(upstream(1, 2, 3, 4))
    back = Timer(0.3, register, (fake, 1, 2, 3))
    back.start()
    assert converge(FakeRegistry(fake), FakeBalancer(fake), "game", hold=timedelta(seconds=20)) == upstream(1, 2, 3)
    back.join()


def test_converging_believes_in_the_end_that_a_service_is_gone(fake: FakeWorld) -> None:
    FakeBalancer(fake).apply(upstream(1, 2, 3, 4))
    began = monotonic()
    assert converge(FakeRegistry(fake), FakeBalancer(fake), "game", hold=timedelta(seconds=0.6)) == upstream()
    assert monotonic() - began >= 0.6


def test_servers_that_come_one_by_one_wait_for_one_reload_and_one_that_goes_is_out_at_once(fake: FakeWorld) -> None:
    with syncing(fake, spaced=timedelta(hours=1)) as changes:
        register(fake, 1, 2, 3)
        until(lambda: len(changes) == 1, seconds=10, what="the first servers")
        for number in range(4, 8):
            register(fake, number)
            Event().wait(0.15)
        assert len(changes) == 1
        register(fake, 3, status="critical")
        until(lambda: len(changes) == 2, seconds=10, what="the dead server's end")
    assert (changes[1].removed, changes[1].serving) == (("game-3",), 6)


def test_a_server_that_came_alone_waits_no_longer_than_the_distance_between_two_reloads(fake: FakeWorld) -> None:
    with syncing(fake, spaced=timedelta(seconds=0.3)) as changes:
        for number in (1, 2, 3):
            register(fake, number)
            until(lambda number=number: [c.serving for c in changes][-1:] == [number], seconds=10)  # type: ignore[misc]  # a default binds it
