"""What the suites of the QEMU driver share."""

from collections.abc import Iterator

import pytest

from tests.support.small_vm import SmallWorld, assert_empty


@pytest.fixture
def world(small_parent: SmallWorld) -> Iterator[SmallWorld]:
    """Give the shared parent's world; nothing of a test's children remains in it."""
    yield small_parent
    small_parent.clear()
    assert_empty(small_parent)
