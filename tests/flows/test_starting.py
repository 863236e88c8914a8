"""From approved requests to runs, and from runs that ended without a word back to requests; for all who follow them."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forkyard.approvals import make_warrant
from forkyard.errors import PermanentError, Unavailable, Unsupported
from forkyard.model import LeaseHolder, ScaleRequest
from forkyard.requests import Entry, Request, State
from forkyard.requests.gate import admit_direct
from forkyard.requests.looking import learn_from
from forkyard.requests.moves import has_run, make_entry
from forkyard.requests.starting import LOST, Settler, cancel_run, settle_ended, start_due
from tests.flows.office import Office, Run, Server, furnished

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path) as made:
        made.clock.hands = NOW
        yield made


def running(office: Office, *, run_id: str | None = "run-1") -> Request:
    """A request whose run came through the gate."""
    approved = office.approved(4)
    return office.store.move(approved, State.RUNNING, make_entry(approved, "forkyard", "start"), run_id=run_id)


def direct(office: Office) -> Request:
    """A request that runs in the process of the command line."""
    row = replace(running(office), id="d" * 32, run_id=None, event=None, delivery=None, version=0)
    return office.store.add(row, Entry(who="local:root", action="scale"))[0]


def test_a_direct_run_that_was_killed_may_have_changed_the_fleet(office: Office) -> None:
    asked = ScaleRequest("d" * 32, "game", 4, "local:root", NOW)
    warrant = make_warrant(office.settings, asked.id, "game", 4, "local:root")
    row = admit_direct(office.store, office.settings, asked, warrant, "run-9").row
    assert has_run(office.store, office.store.move(row, State.FAILED, make_entry(row, "forkyard", "finish")))


def test_a_request_whose_run_is_refused_keeps_no_other_one_from_its_own(office: Office) -> None:
    server = Server()
    others = [office.approved(number) for number in (3, 4, 5)]
    server.refuses[4] = PermanentError("no such deployment")
    started = start_due(office.desk, server)
    assert {row.target for row in started.rows} == {3, 5}
    ((refused, error),) = started.failed
    assert (refused.id, str(error), started.away) == (others[1].id, "no such deployment", None)


@pytest.mark.parametrize(("error", "up"), [(Unavailable("busy"), True), (PermanentError("connection refused"), False)])
def test_a_server_that_does_not_answer_is_not_asked_for_the_others(
    office: Office,
    error: Exception,
    up: bool,  # noqa: FBT001 - a case
) -> None:
    server = Server()
    for number in (3, 4):
        office.approved(number)
        server.refuses[number] = error  # type: ignore[assignment]
    server.up = up
    started = start_due(office.desk, server)
    assert (started.rows, len(started.failed), started.away) == ([], 1, error)


def test_a_run_that_died_is_settled_and_one_that_lives_is_left(office: Office) -> None:
    server = Server()
    approved = office.approved(4)
    (started,) = start_due(office.desk, server).rows
    assert settle_ended(office.desk, server) == []
    office.store.move(office.store.get(approved.id), State.RUNNING, make_entry(approved, "forkyard", "start"))
    server.states[str(started.run_id)] = "CRASHED"
    (dead,) = settle_ended(office.desk, server)
    assert (dead.id, dead.state) == (approved.id, State.FAILED)
    assert dead.error == ("its run ended as crashed without a report: it said nothing. Look what is there, then retry.")


def test_a_run_that_completed_and_could_not_say_so_has_succeeded_whoever_notices(office: Office) -> None:
    row, settler = running(office), Settler(office.store, patience=3)
    done = Run("COMPLETED", "4 of 4 serving")
    assert [settler.settle(row, done).state for _ in range(2)] == [State.RUNNING] * 2
    assert settler.settle(row, Run("RUNNING")).state is State.RUNNING
    seen = [settler.settle(row, done).state for _ in range(3)]
    assert seen == [State.RUNNING, State.RUNNING, State.SUCCEEDED]


def test_a_run_that_never_came_through_the_gate_has_changed_nothing(office: Office) -> None:
    settler = Settler(office.store)
    ended = settler.settle(office.store.amend(office.approved(4), run_id="run-1"), Run("COMPLETED", "a dry run"))
    assert ended.state is State.FAILED
    assert ended.error == "its run ended as completed before it changed anything: a dry run"


def test_a_direct_run_that_was_killed_fails_when_no_run_takes_so_long(office: Office) -> None:
    row, settler = direct(office), Settler(office.store)
    office.clock.hands = NOW + LOST
    assert settler.settle(row, None) is row
    office.clock.hands += timedelta(seconds=1)
    ended = settler.settle(row, None)
    assert (ended.state, "was killed. Run `forkyard reap`" in ended.error) == (State.FAILED, True)


def test_a_direct_run_cannot_be_cancelled_and_it_is_said_where_it_runs(office: Office) -> None:
    row = direct(office)
    holder = LeaseHolder(row.id, "root", "host-7", 4711, NOW, "")

    def fail(_: str) -> None:
        raise Unavailable

    class Prefect:
        def list_ahead(self) -> dict[str, str]:
            raise AssertionError

        def cancel(self, run_id: str) -> None:
            raise AssertionError(run_id)

    with pytest.raises(Unsupported, match=r"goes on.*Ctrl-C in that terminal, or on host-7: kill -INT 4711\."):
        cancel_run(Prefect(), row, lambda _: holder)
    for nobody in (lambda _: replace(holder, request_id="another"), fail):
        with pytest.raises(Unsupported, match=r"Press Ctrl-C in that terminal\.$"):
            cancel_run(Prefect(), row, nobody)


def test_what_was_rolled_back_tells_how_long_it_took_too(office: Office) -> None:
    report, _ = office.run(office.approved(4))
    assert report.ok
    (row,) = office.store.list_requests(states=[State.SUCCEEDED])
    before = learn_from(office.store, "game")
    assert len(before) == 1
    office.store.move(row, State.ROLLED_BACK, make_entry(row, "forkyard", "rollback"))
    assert learn_from(office.store, "game") == before
