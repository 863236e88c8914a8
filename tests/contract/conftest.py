"""What several contract suites share."""

from collections.abc import Iterator

import pytest

from tests.support.small_vm import SmallWorld, small_world


@pytest.fixture(scope="session")
def small_parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorld]:
    """Boot and freeze one small parent for all tests; who breaks it works on a copy."""
    with small_world(tmp_path_factory.mktemp("qemu")) as world:
        world.start_parent()
        yield world
