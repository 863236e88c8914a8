"""The lab's inner parts: started once, repaired, stopped without a trace."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from forkyard.errors import CapacityExhausted, ForkyardError, InvalidRequest
from forkyard.processes import end, find_process
from forkyard.settings import NginxSettings, PrefectSettings, Settings, load_settings
from forkyard.waiting import wait_for
from lab.consul import find_consul
from lab.daemons import list_inside, read_ref
from lab.forward import Forward, start_forward
from lab.inner import lab_home, make_inner_parts
from lab.network import is_namespace, lab_network, remove_network
from lab.parts import Part, start_parts, stop_parts
from lab.ports import find_port_holder, refuse_taken_ports
from lab.world import up
from tests.support.lab import Lab, free_ports, write_config
from tests.support.outside import Outside, make_settings


def troubles(outside: Outside) -> dict[str, str]:
    return {part.name: reason for part in make_inner_parts(outside.settings) if (reason := part.trouble())}


def test_what_runs_is_left_alone(outside: Outside) -> None:
    outside.start()
    before = outside.consul_server("consul-1"), list_inside(outside.namespace, "nginx")
    told: list[str] = []
    start_parts(make_inner_parts(outside.settings), told.append)
    assert told
    assert all(line.endswith("runs already") for line in told)
    assert (outside.consul_server("consul-1"), list_inside(outside.namespace, "nginx")) == before


def test_what_died_is_seen_and_started_again_and_nothing_else(outside: Outside) -> None:
    outside.start()
    server = outside.consul_server("consul-2")
    master = int((outside.settings.nginx.directory / "nginx.pid").read_text())
    forwarder = int((lab_home(outside.settings) / "port of nginx.pid").read_text().split()[0])
    for pid in (server.pid, master, forwarder):
        os.kill(pid, signal.SIGKILL)
        wait_for(
            lambda pid=pid: None if find_process(pid) else True,  # type: ignore[misc]
            what=f"the end of {pid}",
            timeout=timedelta(seconds=10),
        )
    assert troubles(outside).keys() == {"consul", "nginx", "port of nginx"}
    other = outside.consul_server("consul-3")
    outside.start()
    assert not troubles(outside)
    assert outside.consul_server("consul-3") == other
    assert outside.ask().status_code == 503


def test_nothing_is_left_when_it_was_stopped_and_stopping_again_is_success(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "gone")
    parts = make_inner_parts(settings)
    start_parts(parts, lambda _: None)
    for _ in range(2):
        stop_parts(parts, lambda _: None)
    assert not is_namespace(str(settings.qemu.namespace))
    assert not list_inside(str(settings.qemu.namespace), "nginx")
    assert not (lab_home(settings) / "consul").exists()
    assert not list(settings.nginx.directory.glob("*.sock"))
    for port in (settings.lab.load_balancer_port, settings.lab.consul_port):
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))


def test_a_namespace_that_was_removed_under_the_lab_is_made_again_with_all_that_was_in_it(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "lost")
    parts = make_inner_parts(settings)
    try:
        start_parts(parts, lambda _: None)
        remove_network(str(settings.qemu.namespace))
        start_parts(parts, lambda _: None)
        assert not [reason for part in parts if (reason := part.trouble())]
        assert len(list_inside(str(settings.qemu.namespace), "consul")) == 4
    finally:
        stop_parts(parts, lambda _: None)


def test_a_port_in_use_is_told_with_its_holder(outside: Outside, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        forward = Forward("port of nginx", port, "10.76.0.1:80", outside.namespace, tmp_path)
        with pytest.raises(CapacityExhausted, match=rf"port {port} .* \(process {os.getpid()}\)"):
            start_forward(forward)
        assert f"(process {os.getpid()})" in find_port_holder(port)


_KILLED_STARTER = """
import os, signal, sys
from pathlib import Path
from lab import daemons

