"""The same commands on a cluster of ESXi hosts: the simulated vCenter; everything else is the real thing."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkyard.settings import Settings
from lab.own_vcenter import make_vcenter
from lab.vsphere import find_vcenter
from tests.support.lab import Lab, running_lab, until, write_config
from tests.support.vcenter import RunningVCenter

HOSTS = 8
RUN_DIR = Path("/run/fy-e2v")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a vCenter of its own, beside the lab of the other tests."""
    directory = tmp_path_factory.mktemp("cluster")
    config = write_config(directory, RUN_DIR, Settings().cache_dir, namespace="fy-e2v", network="10.83")
    with running_lab(config, "--hypervisor", "vsphere", "--hosts", str(HOSTS)) as lab:
        yield lab


@pytest.fixture
def vcenter(cluster: Lab) -> Iterator[RunningVCenter]:
    """Its vCenter, calm; the fleet is empty before the test and after it."""
    made = make_vcenter(cluster.settings)
    door = find_vcenter(made)
    assert door is not None
    running = RunningVCenter(made, door)
    empty(cluster)
    try:
        yield running
    finally:
        running.calm()
        empty(cluster)
        running.close()


def empty(cluster: Lab) -> None:
    answer = cluster.scale(0)
    assert answer.code == 0, answer.err


def hosts_of(cluster: Lab) -> Counter[str]:
    """How many children each ESXi host has."""
    return Counter(child["host"] for child in cluster.game()["children"] if child["phase"] == "serving")


def children_of(vcenter: RunningVCenter) -> set[str]:
    """All machines that vCenter has beside the parents."""
    return {name for name in vcenter.machines() if not name.startswith("game-parent-")}


def test_forty_children_are_spread_evenly_and_all_answer_through_nginx(cluster: Lab, vcenter: RunningVCenter) -> None:
    answer = cluster.scale(40)

    assert answer.code == 0, answer.err
    names = {child["name"] for child in answer.json["children"]}
    assert (answer.json["serving"], len(names)) == (40, 40)
    assert sorted(hosts_of(cluster).values()) == [5] * HOSTS
    assert children_of(vcenter) == names
    assert cluster.who_answers(200) == names

    assert cluster.scale(0).code == 0
    assert children_of(vcenter) == set()


def test_the_labs_status_says_how_others_get_into_its_vcenter(cluster: Lab, vcenter: RunningVCenter) -> None:
    answer = cluster.run("lab", "status", "--json")

    assert answer.code == 0, answer.err
    door = vcenter.door
    shown = {"url": door.url, "user": door.user, "password": door.password, "thumbprint": door.thumbprint}
    assert answer.json["vcenter"] == shown


def test_a_vcenter_that_restarts_in_the_middle_leaves_the_fleet_as_asked(cluster: Lab, vcenter: RunningVCenter) -> None:
    vcenter.delay("InstantClone_Task", seconds=1, serialized=0.3)
    vcenter.calls(reset=True)
    process = cluster.start("scale", "game", "--to", "24", "--json")
    until(lambda: vcenter.calls().get("InstantClone_Task", 0) >= 8, seconds=60, what="the first forks")
    vcenter.restart(seconds=2)
    out, err = process.communicate(timeout=180)

    assert process.returncode == 0, f"{out}\n{err}"
    game = cluster.game()
    assert (game["wanted"], game["serving"], len(game["children"])) == (24, 24, 24)
    assert children_of(vcenter) == {child["name"] for child in game["children"]}


def test_a_host_in_maintenance_gets_no_children_and_the_others_take_its_share(
    cluster: Lab, vcenter: RunningVCenter
) -> None:
    away = min(machine["host"] for machine in vcenter.machines().values())
    vcenter.set_host(away, maintenance=True)

    answer = cluster.scale(14)

    assert answer.code == 0, answer.err
    counts = hosts_of(cluster)
    assert away not in counts
    assert sorted(counts.values()) == [2] * (HOSTS - 1)
