"""What the suites of the vSphere driver share."""

from collections.abc import Iterator

import pytest

from tests.support.vsphere import VsphereWorld


@pytest.fixture
def world(vsphere_yard: VsphereWorld) -> Iterator[VsphereWorld]:
    """Give the vCenter as it was in the beginning; nothing remains in it."""
    yield vsphere_yard
    vsphere_yard.clear()
    assert vsphere_yard.children() == []