daemons.write_ref = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
daemons.start_daemon(Path(sys.argv[1]), ["sleep", "600"], log=Path(sys.argv[2]))
"""


def test_a_daemon_is_found_although_its_starter_was_killed_before_it_wrote_it_down(tmp_path: Path) -> None:
    pid = tmp_path / "of a daemon.pid"
    pid.write_text("1 1\n")
    killed = subprocess.run([sys.executable, "-c", _KILLED_STARTER, pid, tmp_path / "log"], check=False)
    assert killed.returncode == -signal.SIGKILL
    ref = wait_for(lambda: read_ref(pid), what="the daemon's own record", timeout=timedelta(seconds=10))
    try:
        started = lambda: (Path("/proc") / str(ref.pid) / "comm").read_text() == "sleep\n" or None  # noqa: E731
        wait_for(started, what="sleep", timeout=timedelta(seconds=10))
        assert read_ref(pid) == ref
    finally:
        end(ref, timeout=timedelta(seconds=5))


def test_down_removes_what_a_killed_bench_left(tmp_path: Path) -> None:
    left = tmp_path / "state" / "bench-of-nobody"
    left.mkdir(parents=True)
    with TemporaryDirectory(prefix="fy-") as run:  # short: paths of sockets are bounded
        config = write_config(tmp_path, Path(run), tmp_path / "cache", namespace=f"fy-left-{os.getpid()}")
        down = Lab(config, load_settings(config)).run("lab", "down", "--json")
    assert down.code == 0, down.err
    assert down.json == {"up": False, "benches": [str(left)]}
    assert not left.exists()


def make_whole_settings(directory: Path, name: str) -> Settings:
    settings = make_settings(directory, name)
    prefect, slack = free_ports(2)
    return replace(
        settings,
        lab=replace(settings.lab, prefect_port=prefect, slack_port=slack),
        prefect=PrefectSettings(api_url=f"http://127.0.0.1:{prefect}/api"),
    )


def test_ports_in_use_are_all_told_before_anything_starts(tmp_path: Path) -> None:
    settings = make_whole_settings(tmp_path, "taken")
    ports = (settings.lab.consul_port, settings.lab.prefect_port)
    told: list[str] = []
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        with pytest.raises(CapacityExhausted) as caught:
            up(settings, told.append)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == ["port of consul", "prefect"]
    assert str(caught.value).count(f"(process {os.getpid()})") == len(ports)
    assert not told
    assert not is_namespace(str(settings.qemu.namespace))


def test_a_lab_that_forkyard_would_look_for_elsewhere_is_not_started(tmp_path: Path) -> None:
    settings = make_whole_settings(tmp_path, "aside")
    elsewhere = replace(settings, consul=replace(settings.consul, url="http://127.0.0.1:1"))
    with pytest.raises(InvalidRequest, match=r"consul\.url is http://127\.0\.0\.1:1, .* \(lab\.consul_port\)"):
        up(elsewhere, lambda _: None)
    assert not is_namespace(str(settings.qemu.namespace))


def test_who_listens_at_another_address_is_not_in_the_way() -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        refuse_taken_ports([("x", port)])
        assert find_port_holder(port) == "somebody"


def test_one_part_that_fails_keeps_those_after_it_from_starting_and_no_other() -> None:
    started: list[str] = []

    def part(name: str, *, after: tuple[str, ...] = (), broken: bool = False) -> Part:
        def start() -> bool:
            if broken:
                raise CapacityExhausted(name)
            started.append(name)
            return True

        return Part(name, start, lambda: "", lambda: None, after)

    parts = [part("a", broken=True), part("b", after=("a",)), part("c", after=("b",)), part("d")]
    with pytest.raises(ForkyardError, match="a"):
        start_parts(parts, lambda _: None)
    assert started == ["d"]


def test_settings_that_make_no_lab_are_refused_with_what_to_do(outside: Outside) -> None:
    apart = replace(outside.settings, nginx=NginxSettings(namespace="elsewhere"))
    with pytest.raises(InvalidRequest, match=r"nginx\.namespace"):
        lab_network(apart)
    far = replace(outside.settings, consul=replace(outside.settings.consul, join=("192.0.2.1",)))
    with pytest.raises(InvalidRequest, match=r"192\.0\.2\.1"):
        lab_network(far)


def test_consul_is_found_a_second_time_without_fetching(outside: Outside) -> None:
    assert find_consul(outside.settings.cache_dir) == find_consul(outside.settings.cache_dir)
