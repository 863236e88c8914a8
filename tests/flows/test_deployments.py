"""`deployments/prefect.yaml` is accepted by the program that reads it, and describes the flows that there are."""

import os
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import get_client

from forkyard.settings import Settings
from lab.prefect import make_environment

ROOT = Path(__file__).resolve().parents[2]


def run_prefect(lab: Settings, *words: str) -> str:
    """Run the `prefect` command against the lab's server."""
    environment = make_environment(lab, None) | {
        "FORKYARD_HOME": str(ROOT),
        "PATH": os.defpath,
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_deployments_can_be_made_from_the_file(prefect_lab: Settings, prefect_server: str) -> None:
    run_prefect(prefect_lab, "work-pool", "create", "forkyard", "--type", "process")
    run_prefect(prefect_lab, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("scale/scale")
    assert found.work_pool_name == "forkyard"
    assert found.entrypoint == "flows/scale.py:scale"
    assert prefect_server
