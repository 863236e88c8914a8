"""What every balancer promises, for Nginx itself and for the fake; and what Nginx alone can break."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forkyard.balancer import Balancer
from forkyard.balancer.fake import FakeBalancer
from forkyard.balancer.nginx import NginxBalancer
from forkyard.balancer.nginx_config import UpstreamFile, parse_upstream, render_client_timeouts, render_upstream
from forkyard.balancer.nginx_process import NginxProcess
from forkyard.errors import NotReady, PermanentError, Unavailable
from forkyard.fake_world import FakeWorld
from forkyard.model import Power, Role, Server, Stamp, Upstream, Vm, VmId
from forkyard.waiting import wait_for
from tests.support.outside import CHILD_PORT, Outside, child

SECONDS_10 = timedelta(seconds=10)
NOBODY = Server("game-9", "127.0.1.9", CHILD_PORT)
"""A server that nothing listens for."""
RELOADS = 100


def upstream(*servers: Server, service: str = "game") -> Upstream:
    return Upstream(service, servers)


@dataclass
class Bench:
    balancer: Balancer


def pretend(world: FakeWorld, number: int) -> None:
    server = child(number)
    stamp = Stamp("game", "f", "r", None)
    world.vms[VmId(server.name)] = Vm(
        id=VmId(server.name),
        name=server.name,
        role=Role.CHILD,
        power=Power.RUNNING,
        stamp=stamp,
        parent=None,
        host="fake",
        address=server.address,
        mac=None,
        created=datetime.now(UTC),
        pid=1,
        identified=True,
    )


@pytest.fixture(params=["nginx", "fake"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "fake":
        world = FakeWorld()
        for number in range(1, 7):
            pretend(world, number)
        yield Bench(FakeBalancer(world))
        return
    yield Bench(request.getfixturevalue("nginx"))


@pytest.fixture
def nginx(outside: Outside) -> Iterator[NginxBalancer]:
    outside.start()  # a test may have ended what others need
    balancer = outside.make_balancer()
    yield balancer
    outside.start()
    balancer.apply(upstream())


def test_what_was_applied_is_in_force_in_the_order_of_names(bench: Bench) -> None:
    bench.balancer.apply(upstream(child(2), child(1)))
    assert bench.balancer.upstream("game") == upstream(child(1), child(2))


def test_the_same_again_and_another_one_may_follow(bench: Bench) -> None:
    for servers in ((child(1),), (child(1),), (child(1), child(3)), ()):
        bench.balancer.apply(upstream(*servers))
        assert bench.balancer.upstream("game") == upstream(*servers)


def test_a_probe_says_when_each_server_answered_and_leaves_out_who_did_not(bench: Bench) -> None:
    bench.balancer.apply(upstream(child(1), child(2)))
    wanted = frozenset({"game-1", "game-2"})
    assert bench.balancer.probe("game", wanted, timeout=SECONDS_10).keys() == wanted
    missing = bench.balancer.probe("game", wanted | {"game-3"}, timeout=timedelta(seconds=3))
    assert missing.keys() == wanted


def test_a_server_that_is_down_gets_no_request(bench: Bench) -> None:
    down = Server("game-1", child(1).address, CHILD_PORT, down=True)
    bench.balancer.apply(upstream(down, child(2)))
    assert bench.balancer.upstream("game") == upstream(down, child(2))
    found = bench.balancer.probe("game", frozenset({"game-1", "game-2"}), timeout=timedelta(seconds=3))
    assert found.keys() == {"game-2"}


def test_two_servers_of_one_name_or_address_are_refused_and_nothing_changes(bench: Bench) -> None:
    bench.balancer.apply(upstream(child(1)))
    for other in (Server("game-1", "127.0.1.2", CHILD_PORT), Server("game-2", child(1).address, CHILD_PORT)):
        with pytest.raises(PermanentError):
            bench.balancer.apply(upstream(child(1), other))
    assert bench.balancer.upstream("game") == upstream(child(1))


def test_the_pen_may_be_taken_again_by_who_holds_it(bench: Bench) -> None:
    with bench.balancer.exclusive(), bench.balancer.exclusive():
        bench.balancer.apply(upstream(child(4)))
    assert bench.balancer.upstream("game") == upstream(child(4))


# Nginx alone


def test_an_empty_upstream_answers_503_with_the_reason_and_when_to_come_back(
    nginx: NginxBalancer, outside: Outside
) -> None:
    nginx.apply(upstream())
    answer = outside.ask("/anything")
    assert answer.status_code == 503
    assert answer.json()["service"] == "game"
    assert int(answer.headers["Retry-After"]) > 0


def test_services_are_chosen_by_name_and_do_not_mix(nginx: NginxBalancer, outside: Outside) -> None:
    nginx.apply(upstream(child(1)))
    nginx.apply(upstream(child(2), service="shop"))
    assert outside.ask(service="game").json() == {"child": "game-1"}
    assert outside.ask(service="shop").json() == {"child": "game-2"}
    nginx.apply(upstream(service="shop"))
    assert outside.ask(service="game").json() == {"child": "game-1"}


def test_a_dead_server_costs_no_request(nginx: NginxBalancer, outside: Outside) -> None:
    nginx.apply(upstream(child(1), NOBODY))
    assert {outside.ask().json()["child"] for _ in range(20)} == {"game-1"}


@pytest.mark.parametrize(
    "server",
    [
        Server("x; } server { listen 99;", "127.0.1.1", 80),
        Server("x\n}", "127.0.1.1", 80),
        Server("", "127.0.1.1", 80),
        Server("x", "127.0.1.1;", 80),
        Server("x", "unix:/run/docker.sock", 80),
        Server("x", "evil.example.com", 80),
        Server("x", "127.0.1.1", 0),
        Server("x", "127.0.1.1", 65536),
    ],
)
def test_what_could_mean_something_else_to_nginx_is_refused(nginx: NginxBalancer, server: Server) -> None:
    nginx.apply(upstream(child(1)))
    with pytest.raises(PermanentError):
        nginx.apply(upstream(server))
    assert nginx.upstream("game") == upstream(child(1))


@pytest.mark.parametrize("service", ["../etc/passwd", "Game", "", "a b", "x" * 64, "-a"])
def test_a_service_that_is_no_plain_name_is_refused(nginx: NginxBalancer, service: str) -> None:
    with pytest.raises(PermanentError):
        nginx.apply(Upstream(service, ()))


def test_a_broken_configuration_is_refused_in_nginx_own_words_and_the_old_one_works_on(
    nginx: NginxBalancer, outside: Outside
) -> None:
    nginx.apply(upstream(child(1)))
    conf = outside.settings.nginx.directory / "nginx.conf"
    whole = conf.read_text()
    conf.write_text(whole.replace("worker_connections", "worker_connectionz"))
    try:
        with pytest.raises(PermanentError, match="worker_connectionz"):
            nginx.apply(upstream(child(2)))
        assert nginx.upstream("game") == upstream(child(1))
        assert outside.ask().json() == {"child": "game-1"}
    finally:
        conf.write_text(whole)
    nginx.apply(upstream(child(2)))
    assert outside.ask().json() == {"child": "game-2"}


def test_an_nginx_conf_that_does_not_read_the_upstreams_is_refused(nginx: NginxBalancer, outside: Outside) -> None:
    directory = outside.settings.nginx.directory
    conf = directory / "nginx.conf"
    whole = conf.read_text()
    conf.write_text(whole.replace("include upstreams/*.conf;", f"include {directory}/upstreams/*.conf;"))
    try:
        with pytest.raises(PermanentError, match="include upstreams"):
            nginx.apply(upstream(child(1)))
    finally:
        conf.write_text(whole)


def test_a_configuration_that_passes_the_test_and_does_not_start_leaves_the_old_one_in_force(
    nginx: NginxBalancer, outside: Outside
) -> None:
    nginx.apply(upstream(child(1)))
    conf = outside.settings.nginx.directory / "nginx.conf"
    whole = conf.read_text()
    # `nginx -t` binds no socket that somebody else holds; the master must, and cannot: Consul has this one.
    taken = f"listen {outside.cluster.client}:8500;"
    conf.write_text(whole.replace("server_name shop;", f"server_name shop; {taken}"))
    try:
        with pytest.raises(PermanentError, match="8500"):
            nginx.apply(upstream(child(2)))
        assert nginx.upstream("game") == upstream(child(1))
        assert outside.ask().json() == {"child": "game-1"}
    finally:
        conf.write_text(whole)


def test_without_nginx_nothing_is_changed_and_a_new_one_goes_on_with_what_was(
    nginx: NginxBalancer, outside: Outside
) -> None:
    nginx.apply(upstream(child(1)))
    os.kill(master(outside), signal.SIGKILL)
    with pytest.raises(Unavailable):
        nginx.apply(upstream(child(2)))
    with pytest.raises(Unavailable, match="Start nginx"):
        nginx.check_running()
    assert nginx.upstream("game") == upstream(child(1))
    outside.start()
    nginx.check_running()
    assert outside.ask().json() == {"child": "game-1"}


def test_an_nginx_that_is_slow_to_reload_may_be_asked_again(
    nginx: NginxBalancer, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    nginx.apply(upstream(child(1)))
    os.kill(master(outside), signal.SIGSTOP)
    try:
        with monkeypatch.context() as hurry:
            hurry.setattr("forkyard.balancer.nginx._RELOAD_TIMEOUT", timedelta(seconds=0.5))
            with pytest.raises(NotReady, match="the old one stays in force"):
                nginx.apply(upstream(child(2)))
        assert nginx.upstream("game") == upstream(child(1))
    finally:
        os.kill(master(outside), signal.SIGCONT)
    nginx.apply(upstream(child(2)))
    assert outside.ask().json() == {"child": "game-2"}


def test_killed_workers_are_replaced_and_serve_the_same(nginx: NginxBalancer, outside: Outside) -> None:
    nginx.apply(upstream(child(1)))
    for worker in workers(outside):
        os.kill(worker, signal.SIGKILL)
    wait_for(lambda: len(workers(outside)) > 1 or None, what="new workers", timeout=SECONDS_10)
    assert outside.ask().json() == {"child": "game-1"}
    nginx.apply(upstream(child(2)))
    assert outside.ask().json() == {"child": "game-2"}


def test_a_file_that_was_swapped_by_somebody_who_then_died_is_reloaded_by_the_next(
    nginx: NginxBalancer, outside: Outside
) -> None:
    nginx.apply(upstream(child(1)))
    path = outside.settings.nginx.directory / "upstreams/game.conf"
    file = parse_upstream("game", path.read_text())
    assert file is not None
    path.write_text(
        render_upstream(UpstreamFile(file.generation + 1, upstream(child(2))), outside.settings.nginx.directory)
    )
    assert outside.ask().json() == {"child": "game-1"}
    nginx.apply(upstream(child(2)))
    assert outside.ask().json() == {"child": "game-2"}


def test_a_server_that_was_taken_out_ends_its_open_requests_and_is_counted_until_then(
    nginx: NginxBalancer, outside: Outside
) -> None:
    nginx.apply(upstream(child(1)))
    answers: list[int] = []
    player = threading.Thread(target=lambda: answers.append(outside.ask("/slow").status_code))
    player.start()
    wait_for(lambda: nginx.active_connections("game")["game-1"] or None, what="a connection", timeout=SECONDS_10)
    nginx.apply(upstream(child(2)))
    assert nginx.active_connections("game") == {"game-1": 1, "game-2": 0}
    assert outside.ask().json() == {"child": "game-2"}
    player.join()
    assert answers == [200]
    wait_for(
        lambda: True if nginx.active_connections("game")["game-1"] == 0 else None,
        what="the end of the connection",
        timeout=SECONDS_10,
    )


def test_two_who_apply_at_once_leave_one_of_their_wishes_whole(nginx: NginxBalancer, outside: Outside) -> None:
    wishes = [upstream(child(1), child(2)), upstream(child(3), child(4))]
    failures: list[BaseException] = []

    def work(wish: Upstream) -> None:
        balancer = outside.make_balancer()
        try:
            for _ in range(5):
                balancer.apply(wish)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test must see it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(wish,)) for wish in wishes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    final = nginx.upstream("game")
    assert final in wishes
    names = frozenset(server.name for server in final.servers)
    assert nginx.probe("game", names, timeout=SECONDS_10).keys() == names


def test_a_hundred_reloads_under_load_fail_not_one_request(
    nginx: NginxBalancer, outside: Outside, tmp_path: Path
) -> None:
    nginx.apply(upstream(child(1), child(2)))
    # Some hundreds of requests a second, whatever the machine: more would measure the machine and slow the reloads.
    script = tmp_path / "pace.lua"
    script.write_text("function delay() return 20 end")
    url = f"http://{outside.cluster.client}/"
    wrk = outside.inside("wrk", "-t1", "-c8", "-d300s", "-s", str(script), url)
    try:
        for number in range(RELOADS):
            nginx.apply(upstream(*([child(1)] if number % 2 == 0 else [child(1), child(2)])))
    finally:
        wrk.send_signal(signal.SIGINT)
        printed, _ = wrk.communicate(timeout=30)
    requests = re.search(r"(\d+) requests in", printed)
    assert requests, printed
    assert int(requests[1]) > RELOADS, printed
    assert "Socket errors" not in printed, printed
    assert "Non-2xx" not in printed, printed


def test_idle_clients_are_kept_only_by_an_nginx_that_can_promise_a_minimum() -> None:
    assert render_client_timeouts((1, 22, 1)) == "keepalive_timeout 0;"
    assert render_client_timeouts((1, 27, 3)) == "keepalive_timeout 0;"
    assert "keepalive_min_timeout" in render_client_timeouts((1, 27, 4))


def test_what_is_rendered_is_read_back() -> None:
    file = UpstreamFile(7, upstream(Server("b", "10.0.0.2", 81, down=True), child(1)), left=(child(3),))
    assert parse_upstream("game", render_upstream(file, Path("/var/lib/forkyard/nginx"))) == file


def test_a_file_of_somebody_else_is_not_read() -> None:
    assert parse_upstream("game", "upstream game { server 127.0.0.1:1; }") is None


def master(outside: Outside) -> int:
    settings = outside.settings.nginx
    return NginxProcess(settings.binary, settings.directory, settings.namespace).master()


def workers(outside: Outside) -> list[int]:
    children = Path(f"/proc/{master(outside)}/task/{master(outside)}/children").read_text().split()
    return [int(pid) for pid in children]
