"""One lab for all end-to-end tests: real VMs with Docker in them, a real Consul cluster, Nginx and Prefect."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from forkyard.settings import Settings
from tests.support.lab import Lab, running_lab, write_config

RUN_DIR = Path("/run/fy-e2e")
"""Short, because sockets' paths below it are bounded."""


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab whose frozen parent stays in the cache, because making it means to boot a VM without KVM."""
    cache = Settings().cache_dir
    directory = cache / "e2e"
    directory.mkdir(parents=True, exist_ok=True)
    config = write_config(directory, RUN_DIR, cache, namespace="fy-e2e")
    with running_lab(config) as running:
        yield running


@pytest.fixture
def empty_lab(lab: Lab) -> Iterator[Lab]:
    """The lab without children, before the test and after it."""
    _empty(lab)
    yield lab
    _empty(lab)


def _empty(lab: Lab) -> None:
    lab.run("reap")
    answer = lab.scale(0)
    assert answer.code == 0, answer.err
    assert lab.game()["children"] == []
