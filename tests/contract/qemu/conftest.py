"""What the suites of the QEMU driver share."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.small_vm import SmallWorld, assert_empty


@pytest.fixture
def world(small_parent: SmallWorld) -> Iterator[SmallWorld]:
    """Give the shared parent's world; nothing of a test's children remains in it."""
    yield small_parent
    small_parent.clear()
    assert_empty(small_parent)


@pytest.fixture
def mounted(small_parent: SmallWorld, tmp_path: Path) -> Iterator[Callable[[str], SmallWorld]]:
    """Give a way to copy the parent into a file system of its own."""
    place, run = tmp_path / "small-disk", Path(f"{small_parent.settings.run_dir}m")

    def make(options: str) -> SmallWorld:
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "forkyard-test", str(place)], check=True)
        copy = small_parent.copied(place)
        return replace(copy, settings=replace(copy.settings, run_dir=run))

    yield make
    subprocess.run(["umount", str(place)], check=True)
    shutil.rmtree(run, ignore_errors=True)
