"""What Prefect adds to the same calls without it, with delays as a real hypervisor has them."""

import statistics
import time
from datetime import timedelta

import pytest
from prefect import flow

from flows.scale import RUNNER, scale_with
from tests.flows.yard import Yard, make_yard

BAR = 1.3
"""Wall time with Prefect over wall time without. The fleet's own bench holds 1.15 against longer, real calls."""


def make_slow_yard() -> Yard:
    """A world whose calls take about as long as QEMU's."""
    yard = make_yard()
    for call, seconds in (("fork", 0.8), ("identify", 2.5), ("apply", 0.3), ("probe", 0.3)):
        yard.fake.delay(call, timedelta(seconds=seconds))
    yard.fake.register_after = timedelta(seconds=1)
    yard.fake.pass_after = timedelta(seconds=0.8)
    return yard


def measure_direct() -> float:
    """Seconds to make four children by plain calls."""
    started = time.monotonic()
    assert make_slow_yard().scale(4).ok
    return time.monotonic() - started


def measure_flow() -> float:
    """Seconds to make four children by a flow, its artifacts included."""
    yard = make_slow_yard()

    @flow(name="overhead", task_runner=RUNNER, persist_result=False)
    def overhead() -> None:
        scale_with(yard.world, yard.request(4))

    started = time.monotonic()
    overhead()
    assert len(yard.serving()) == 4
    return time.monotonic() - started


@pytest.mark.usefixtures("prefect_server")
def test_prefect_adds_little() -> None:
    measure_flow()  # what is loaded once is loaded by the process that runs are forked from
    ratios = [measure_flow() / measure_direct() for _ in range(3)]
    assert statistics.median(ratios) <= BAR, ratios
