"""The guest agent on a pretended machine: real Docker, real Consul, real network devices, real kernel randomness."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import NetNS

from forkyard import wire
from forkyard.waiting import wait_for
from tests.support.agent_world import (
    PARENT_MAC,
    PATIENCE,
    SERVER,
    AgentMachine,
    agent_machine,
    consul_get,
    make_identity,
)

APP = {
    "SERVICE_NAME": "game",
    "SERVICE_TAGS": "a,b",
    "SERVICE_CHECK_HTTP": "/cgi-bin/healthz",
    "SERVICE_CHECK_INTERVAL": "1s",
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentMachine]:
    """Network, Docker with the app's container, and a Consul server, for all tests of this module."""
    with agent_machine(tmp_path_factory.mktemp("agent")) as machine:
        machine.run_container("app", port=8081, labels=APP, restart=True)
        yield machine


@pytest.fixture
def machine(host: AgentMachine) -> Iterator[AgentMachine]:
    """The machine at its fork point, with a fresh agent and a fresh Consul agent."""
    host.reset_network()
    host.start_agent()
    host.start_consul()
    host.wait_until("waiting")
    yield host
    host.end("agent")
    host.end("consul")
    host.forget()


@pytest.fixture
def child(machine: AgentMachine) -> AgentMachine:
    """The machine with an identity and a network."""
    machine.identity = make_identity()
    assert identify(machine, machine.identity)["ok"]
    assert machine.ask(verb="network")["ok"]
    wait_for(lambda: listed(machine, "game") or None, what="game in Consul", timeout=PATIENCE)
    return machine


def identify(machine: AgentMachine, identity: wire.Identity) -> dict[str, Any]:
    """One identify request."""
    return machine.ask(verb="identify", identity=wire.identity_to_wire(identity))


def listed(machine: AgentMachine, service: str) -> list[dict[str, Any]]:
    """The entries of a service at the Consul server."""
    found: list[dict[str, Any]] = consul_get(machine.outside, f"/v1/health/service/{service}", (SERVER, 8500))
    return found or []


def statuses(machine: AgentMachine, service: str) -> set[str]:
    """What the server knows of the checks of the service."""
    return {check["Status"] for entry in listed(machine, service) for check in entry["Checks"]}


def checks_made(machine: AgentMachine, container: str) -> int:
    """How often the app's health was asked."""
    return int(machine.in_container(container, "wc -l < /tmp/asked"))


def eventually(look: Callable[[], bool], what: str) -> None:
    """Pass as soon as *look* is true."""
    wait_for(lambda: look() or None, what=what, timeout=timedelta(seconds=30))


def test_all_points_are_taken_and_proved(machine: AgentMachine) -> None:
    identity = make_identity(1)
    report = wire.report_from_wire(identify(machine, identity)["report"])
    assert report.proved
    values = {p.point: p.value for p in report.points}
    assert values["mac"] == identity.mac
    assert values["address"] == identity.address
    assert values["hostname"] == identity.name
    assert values["machine_id"] == identity.machine_id
    assert values["consul_node"] == f"{identity.name} {identity.consul_node_id}"
    assert values["fork_uuid"] == identity.fork_id
    assert machine.state() == "identified"


def test_the_kernel_has_what_the_report_says(machine: AgentMachine) -> None:
    identity = make_identity(2)
    assert identify(machine, identity)["ok"]
    with NetNS(machine.namespace) as kernel:
        (device,) = kernel.get_links(ifname="eth0")
        addresses = [a.get_attr("IFA_LOCAL") for a in kernel.get_addr(index=device["index"], family=2)]
    assert device.get_attr("IFLA_ADDRESS") == identity.mac != PARENT_MAC
    assert addresses == [identity.address.partition("/")[0]]
    pid = machine.processes["agent"].pid
    name = subprocess.run(["nsenter", f"--uts=/proc/{pid}/ns/uts", "hostname"], capture_output=True, check=True)
    assert name.stdout.decode().strip() == identity.name


def test_two_children_differ_in_every_point_that_must(host: AgentMachine) -> None:
    values: list[dict[str, str]] = []
    for ordinal in (1, 2):
        host.reset_network()
        host.start_agent()
        host.start_consul()
        host.wait_until("waiting")
        report = wire.report_from_wire(identify(host, make_identity(ordinal))["report"])
        values.append({p.point: p.value for p in report.points})
        host.end("agent")
        host.end("consul")
        host.forget()
    same = {point for point in wire.POINTS if values[0][point] == values[1][point]}
    assert same <= {"clock", "tcp_connections"}


