"""The runbook as a Prefect flow on a real server: its task runs, its artifacts, its states."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import State
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import Artifact, FlowRun

from flows.scale import RUNNER, scale_with
from forkyard.errors import PermanentError, Unavailable, VerificationFailed
from forkyard.report import report_from_json
from forkyard.waiting import wait_for
from tests.flows.yard import Yard

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    """A client of the server."""
    with get_client(sync_client=True) as made:
        yield made


def run_flow(yard: Yard, target: int) -> State[Any]:
    """Carry out a request as a flow's run."""

    @flow(name="scale", task_runner=RUNNER, persist_result=False)
    def scale() -> State[Any] | dict[str, object]:
        return scale_with(yard.world, yard.request(target))

    found: State[Any] = scale(return_state=True)
    return found


def list_artifacts(client: SyncPrefectClient, state: State[Any]) -> dict[str, Artifact]:
    """The run's artifacts by kind."""
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    return {str(artifact.type): artifact for artifact in client.read_artifacts(artifact_filter=wanted)}


def read_run(client: SyncPrefectClient, state: State[Any]) -> FlowRun:
    """The run."""
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    (found,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
    return found


def test_up_and_down_complete(yard: Yard) -> None:
    assert run_flow(yard, 4).is_completed()
    assert len(yard.serving()) == 4
    assert run_flow(yard, 1).is_completed()
    assert len(yard.names()) == 1


def test_every_artifact_can_be_seen(yard: Yard, client: SyncPrefectClient) -> None:
    found = list_artifacts(client, run_flow(yard, 3))
    assert set(found) == {"progress", "result", "table", "markdown", "image"}
    assert found["progress"].data == 100.0
    assert len(json.loads(str(found["table"].data))) == 3
    assert "3 of 3 serving" in str(found["markdown"].data)
    assert str(found["image"].data).startswith("data:image/svg+xml;base64,")


def test_the_result_can_be_read_back(yard: Yard, client: SyncPrefectClient) -> None:
    found = list_artifacts(client, run_flow(yard, 2))
    report = report_from_json(json.loads(str(found["result"].data)))
    assert (report.ok, report.wanted, report.serving, len(report.children)) == (True, 2, 2, 2)


def test_each_child_has_its_task_runs_by_the_words_of_the_runbook(yard: Yard, client: SyncPrefectClient) -> None:
    state = run_flow(yard, 2)
    run = read_run(client, state)
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))

    def look() -> list[str] | None:
        # Task runs reach the server by events, a moment after the run.
        names = sorted(found.name for found in client.read_task_runs(flow_run_filter=wanted))
        return names if len(names) == 11 else None

    names = wait_for(look, what="task runs", timeout=timedelta(seconds=20))
    first, second = yard.names()
    for stage in ("fork-children", "customize-guest", "verify-consul-registration"):
        assert f"{stage} {first}" in names
        assert f"{stage} {second}" in names
    assert "quiesce-parent game" in names
    assert any(name.startswith("update-nginx") for name in names)


def test_what_is_not_as_asked_is_a_failed_run_that_says_why(yard: Yard) -> None:
    yard.fake.fail("identify", VerificationFailed("mac: still the parent's"))
    state = run_flow(yard, 2)
    assert state.is_failed()
    assert "0 of 2 serving" in (state.message or "")
    assert yard.names() == []


def test_a_task_is_run_again_when_it_failed_for_a_moment(yard: Yard) -> None:
    yard.fake.fail("apply", Unavailable("nginx is reloading"), times=1)
    assert run_flow(yard, 1).is_completed()
    assert yard.fake.counted()["apply"] == 2


def test_a_task_is_not_run_again_when_it_failed_for_good(yard: Yard) -> None:
    yard.fake.fail("freeze", PermanentError("the parent's disk is broken"))
    state = run_flow(yard, 1)
    assert state.is_failed()
    assert "the parent's disk is broken" in (state.message or "")
    assert yard.fake.counted()["freeze"] == 1


def test_a_bug_keeps_its_traceback(yard: Yard) -> None:
    def broken(_service: str) -> None:
        raise ZeroDivisionError

    yard.world.registry.intent = broken  # type: ignore[method-assign, assignment]
    state = run_flow(yard, 1)
    assert state.is_failed()
    with pytest.raises(ZeroDivisionError):
        state.result()
