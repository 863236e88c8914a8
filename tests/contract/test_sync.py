"""Consul and Nginx held together: what becomes of the upstream when parts of either die."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import pytest

from forkyard.balancer.nginx import NginxBalancer
from forkyard.errors import CredentialsRejected, NotReady, TransientError, Unavailable
from forkyard.model import LeaseHolder, Registration, Server, Upstream
from forkyard.processes import find_process
from forkyard.registry.consul import ConsulRegistry
from forkyard.settings import ConsulSettings
from forkyard.sync import Change, converge, run_sync
from forkyard.waiting import wait_for
from tests.support.outside import CHILD_PORT, Outside, child, child_address

WHILE = timedelta(seconds=60)
"""Long enough for an election or a failed heartbeat on a busy machine; each wait ends as soon as it can."""
HOLDER = LeaseHolder("r1", "ana", "host-1", 1, datetime(2026, 1, 1, tzinfo=UTC), "a sale")


def entry(number: int, *, status: str = "passing", draining: bool = False) -> Registration:
    server = child(number)
    return Registration(f"{server.name}:game", "game", server.name, server.address, server.port, status, "f", draining)


def upstream(*numbers: int) -> Upstream:
    return Upstream("game", tuple(child(number) for number in numbers))


@dataclass
class Bench:
    """Registry and balancer of one test, and the world around them."""

    outside: Outside
    registry: ConsulRegistry
    balancer: NginxBalancer
    changes: list[Change] = field(default_factory=list)

    def await_upstream(self, *numbers: int, seconds: float = 20) -> float:
        """Wait until exactly these are in; the seconds that it took."""
        started = monotonic()

        def are_in() -> bool | None:
            with self.balancer.exclusive():  # what is in the file while somebody applies may yet be taken back
                return True if self.balancer.upstream("game") == upstream(*numbers) else None

        try:
            wait_for(
                are_in,
                what=f"{numbers} in the upstream",
                timeout=timedelta(seconds=seconds),
                slowest=timedelta(milliseconds=50),
            )
        except NotReady:
            there, known = self.balancer.upstream("game"), self.registry.registrations("game")
            pytest.fail(f"{numbers} are to be in the upstream, and it is {there}; Consul has {known}", pytrace=False)
        return monotonic() - started

    @contextmanager
    def sync(
        self, *, hold: timedelta = timedelta(seconds=3), settle: timedelta = timedelta(seconds=0.1)
    ) -> Iterator[None]:
        """Run the resident sync for as long as the context lasts."""
        stop = Event()
        services = ["game", "shop"]
        resident = Thread(
            target=lambda: run_sync(
                self.registry,
                self.balancer,
                services,
                stop=stop,
                changed=self.changes.append,
                hold=hold,
                settle=settle,
            )
        )
        resident.start()
        try:
            yield
        finally:
            stop.set()
            resident.join(15)
        assert not resident.is_alive()


@pytest.fixture
def bench(outside: Outside) -> Iterator[Bench]:
    outside.start()
    registry = outside.make_registry()
    yield Bench(outside, registry, outside.make_balancer())
    registry.close()
    outside.start()
    outside.leader()
    outside.forget("game")
    outside.make_balancer().apply(upstream())


def test_converging_puts_in_what_passes_and_takes_out_what_drains(bench: Bench) -> None:
    for number in (1, 2):
        bench.outside.register(entry(number))
    bench.outside.register(entry(3, status="critical"))
    assert converge(bench.registry, bench.balancer, "game") == upstream(1, 2)
    bench.registry.set_draining("game", "game-1", draining=True)
    assert converge(bench.registry, bench.balancer, "game") == upstream(2)
    assert bench.balancer.upstream("game") == upstream(2)


def test_a_registry_that_cannot_be_reached_changes_nothing(bench: Bench) -> None:
    bench.balancer.apply(upstream(1, 2))
    away = ConsulRegistry(ConsulSettings(url="http://127.0.0.1:9"))
    with pytest.raises(Unavailable):
        converge(away, bench.balancer, "game")
    assert bench.balancer.upstream("game") == upstream(1, 2)


# The resident sync


def test_a_new_child_comes_in_when_it_passes_and_not_before(bench: Bench) -> None:
    with bench.sync():
        bench.outside.register(entry(1))
        bench.await_upstream(1)
        bench.outside.register(entry(2, status="critical"))
        bench.outside.register(entry(3))
        bench.await_upstream(1, 3)
        bench.outside.register(entry(2))
        assert bench.await_upstream(1, 2, 3) < 2
    added = [name for change in bench.changes for name in change.added]
    assert added == ["game-1", "game-3", "game-2"]


def test_children_that_pass_within_the_settling_time_are_one_reload(bench: Bench) -> None:
    with bench.sync(settle=timedelta(seconds=4)):
        for number in range(1, 7):
            bench.outside.register(entry(number))
        bench.await_upstream(1, 2, 3, 4, 5, 6)
    assert len(bench.changes) == 1


def test_a_child_that_drains_or_is_deregistered_goes_out(bench: Bench) -> None:
    for number in (1, 2, 3):
        bench.outside.register(entry(number))
    with bench.sync():
        bench.await_upstream(1, 2, 3)
        bench.registry.set_draining("game", "game-1", draining=True)
        assert bench.await_upstream(2, 3) < 2
        bench.registry.deregister(entry(2))
        assert bench.await_upstream(3) < 2


def test_a_dead_child_is_out_within_two_seconds_of_consul_saying_so(bench: Bench, tmp_path: Path) -> None:
    for number in (1, 2):
        bench.outside.register(entry(number))
    # A number of its own: Consul's servers remember who left, and each new leader takes that name out of the catalog.
    address = child_address(7)
    agent = bench.outside.start_agent("game-7", address, tmp_path)
    with bench.sync():
        bench.await_upstream(1, 2, 7, seconds=60)
        os.kill(agent.pid, signal.SIGKILL)

        def is_critical() -> bool | None:
            entries = bench.registry.registrations("game")
            return any(e.node == "game-7" and e.status == "critical" for e in entries) or None

        wait_for(is_critical, what="Consul saying so", timeout=WHILE, slowest=timedelta(milliseconds=50))
        assert bench.await_upstream(1, 2) < 2
    dead = next(e for e in bench.registry.registrations("game") if e.node == "game-7")
    bench.registry.deregister(dead)
    assert [e.node for e in bench.registry.registrations("game")] == ["game-1", "game-2"]
    assert "game-7" not in {node["Node"] for node in bench.outside.get("catalog/nodes")}


def test_most_children_vanishing_at_once_are_kept_for_a_while_and_then_believed(bench: Bench) -> None:
    for number in (1, 2, 3):
        bench.outside.register(entry(number))
    with bench.sync(hold=timedelta(seconds=3)):
        bench.await_upstream(1, 2, 3)
        started = monotonic()
        for number in (1, 2, 3):
            bench.outside.register(entry(number, status="critical"))
        bench.await_upstream()
        assert monotonic() - started > 2


def test_any_server_of_consul_may_die_and_the_leader_too(bench: Bench) -> None:
    for number in (1, 2):
        bench.outside.register(entry(number))
    with bench.sync(), bench.registry.lease("game", HOLDER, wait=WHILE) as lease:
        bench.await_upstream(1, 2)
        follower = next(name for name in ("consul-1", "consul-2", "consul-3") if name != bench.outside.leader())
        for name in (follower, bench.outside.leader()):
            os.kill(bench.outside.consul_server(name).pid, signal.SIGKILL)
            if name == follower:
                # One is dead: entries still come and go.
                register_again(bench.outside, entry(3))
                bench.await_upstream(1, 2, 3)
                bench.outside.start()
        # The leader is dead: another is chosen.
        register_again(bench.outside, entry(4))
        bench.await_upstream(1, 2, 3, 4, seconds=60)
        bench.outside.start()
        assert not lease.lost.is_set()
        assert bench.registry.holder("game") == HOLDER


def test_a_consul_without_a_leader_empties_nothing(bench: Bench) -> None:
    for number in (1, 2):
        bench.outside.register(entry(number))
    with bench.sync():
        bench.await_upstream(1, 2)
        dead = [name for name in ("consul-1", "consul-2", "consul-3") if name != bench.outside.leader()]
        for name in dead:
            os.kill(bench.outside.consul_server(name).pid, signal.SIGKILL)

        def is_away() -> bool | None:
            try:
                bench.registry.registrations("game")
            except TransientError:
                return True
            return None

        wait_for(is_away, what="Consul's loss of its leader", timeout=WHILE, successes=5)
        with pytest.raises(TransientError):
            converge(bench.registry, bench.balancer, "game")
        assert bench.balancer.upstream("game") == upstream(1, 2)
        bench.outside.start()
        register_again(bench.outside, entry(3))
        bench.await_upstream(1, 2, 3)
    assert all(not change.removed for change in bench.changes)


def test_a_killed_nginx_gets_what_it_missed_when_it_is_back(bench: Bench) -> None:
    bench.outside.register(entry(1))
    with bench.sync():
        bench.await_upstream(1)
        pid = int((bench.outside.settings.nginx.directory / "nginx.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: None if find_process(pid) else True, what="the end of nginx", timeout=WHILE)
        bench.outside.register(entry(2))
        with pytest.raises(TransientError):
            converge(bench.registry, bench.balancer, "game")
        assert bench.balancer.upstream("game") == upstream(1)
        bench.outside.start()
        bench.await_upstream(1, 2)
        names = frozenset({"game-1", "game-2"})
        assert bench.balancer.probe("game", names, timeout=timedelta(seconds=10)).keys() == names


def test_a_full_disk_is_outlived_and_made_up_for_when_there_is_room(bench: Bench) -> None:
    bench.outside.register(entry(1))
    with bench.sync():
        bench.await_upstream(1)
        # What is written for the next file says that the disk is full, once: then the link is gone.
        full = bench.outside.settings.nginx.directory / "upstreams/game.new"
        full.symlink_to("/dev/full")
        bench.outside.register(entry(2))
        wait_for(lambda: None if full.is_symlink() else True, what="the refusal", timeout=WHILE)
        assert bench.balancer.upstream("game") == upstream(1)
        bench.await_upstream(1, 2)


def test_sync_and_a_flow_may_converge_at_the_same_time(bench: Bench) -> None:
    balancer = bench.outside.make_balancer()
    with bench.sync():
        for number in (1, 2, 3, 4, 5, 6):
            bench.outside.register(entry(number))
            converge(bench.registry, balancer, "game")
        for number in (1, 2, 3):
            bench.registry.set_draining("game", f"game-{number}", draining=True)
            left = {server.name for server in converge(bench.registry, balancer, "game").servers}
            assert f"game-{number}" not in left
            assert (
                Server(f"game-{number}", child_address(number), CHILD_PORT)
                not in (balancer.upstream("game") or upstream()).servers
            )
        bench.await_upstream(4, 5, 6)


# The registry when Consul fails


def test_an_agent_that_is_away_is_unavailable_and_not_an_empty_list() -> None:
    registry = ConsulRegistry(ConsulSettings(url="http://127.0.0.1:9"))
    with pytest.raises(Unavailable) as caught:
        registry.registrations("game")
    # Not one word of the libraries in between.
    assert str(caught.value) == "consul at http://127.0.0.1:9: no answer (Connection refused)"


def test_a_token_that_consul_rejects_is_told_as_such(bench: Bench, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("not-a-token\n")
    registry = ConsulRegistry(ConsulSettings(url=bench.outside.settings.consul.url, token_file=token))
    # ACLs are off in this cluster, which Consul says with the same kind of answer as to a wrong token.
    with pytest.raises(CredentialsRejected):
        registry._client.call(lambda c: c.acl.token.list())  # noqa: SLF001 - no call of the contract needs ACLs


def test_a_holder_that_was_killed_loses_the_lease_by_itself(bench: Bench) -> None:
    # What a killed process leaves: a session that nobody renews.
    with bench.registry.lease("game", HOLDER, wait=WHILE) as lease:
        entries = bench.outside.get("kv/forkyard/game/lease")
        session = entries[0]["Session"]
        bench.outside.put(f"session/destroy/{session}", None)
        assert lease.lost.wait(10)
        assert bench.registry.holder("game") is None


def register_again(outside: Outside, registration: Registration) -> None:
    """Register as an agent does: until Consul takes it."""

    def taken() -> bool | None:
        try:
            outside.register(registration)
        except AssertionError:
            return None
        return True

    wait_for(taken, what="a registration", timeout=WHILE)
