"""The served deployment on a real Prefect: a run that was only begun there is refused, an approved one gets through."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.runs import Progress, Runs
from forkyard.approvals import Approval, Kind, sign
from forkyard.model import ScaleRequest
from forkyard.names import new_request_id
from forkyard.requests import Need, Request, State
from forkyard.requests.desk import Desk
from forkyard.requests.looking import to_scale_request
from forkyard.requests.moves import make_entry, send_back
from forkyard.requests.plans import PlanRecord
from forkyard.requests.starting import drop_unwanted
from forkyard.requests.store import Store, open_store
from forkyard.settings import Settings
from tests.support.lab import until


@pytest.fixture
def runs(prefect_lab: Settings) -> Runs:
    return Runs(prefect_lab.prefect.api_url)


@pytest.fixture
def store(prefect_lab: Settings) -> Iterator[Store]:
    with open_store(prefect_lab) as opened:
        yield opened


def look_at_nothing(settings: Settings, request: Request) -> PlanRecord:
    raise AssertionError(settings, request)


def follow(runs: Runs, run_id: str) -> list[Progress]:
    return list(runs.follow(run_id))


def put(store: Store, start_at: datetime | None) -> Request:
    """An approved request: its fleet is not there, so its run can only come as far as the lease."""
    request_id = new_request_id()
    plan = PlanRecord(
        request_id=request_id,
        service="game",
        current=0,
        target=2,
        forks=2,
        retires=0,
        removes=0,
        start_at=start_at,
    )
    row = Request(
        id=request_id,
        state=State.AWAITING,
        service="game",
        target=2,
        requested_by="U1",
        requested_at=datetime.now(UTC),
        start_at=start_at,
        plan=plan,
        need=Need.REQUESTER,
    )
    row, _ = store.add(row, make_entry(row, "U1", "scale"))
    yes = Approval(request_id=row.id, plan_hash=plan.hash, approver="U1", at=datetime.now(UTC), kind=Kind.REQUESTER)
    row = store.approve(row, plan, sign(store.key, yes), make_entry(row, "U1", "approve"))
    return row if start_at is None else store.move(row, State.SCHEDULED, make_entry(row, "forkyard", "schedule"))


def test_a_run_that_was_only_begun_in_prefect_is_refused(runs: Runs, store: Store) -> None:
    request = ScaleRequest(new_request_id(), "game", 2, "eve", datetime.now(UTC))
    run_id = runs.start_scale(request)
    follow(runs, run_id)
    result = runs.result(run_id)
    assert result is not None
    assert result["refused"] is True
    assert "this run may not change anything: it is no request on record" in result["message"]
    assert store.read_log(about=request.id)[-1].entry.decision == "refused"


@pytest.mark.parametrize("flow", ["scale", "reap"])
def test_whoever_begins_a_run_does_not_choose_the_file_that_it_goes_by(runs: Runs, tmp_path: Path, flow: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        theirs.settimeout(0.1)
        file = tmp_path / "forkyard.toml"
        port = theirs.getsockname()[1]
        # The key of the approvals would be sent along as Consul's token.
        file.write_text(f'[consul]\nurl = "http://127.0.0.1:{port}"\ntoken_file = "{tmp_path}/key"\n[services.game]\n')
        (tmp_path / "key").write_text("the key")
        asked = {"service": "game", "dry_run": True, "config": str(file), **({"target": 2} if flow == "scale" else {})}
        run_id = runs.start(flow, asked, name=flow, key=new_request_id(), tags=["forkyard"])
        *_, last = follow(runs, run_id)
        with pytest.raises(TimeoutError):
            theirs.accept()
    assert last.final


def test_only_runs_ahead_that_no_request_waits_for_are_taken_back(
    prefect_lab: Settings, runs: Runs, store: Store
) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    cancelled, sent_back, wanted, unnamed = (put(store, ahead) for _ in range(4))
    # The runner has it already, and its process waits for the moment.
    soon = put(store, datetime.now(UTC) + timedelta(seconds=9))
    of = {row.id: runs.start_scale(to_scale_request(row), at=ahead) for row in (cancelled, sent_back, wanted)}
    # Begun by somebody who has not come to name it in its request's row, and by one who keeps no record.
    of[unnamed.id] = runs.start_scale(to_scale_request(unnamed), at=ahead)
    stranger = ScaleRequest(new_request_id(), "game", 2, "root", datetime.now(UTC))
    of[stranger.id] = runs.start_scale(stranger, at=ahead)
    of[soon.id] = runs.start_scale(to_scale_request(soon), at=soon.start_at)
    until(lambda: runs.progress(of[soon.id]).state == "PENDING", seconds=8, what="the runner has it")
    for row in (cancelled, sent_back, wanted, soon):
        store.amend(row, run_id=of[row.id])
    for row in (cancelled, soon):
        store.move(store.get(row.id), State.CANCELLED, make_entry(row, "U1", "cancel"))
    send_back(store, prefect_lab, store.get(sent_back.id), "the fleet is another one", None)

    dropped = drop_unwanted(Desk(store, lambda: prefect_lab, look_at_nothing), runs)

    assert set(dropped) == {of[cancelled.id], of[sent_back.id], of[soon.id]}
    until(
        lambda: {runs.progress(run_id).state for run_id in dropped} == {"CANCELLED"}, seconds=15, what="all are ended"
    )
    kept = {of[wanted.id], of[unnamed.id], of[stranger.id]}
    assert kept <= runs.list_ahead().keys()
    for run_id in kept:
        runs.cancel(run_id)


def test_an_approved_run_begins_at_its_moment_passes_the_gate_and_puts_its_end_on_record(
    runs: Runs, store: Store
) -> None:
    start = datetime.now(UTC) + timedelta(seconds=4)
    row = put(store, start)
    run_id = runs.start_scale(to_scale_request(row), at=start)
    assert runs.start_scale(to_scale_request(row), at=start) == run_id
    first, *_ = follow(runs, run_id)
    # Pending: the runner has it already, and waits for the moment.
    assert first.state in {"SCHEDULED", "PENDING"}
    entries = {logged.entry.action: logged for logged in store.read_log(about=row.id)}
    assert {"start", "finish"} <= set(entries)
    late = (entries["start"].at - start).total_seconds()
    # Not early; how late is measured elsewhere, on a machine that does nothing else.
    assert -1 < late < 60, late
    ended = store.get(row.id)
    assert (ended.state, ended.run_id) == (State.FAILED, run_id)
    assert "http://127.0.0.1:1" in ended.error
