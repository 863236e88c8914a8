"""A flow that is killed at any moment leaves nothing that the reaper does not find."""

import os
import signal

import httpx
import psutil
import pytest
from pyroute2 import IPRoute

from forkyard.balancer.nginx import NginxBalancer
from forkyard.hypervisors.qemu.instance import get_process, read_instance
from lab.daemons import call_inside
from tests.support.lab import Lab, until

MOMENTS = (0.1, 0.4, 0.8, 1.2, 1.7, 2.3, 3.0, 4.0, 5.5, 7.5)
"""Seconds after the first sign of the flow's work: from before the first fork to after the last registration."""


@pytest.mark.parametrize("seconds", MOMENTS)
def test_after_kill_9_reap_and_the_same_command_again_the_fleet_is_exactly_as_asked(
    empty_lab: Lab, seconds: float
) -> None:
    command = empty_lab.start("scale", "game", "--to", "3", "--json")
    flow = _flow_process(empty_lab)
    _let_it_work(flow, seconds)
    _kill_tree(flow)
    # The runner tells of the dead process at once, and the command ends by itself.
    command.communicate(timeout=180)

    reaped = empty_lab.run("reap")
    again = empty_lab.scale(3)

    assert reaped.code == 0, reaped.err
    assert again.code == 0, again.err
    children = again.json["children"]
    assert again.json["serving"] == 3
    _assert_nothing_stray(empty_lab, {child["name"] for child in children}, {child["pid"] for child in children})


def _flow_process(lab: Lab) -> psutil.Process:
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [process for process in psutil.process_iter(["name", "environ"]) if _is_flow(process, lab)]
        return bool(found)

    until(look, seconds=60, what="a process of the flow")
    return found[0]


def _is_flow(process: psutil.Process, lab: Lab) -> bool:
    # A run is forked from a process that has imported all; its name is its own, its environment the other's.
    environ = process.info["environ"] or {}
    return process.info["name"] == "forkyard-run" and environ.get("PREFECT_API_URL") == lab.settings.prefect.api_url


def _let_it_work(flow: psutil.Process, seconds: float) -> None:
    try:
        flow.wait(timeout=seconds)
    except psutil.TimeoutExpired:
        return


def _kill_tree(flow: psutil.Process) -> None:
    # QEMU processes are sessions of their own and no business of whoever started them.
    try:
        os.kill(flow.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _assert_nothing_stray(lab: Lab, names: set[str], pids: set[int]) -> None:
    # The run has reported, and may still be starting what waits for the next forks.
    until(lambda: _qemus(lab) - _standbys(lab) == pids, seconds=30, what="no other QEMU than the children's")
    assert {path.name for path in (lab.settings.state_dir / "vms").iterdir() if path.is_dir()} == names
    entries = httpx.get(f"{lab.settings.consul.url}/v1/catalog/service/game", timeout=10).json()
    assert {entry["Node"] for entry in entries} == names
    upstream = NginxBalancer(lab.settings.nginx).upstream("game")
    assert upstream is not None
    assert {server.name for server in upstream.servers} == names
    until(lambda: len(_taps(lab)) == len(names) + len(_standbys(lab)), seconds=30, what="no other device either")


def _qemus(lab: Lab) -> set[int]:
    run, state = str(lab.settings.run_dir), str(lab.settings.state_dir)
    return {
        process.pid
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"].startswith("qemu-system")
        # None: it ends at this very moment.
        and any(run in word or state in word for word in process.info["cmdline"] or ())
    }


def _standbys(lab: Lab) -> set[int]:
    """The processes that wait for the next forks, as many as the settings allow and no more."""
    places = (lab.settings.state_dir / "standby").glob("[!.]*")
    instances = [read_instance(lab.settings.run_dir, place) for place in places]
    processes = [get_process(instance) for instance in instances if instance is not None]
    assert len(processes) <= lab.settings.qemu.standbys
    return {process.pid for process in processes if process is not None}


def _taps(lab: Lab) -> list[str]:
    namespace = lab.settings.qemu.namespace
    assert namespace is not None
    return [name for name in call_inside(namespace, _devices) if name not in {"lo", lab.settings.qemu.bridge}]


def _devices() -> list[str]:
    with IPRoute() as links:
        return [link.get_attr("IFLA_IFNAME") for link in links.get_links()]