def test_identity_json_has_all_but_the_seed(machine: AgentMachine) -> None:
    identity = make_identity()
    assert identify(machine, identity)["ok"]
    text = (machine.directory / "shared/identity.json").read_text()
    assert json.loads(text)["fork_id"] == identity.fork_id
    assert identity.seed not in text
    assert identity.seed not in machine.log("agent")


def test_nothing_is_registered_before_the_network_is_there(machine: AgentMachine) -> None:
    assert identify(machine, make_identity())["ok"]
    assert listed(machine, "game") == []
    assert consul_get(machine.outside, "/v1/catalog/node/game-test-1", (SERVER, 8500)) is None


def test_a_child_is_passing_at_once_under_its_own_name(child: AgentMachine) -> None:
    (entry,) = listed(child, "game")
    assert child.identity is not None
    assert entry["Node"]["Node"] == child.identity.name
    assert entry["Node"]["ID"] == child.identity.consul_node_id
    assert entry["Service"]["Address"] == child.identity.address.partition("/")[0]
    assert entry["Service"]["Port"] == 8081
    assert entry["Service"]["Meta"]["fork_id"] == child.identity.fork_id
    assert {check["Status"] for check in entry["Checks"]} == {"passing"}


def test_the_same_identity_again_gives_the_same_report(machine: AgentMachine) -> None:
    identity = make_identity()
    assert identify(machine, identity) == identify(machine, identity)


def test_another_identity_is_refused_by_who_has_one(machine: AgentMachine) -> None:
    assert identify(machine, make_identity())["ok"]
    answer = identify(machine, make_identity())
    assert not answer["ok"]
    assert "identified already" in answer["error"]


def test_quiesce_then_identify_is_the_way_of_a_fork(machine: AgentMachine) -> None:
    assert machine.ask(verb="quiesce") == {"ok": True, "state": "quiesced"}
    assert identify(machine, make_identity())["ok"]


@pytest.mark.parametrize(
    ("point", "change"),
    [
        ("kernel_rng", {"seed": "AAAA"}),
        ("clock", {"wall_clock": -1e9}),
        ("hostname", {"name": "x" * 80}),
        ("machine_id", {"machine_id": "not hexadecimal"}),
        ("mac", {"mac": "ff:ff:ff:ff:ff:ff"}),
        ("address", {"gateway": "192.0.2.1"}),
    ],
)
def test_an_identity_that_cannot_be_taken_fails_closed(
    machine: AgentMachine, point: str, change: dict[str, Any]
) -> None:
    answer = identify(machine, replace(make_identity(), **change))
    assert not answer["ok"]
    assert answer["error"].startswith(f"{point}: ")
    assert not wire.report_from_wire(answer["report"]).proved
    assert machine.state() == "failed"
    assert not machine.ask(verb="network")["ok"]
    assert listed(machine, "game") == []


def test_an_app_that_insists_on_another_name_fails_closed(machine: AgentMachine) -> None:
    machine.in_container("app", "echo parent > /tmp/stubborn")
    try:
        answer = identify(machine, make_identity())
    finally:
        machine.in_container("app", "rm /tmp/stubborn")
    assert answer["error"].startswith("container_identity: the app says that it is parent")
    assert machine.state() == "failed"


def test_an_app_that_does_not_answer_fails_closed(machine: AgentMachine) -> None:
    machine.in_container("app", "rm /www/cgi-bin/reidentify")
    try:
        assert identify(machine, make_identity())["error"].startswith("app: POST /cgi-bin/reidentify: 404")
    finally:
        machine.restore_app()


def test_a_consul_agent_that_is_not_at_the_gate_fails_closed(machine: AgentMachine) -> None:
    machine.end("consul")
    try:
        answer = identify(machine, make_identity())
    finally:
        machine.start_consul()
    assert answer["error"].startswith("consul_node: no Consul agent waits")


def test_a_failed_machine_may_try_again_and_succeed(machine: AgentMachine) -> None:
    identity = make_identity()
    assert not identify(machine, replace(identity, machine_id=""))["ok"]
    assert identify(machine, identity)["ok"]


def test_the_parents_connections_to_the_outside_are_reset(machine: AgentMachine) -> None:
    with machine.connection_outside() as is_open:
        assert is_open()
        assert identify(machine, make_identity())["ok"]
        assert not is_open()


