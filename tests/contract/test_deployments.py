"""The files that an operator takes from deployments/: each judged by the program that reads it."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from forkyard.balancer.nginx_config import UpstreamFile, render_client_timeouts, render_upstream
from forkyard.model import Upstream
from forkyard.settings import Settings
from lab.consul import find_consul
from lab.consul_cluster import GOSSIP

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
DIRECTORY = Path("/var/lib/forkyard/nginx")


def test_the_upstream_to_begin_with_is_what_forkyard_writes_for_an_empty_one() -> None:
    text = (DEPLOYMENTS / "nginx/upstreams/game.conf").read_text()
    assert text == render_upstream(UpstreamFile(1, Upstream("game", ())), DIRECTORY)


def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    home = tmp_path / "nginx"
    for name in ("nginx.conf", "upstreams/game.conf"):
        text = (DEPLOYMENTS / "nginx" / name).read_text()
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only what depends on this machine: its directories, and a port that nobody else listens at.
        path.write_text(text.replace(str(DIRECTORY), str(home)).replace("listen 80 ", f"listen unix:{home}/80.sock "))
    (home / "tmp").mkdir()
    judged = run(["nginx", "-t", "-p", f"{home}/", "-c", str(home / "nginx.conf")])
    assert judged.returncode == 0, judged.stderr


def test_nginx_keeps_no_idle_clients_as_the_oldest_version_needs() -> None:
    assert render_client_timeouts((1, 22, 1)) in (DEPLOYMENTS / "nginx/nginx.conf").read_text()


@pytest.mark.parametrize("name", ["server.json", "client.json"])
def test_consul_takes_the_configuration(name: str) -> None:
    judged = run([str(find_consul(Settings().cache_dir)), "validate", str(DEPLOYMENTS / "consul" / name)])
    assert judged.returncode == 0, judged.stdout + judged.stderr
    # Agents that judge each other by different clocks throw each other out.
    assert json.loads((DEPLOYMENTS / "consul" / name).read_text())["gossip_lan"] == GOSSIP


@pytest.mark.parametrize("unit", sorted(path.name for path in (DEPLOYMENTS / "systemd").glob("*.service")))
def test_systemd_understands_the_unit(unit: str, tmp_path: Path) -> None:
    text = (DEPLOYMENTS / "systemd" / unit).read_text()
    # The programs are not installed here at the operator's paths.
    (tmp_path / unit).write_text(text.replace("/opt/forkyard/.venv/bin/", "/usr/bin/env "))
    judged = run(["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)])
    complaints = [line for line in judged.stderr.splitlines() if unit in line]
    assert not complaints, judged.stderr
    assert judged.returncode == 0, judged.stderr


def run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
