"""
What holds for every test: the order from quick to slow, no hidden skip in CI, and nothing left behind.

Every process that a test starts inherits `FORKYARD_TEST_RUN`, and is known by it at the end.
"""

import os
import signal
import threading
import uuid
from collections.abc import Generator, Iterator

import pytest

from forkyard.errors import NotReady
from tests.support.leftovers import TEST_RUN, observe_traces, wait_until_gone

LAYERS = {"unit": 60, "contract": 300, "flows": 300, "bot": 120, "e2e": 1800}
"""Folders in the order in which they run, and the seconds that a test may take there, its fixtures included."""

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}  # noqa: TID251 - pytest has no settings of ours

# Whoever runs the tests in the background, or under nohup, has them inherit ignored signals, and so would every
# process that they start; but they interrupt commands as a person at a terminal does.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Before anything is imported that starts a process.
os.environ[TEST_RUN] = uuid.uuid4().hex  # noqa: TID251 - the way to mark all descendants


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order from quick to slow: a broken rule is known before the first VM boots."""
    order = list(LAYERS)
    items.sort(key=lambda item: order.index(_layer_of(item)))
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LAYERS[_layer_of(item)]))


def _layer_of(item: pytest.Item) -> str:
    parts = item.path.relative_to(item.config.rootpath).parts
    return next((layer for layer in LAYERS if layer in parts), "unit")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail in CI what would be skipped, unless the test is marked `may_skip_in_ci`."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if IN_CI and skipped and item.get_closest_marker("may_skip_in_ci") is None:
        report.outcome = "failed"
        report.longrepr = f"skipped, and must run in CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail in CI a module that skips itself as a whole."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and must run in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def nothing_remains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Assert at the very end that no process, namespace, mount or thread of this run remains."""
    base = tmp_path_factory.getbasetemp()
    before = observe_traces(base)
    yield
    try:
        wait_until_gone(base, before)
    except NotReady:
        left = observe_traces(base) - before
        pytest.fail(f"The tests left behind: {left.describe()}", pytrace=False)
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    lasting = [name for name in threads if name.startswith("forkyard")]
    assert not lasting, f"threads of ours that nobody stopped: {lasting}"