def test_a_kernel_that_cannot_reset_connections_gets_a_parent_that_has_none(host: AgentMachine) -> None:
    host.reset_network()
    host.start_agent("tests.support.agent_without_reset")
    host.start_consul()
    host.wait_until("waiting")
    with host.connection_outside():
        refused = host.ask(verb="quiesce")
        assert not refused["ok"]
        assert "-10.79.0.1:9999" in refused["error"]
        assert host.state() == "waiting"
    eventually(lambda: host.ask(verb="quiesce")["ok"], "quiesced once the connection is gone")
    assert identify(host, make_identity())["ok"]
    host.end("agent")
    host.end("consul")
    host.forget()


def test_one_failed_check_of_a_service_is_not_believed_and_two_are(child: AgentMachine) -> None:
    late = {"SERVICE_NAME": "late", "SERVICE_CHECK_HTTP": "/cgi-bin/healthz", "SERVICE_CHECK_INTERVAL": "1s"}
    child.run_container("late", port=8082, labels=late)
    for service, container in (("late", "late"), ("game", "app")):  # told by Consul's API, and by its configuration
        eventually(lambda service=service: statuses(child, service) == {"passing"}, f"{service} passing")  # type: ignore[misc]
        # Says 503 to the next check, and 200 again.
        child.in_container(container, "echo 503 > /tmp/once")
        before = checks_made(child, container)
        eventually(lambda container=container, n=before: checks_made(child, container) > n + 1, "two checks")  # type: ignore[misc]
        assert statuses(child, service) == {"passing"}
        child.in_container(container, "echo 503 > /tmp/health")
        eventually(lambda service=service: "critical" in statuses(child, service), f"{service} critical")  # type: ignore[misc]
        child.in_container(container, "rm /tmp/health")
    child.remove_container("late")


def test_a_container_that_starts_is_registered_and_one_that_stops_is_gone(child: AgentMachine) -> None:
    child.run_container("late", port=8082, labels={"SERVICE_NAME": "late"})
    eventually(lambda: len(listed(child, "late")) == 1, "late registered")
    child.remove_container("late")
    eventually(lambda: listed(child, "late") == [], "late deregistered")


def test_what_dangles_after_the_agent_was_away_is_removed(child: AgentMachine) -> None:
    child.run_container("short", port=8083, labels={"SERVICE_NAME": "short"})
    eventually(lambda: len(listed(child, "short")) == 1, "short registered")
    child.end("agent")
    child.remove_container("short")
    child.start_agent()
    child.wait_until("identified")
    eventually(lambda: listed(child, "short") == [], "short deregistered")
    assert len(listed(child, "game")) == 1


def test_a_registration_of_somebody_elses_is_left_alone(child: AgentMachine) -> None:
    child.register_by_hand("theirs")
    child.run_container("other", port=8084, labels={"SERVICE_NAME": "other"})
    eventually(lambda: len(listed(child, "other")) == 1, "other registered")
    child.remove_container("other")
    eventually(lambda: listed(child, "other") == [], "other deregistered")
    eventually(lambda: len(listed(child, "theirs")) == 1, "theirs registered, and left")


def test_a_consul_agent_that_starts_again_has_everything_again(child: AgentMachine) -> None:
    child.end("consul")
    assert child.own_services() is None
    child.start_consul()
    eventually(lambda: "forkyard:app:8080" in (child.own_services() or {}), "game with the new Consul agent")
    eventually(lambda: len(listed(child, "game")) == 1, "game at the server")


def test_a_docker_that_starts_again_has_its_containers_registered_again(child: AgentMachine) -> None:
    child.end("dockerd")
    child.start_docker()
    child.run_container("anew", port=8085, labels={"SERVICE_NAME": "anew"})
    eventually(lambda: len(listed(child, "anew")) == 1, "anew registered")
    eventually(lambda: len(listed(child, "game")) == 1, "game still registered")
    child.remove_container("anew")


def test_nonsense_is_answered_as_such_and_the_next_request_is_heard(machine: AgentMachine) -> None:
    assert "not JSON" in str(machine.ask_line(b"nonsense\n")["error"])
    assert "no such verb" in str(machine.ask(verb="explode")["error"])
    assert "identity: not an object" in str(machine.ask(verb="identify")["error"])
    assert machine.state() == "waiting"


def test_at_the_fork_point_the_agent_uses_no_cpu_time(machine: AgentMachine) -> None:
    stat = Path(f"/proc/{machine.processes['agent'].pid}/stat")

    def used() -> list[str]:
        return stat.read_text().rpartition(")")[2].split()[11:13]

    before = used()
    with pytest.raises(Exception, match="nothing"):
        wait_for(lambda: None, what="nothing", timeout=timedelta(seconds=3), slowest=timedelta(seconds=3))
    assert used() == before
