"""What several contract suites share."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.outside import Outside, outside_world
from tests.support.small_vm import SmallWorld, assert_empty, small_world
from tests.support.vsphere import VsphereWorld, vsphere_world


@pytest.fixture(scope="package")
def small_parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorld]:
    """Boot and freeze one small parent for all tests; who breaks it works on a copy."""
    with small_world(tmp_path_factory.mktemp("qemu")) as world:
        world.start_parent()
        yield world


@pytest.fixture
def copy(small_parent: SmallWorld, tmp_path: Path) -> Iterator[SmallWorld]:
    """Give a copy of the small parent, to be broken."""
    copy = small_parent.copied(tmp_path)
    # Sockets need short paths.
    run = Path(f"{small_parent.settings.run_dir}c")
    copy = replace(copy, settings=replace(copy.settings, run_dir=run))
    yield copy
    copy.clear()
    assert_empty(copy)
    shutil.rmtree(run, ignore_errors=True)


@pytest.fixture(scope="package")
def vsphere_yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VsphereWorld]:
    """Start one vCenter for all tests of the vSphere driver; who breaks it mends it with `clear`."""
    with vsphere_world(tmp_path_factory.mktemp("vsphere")) as world:
        yield world


@pytest.fixture(scope="package")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """Consul, Nginx and stand-ins for children, for all tests of registry, balancer and sync."""
    with outside_world(tmp_path_factory.mktemp("outside")) as world:
        yield world
