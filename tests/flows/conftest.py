"""A pretended world and a real Prefect server for the flows' tests."""

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness

from tests.flows.yard import Yard, make_yard


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One real Prefect server for all tests: it takes ten seconds to start."""
    with prefect_test_harness():
        yield


@pytest.fixture
def yard() -> Yard:
    """A world with one frozen parent and no child."""
    return make_yard()
