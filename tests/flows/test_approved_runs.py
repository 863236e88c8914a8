"""What a run may do without, with and against an approval: the desk, the gate and the runbook together."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, update

from flows.executors import DirectExecutor
from flows.runbook import scale_fleet
from forkyard.approvals import Approval, Kind, make_warrant, sign
from forkyard.commands import Amount, Scale
from forkyard.errors import InvalidRequest, NotPermitted, Unavailable
from forkyard.model import ScaleRequest
from forkyard.moments import When
from forkyard.report import Journal
from forkyard.requests import Need, Request, State, StateChanged
from forkyard.requests import tables as t
from forkyard.requests.gate import RecordedGate, admit
from forkyard.requests.looking import to_scale_request
from forkyard.requests.moves import SYSTEM, finish, has_run, make_entry
from forkyard.settings import ChatopsSettings
from tasks.work import Work
from tests.flows.office import APPROVER, ASKER, NOBODY, RUN, Office, furnished


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path) as made:
        yield made


def test_a_request_goes_from_word_to_report(office: Office) -> None:
    request = office.ask(4, reason="sale")
    assert (request.state, request.need) == (State.AWAITING, Need.OTHER)
    assert request.plan is not None
    assert (request.plan.current, request.plan.target, request.plan.forks) == (0, 4, 4)
    approved = office.desk.approve(APPROVER, request.token, plan_hash=request.plan_hash)
    assert approved.state is State.APPROVED
    assert office.desk.due() == [approved]
    report, error = office.run(approved)
    assert (report.ok, error) == (True, None)
    done = office.store.get(request.id)
    assert (done.state, done.run_id, (done.result or {})["serving"]) == (State.SUCCEEDED, RUN, 4)
    actions = [logged.entry.action for logged in office.store.read_log(about=request.id)]
    assert actions == ["scale", "plan", "plan", "approve", "start", "finish"]
    assert office.store.verify_log().whole


def test_what_is_as_asked_already_needs_no_approval_and_no_run(office: Office) -> None:
    office.run(office.approved(4))
    again = office.ask(4)
    assert (again.state, again.run_id, again.target) == (State.SUCCEEDED, None, 4)
    assert office.store.read_log()[-1].entry.detail == "nothing to do"
    assert office.store.verify_log().whole
    with pytest.raises(InvalidRequest, match="never ran"):
        office.desk.rollback(ASKER, again.token)


def test_what_is_as_asked_is_approved_all_the_same_when_it_is_for_later_or_something_else_is_under_way(
    office: Office,
) -> None:
    office.run(office.approved(4))
    assert office.ask(4, at=When(office.clock() + timedelta(hours=1), "Z")).state is State.AWAITING
    assert office.ask(4).state is State.SUCCEEDED
    assert office.ask(6).state is State.AWAITING
    assert office.ask(4).state is State.AWAITING


def test_a_fleet_that_is_smaller_than_its_wish_is_not_as_asked(office: Office) -> None:
    office.run(office.approved(4))
    office.yard.fake.intents["game"] = replace(office.yard.fake.intents["game"], wanted=6)
    assert office.ask(4).state is State.AWAITING


def test_what_holds_for_a_while_is_approved_even_when_it_is_so_already(office: Office) -> None:
    office.run(office.approved(4))
    assert office.ask(4, hold=timedelta(hours=1)).state is State.AWAITING


def test_a_run_that_nobody_approved_changes_nothing(office: Office) -> None:
    waiting = office.ask(4)
    report, error = office.run(waiting)
    assert isinstance(error, StateChanged)
    assert report.refused
    assert office.untouched()
    assert office.state(waiting) is State.AWAITING


def test_a_run_begun_in_the_workflow_server_alone_changes_nothing(office: Office) -> None:
    stranger = ScaleRequest("11111111-0000-4000-8000-000000000000", "game", 4, "eve", datetime.now(UTC))
    with RecordedGate(office.settings, stranger, run_id=RUN) as gate, DirectExecutor() as executor:
        _, error = scale_fleet(Work(office.yard.world, stranger, Journal(datetime.now(UTC)), gate), executor)
    assert isinstance(error, NotPermitted)
    assert "no request on record" in str(error)
    assert office.untouched()
    assert office.store.read_log()[-1].entry.decision == "refused"


def test_a_row_that_says_approved_without_a_signature_is_not_believed(office: Office) -> None:
    waiting = office.ask(4)
    with office.store._write() as connection:  # noqa: SLF001 - what somebody with the database's password could do
        connection.execute(update(t.requests).values(state="approved", need="requester"))
    _, error = office.run(waiting)
    assert isinstance(error, NotPermitted)
    assert "nobody has approved it" in str(error)
    assert office.untouched()


def test_an_approval_that_the_requester_signed_is_not_enough_for_a_large_change(office: Office) -> None:
    waiting = office.ask(4)
    assert waiting.plan is not None
    own = Approval(
        request_id=waiting.id, plan_hash=waiting.plan_hash, approver="U1", at=datetime.now(UTC), kind=Kind.REQUESTER
    )
    office.store.approve(waiting, waiting.plan, sign(office.store.key, own), make_entry(waiting, "U1", "approve"))
    _, error = office.run(waiting)
    assert isinstance(error, NotPermitted)
    assert "another person's approval" in str(error)
    assert office.untouched()


def test_a_row_changed_after_its_approval_is_not_run(office: Office) -> None:
    approved = office.approved(4)
    with office.store._write() as connection:  # noqa: SLF001 - as above
        connection.execute(update(t.requests).values(start_at=office.clock()))
    _, error = office.run(approved)
    assert isinstance(error, NotPermitted)
    assert "somebody changed its row" in str(error)
    assert office.untouched()


def test_a_number_changed_in_the_row_after_its_approval_is_not_what_is_run(office: Office) -> None:
    approved = office.approved(4)
    with office.store._write() as connection:  # noqa: SLF001 - as above
        connection.execute(update(t.requests).values(target=400))
    _, error = office.run(replace(approved, target=400, plan=None))
    assert "the request is for game to 4" in str(error)
    assert office.untouched()
    office.run(office.store.get(approved.id))
    assert len(office.yard.serving()) == 4


def test_a_run_with_another_number_than_was_approved_changes_nothing(office: Office) -> None:
    approved = office.approved(4)
    _, error = office.run(replace(approved, target=5, plan=None))
    assert isinstance(error, NotPermitted)
    assert "the request is for game to 4" in str(error)
    assert office.untouched()


def test_two_runs_of_one_approval_are_one(office: Office) -> None:
    approved = office.approved(4)
    asked = to_scale_request(approved)
    admit(office.store, office.settings, asked, RUN)
    with pytest.raises(StateChanged):
        admit(office.store, office.settings, asked, "run-2")
    assert admit(office.store, office.settings, asked, RUN).row.state is State.RUNNING


def test_a_run_of_a_finished_request_repeated_in_the_workflow_server_changes_nothing(office: Office) -> None:
    approved = office.approved(4)
    office.run(approved)
    office.yard.scale(0)
    report, error = office.run(approved, run_id="run-2")
    assert isinstance(error, StateChanged)
    assert report.serving == 0


def test_a_fleet_that_drifted_sends_the_request_back_with_a_new_plan(office: Office) -> None:
    approved = office.approved(8)
    office.yard.scale(3)
    _, error = office.run(approved)
    assert "3 children count now, and 0 when it was approved" in str(error)
    assert len(office.yard.names()) == 3
    waiting = office.store.get(approved.id)
    assert waiting.state is State.AWAITING
    assert waiting.plan is not None
    assert (waiting.plan.current, waiting.plan.forks) == (3, 5)
    assert waiting.plan_hash != approved.plan_hash
    again = office.desk.approve(APPROVER, waiting.token)
    assert office.run(again, run_id="run-2")[0].ok


def test_a_fleet_that_drifted_a_little_is_scaled_all_the_same(office: Office) -> None:
    approved = office.approved(8)
    office.yard.scale(2)
    assert office.run(approved)[0].ok
    assert len(office.yard.serving()) == 8


def test_a_stale_button_approves_nothing(office: Office) -> None:
    waiting = office.ask(4)
    with pytest.raises(InvalidRequest, match="planned again since this button"):
        office.desk.approve(APPROVER, waiting.token, plan_hash="0" * 32)
    assert office.state(waiting) is State.AWAITING


def test_the_first_click_wins_and_the_second_is_told(office: Office) -> None:
    waiting = office.ask(4)
    office.desk.approve(APPROVER, waiting.token)
    with pytest.raises(StateChanged, match="is approved meanwhile"):
        office.desk.deny(APPROVER, waiting.token, "no")


def test_refusals_are_in_the_log(office: Office) -> None:
    with pytest.raises(NotPermitted):
        office.desk.ask(NOBODY, Scale("game", Amount(4)), where="C1", raw="scale game to 4")
    entry = office.store.read_log()[-1].entry
    assert (entry.who, entry.where, entry.raw, entry.decision) == ("U9", "C1", "scale game to 4", "refused")
    with pytest.raises(NotPermitted):
        office.desk.approve(ASKER, office.ask(4).token)
    assert office.store.read_log()[-1].entry.decision == "refused"


def test_break_glass_is_marked_in_the_log(office: Office) -> None:
    waiting = office.ask(4)
    office.desk.approve(ASKER, waiting.token, break_glass="nobody is awake")
    entry = office.store.read_log()[-1].entry
    assert (entry.decision, entry.detail) == ("break-glass", "nobody is awake")
    assert office.run(office.store.get(waiting.id))[0].ok


def test_a_role_taken_away_between_command_and_click_counts_no_more(office: Office) -> None:
    waiting = office.ask(2)
    office.settings = replace(office.settings, chatops=ChatopsSettings())
    for person in (ASKER, APPROVER):
        with pytest.raises(NotPermitted, match="no role"):
            office.desk.approve(person, waiting.token)


def test_a_change_is_resolved_once_and_stays(office: Office) -> None:
    office.yard.scale(3)
    command = Scale("game", Amount(2, relative=True))
    request = office.desk.plan(office.desk.ask(ASKER, command)[0])
    assert (request.target, request.change) == (5, None)
    office.yard.scale(4)
    again = office.desk.move(ASKER, request.token, When(datetime.now(UTC) + timedelta(hours=1), "Z"))
    assert again.target == 5


def test_a_number_that_cannot_be_fails_the_request_and_says_why(office: Office) -> None:
    with pytest.raises(InvalidRequest, match="above this service's maximum"):
        office.ask(99999)
    office.desk.ask(ASKER, Scale("game", Amount(99999, relative=True)))
    (drafted,) = office.store.list_requests(states=[State.DRAFTED])
    failed = office.desk.plan(drafted)
    assert failed.state is State.FAILED
    assert "above this service's maximum" in failed.error


def test_a_fleet_that_cannot_be_seen_leaves_the_request_as_it_was(office: Office) -> None:
    drafted, _ = office.desk.ask(ASKER, Scale("game", Amount(4)))
    office.yard.fake.fail("list_vms", Unavailable("no answer"))
    with pytest.raises(Unavailable):
        office.desk.plan(drafted)
    assert office.state(drafted) is State.DRAFTED


def test_retry_asks_for_the_missing_and_rollback_goes_back(office: Office) -> None:
    office.yard.scale(2)
    first = office.approved(6)
    office.run(first)
    back = office.desk.plan(office.desk.rollback(ASKER, first.token)[0])
    assert (back.target, back.kind, back.parent) == (2, "rollback", first.id)
    assert office.run(office.desk.approve(APPROVER, back.token), run_id="run-2")[0].ok
    assert office.state(first) is State.ROLLED_BACK
    again = office.desk.plan(office.desk.retry(ASKER, first.token)[0])
    assert (again.target, again.plan and again.plan.forks) == (6, 4)


def test_what_never_ran_is_not_rolled_back(office: Office) -> None:
    denied = office.desk.deny(APPROVER, office.ask(4).token, "no")
    cancelled = office.desk.cancel(ASKER, office.approved(5).token)
    for row in (denied, cancelled):
        with pytest.raises(InvalidRequest, match=f"{row.token}: never ran, so there is nothing to go back from"):
            office.desk.rollback(ASKER, row.token)
        said = office.store.read_log()[-1].entry
        assert (said.action, said.decision, said.request_id) == ("rollback", "refused", row.id)
    assert {row.kind for row in office.store.list_requests()} == {""}


def test_what_was_sent_back_by_its_run_and_denied_then_is_not_rolled_back(office: Office) -> None:
    first = office.approved(4)
    office.yard.scale(3)
    assert isinstance(office.run(first)[1], NotPermitted)
    denied = office.desk.deny(APPROVER, first.token, "no")
    with pytest.raises(InvalidRequest, match="never ran"):
        office.desk.rollback(ASKER, denied.token)


def test_what_was_killed_while_it_ran_can_be_rolled_back(office: Office) -> None:
    first = office.approved(4)
    begun = admit(office.store, office.settings, to_scale_request(first), RUN).row
    finish(office.store, begun, State.FAILED, make_entry(begun, SYSTEM, "finish", detail="killed"), None)
    assert office.desk.rollback(ASKER, first.token)[0].target == 0


def test_whether_a_request_ran_is_found_by_an_index_however_long_the_log_is(office: Office) -> None:
    asked = list[tuple[str, object]]()
    row = office.ask(4)
    engine = office.store._engine  # noqa: SLF001 - what is sent to the database
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    assert not has_run(office.store, row)
    ((statement, values),) = [found for found in asked if "FROM audit" in found[0]]
    with engine.connect() as connection:
        (step,) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).mappings()  # type: ignore[arg-type]
    assert "USING INDEX ix_audit_request_id" in step["detail"]


def test_what_still_waits_for_approval_is_not_asked_for_once_more(office: Office) -> None:
    waiting = office.ask(4)
    with pytest.raises(InvalidRequest, match=f"{waiting.token}: still waits for approval: approve it, or cancel it"):
        office.desk.retry(ASKER, waiting.token)
    assert office.store.read_log()[-1].entry.decision == "refused"
    office.store.amend(waiting, plan_expires=datetime.now(UTC) - timedelta(seconds=1))
    assert office.desk.retry(ASKER, waiting.token)[1]


def test_what_is_cancelled_or_denied_does_not_run(office: Office) -> None:
    cancelled = office.desk.cancel(ASKER, office.approved(4).token)
    denied = office.desk.deny(APPROVER, office.ask(4).token, "not today")
    for request in (cancelled, denied):
        assert isinstance(office.run(request)[1], StateChanged)
    assert office.untouched()
    assert denied.error == "not today"


def test_a_locked_service_takes_no_request_and_starts_no_run(office: Office) -> None:
    approved = office.approved(4)
    office.desk.lock(APPROVER, "game", "audit")
    with pytest.raises(NotPermitted, match=r"game: is locked by U2 since .*: audit"):
        office.ask(5)
    _, error = office.run(approved)
    assert "locked by U2: audit" in str(error)
    assert office.state(approved) is State.AWAITING
    warrant = make_warrant(office.settings, "direct-1", "game", 4, "local:root")
    direct = replace(approved, id="direct-1")
    _, error = office.run(direct, warrant=warrant)
    assert str(error).startswith("game: is locked by U2 since ")
    assert str(error).endswith(": audit. When it is over: unlock game")
    assert office.untouched()
    office.desk.unlock(APPROVER, "game")
    assert office.run(office.desk.approve(APPROVER, approved.token))[0].ok


def test_a_hold_goes_back_by_what_was_approved_and_by_nothing_else(office: Office) -> None:
    office.yard.scale(1)
    first = office.approved(4, hold=timedelta(minutes=30))
    office.run(first)
    (step,) = office.store.list_requests(parent=first.id)
    assert (step.target, step.state, step.kind) == (1, State.SCHEDULED, "later")
    assert step.start_at is not None
    assert timedelta(minutes=29) < step.start_at - datetime.now(UTC) <= timedelta(minutes=30)
    forged = office.store.amend(step, target=0)
    _, error = office.run(forged)
    assert "not part of what was approved" in str(error)
    assert len(office.yard.serving()) == 4


def test_a_direct_run_is_on_record_like_any_other(office: Office) -> None:
    warrant = make_warrant(office.settings, "direct-1", "game", 2, "local:root")
    direct = Request(
        id="direct-1", service="game", target=2, requested_by="root", requested_at=datetime.now(UTC), reason="try"
    )
    assert office.run(direct, warrant=warrant)[0].ok
    row = office.store.get("direct-1")
    assert (row.state, row.origin, row.requested_by) == (State.SUCCEEDED, "cli", "local:root")
    assert office.store.read_log()[0].entry.decision == "direct"
    _, error = office.run(direct, warrant=warrant, run_id="run-2")
    assert isinstance(error, StateChanged)


def test_what_nobody_approves_in_time_expires(office: Office) -> None:
    waiting = office.ask(4)
    assert office.desk.sweep() == []
    office.store.amend(waiting, plan_expires=datetime.now(UTC) - timedelta(seconds=1))
    assert [request.id for request in office.desk.sweep()] == [waiting.id]
    with pytest.raises(StateChanged):
        office.desk.approve(APPROVER, waiting.token)
    again, _ = office.desk.retry(ASKER, waiting.token)
    assert again.state is State.DRAFTED


def test_a_moved_start_must_be_approved_again(office: Office) -> None:
    soon = datetime.now(UTC) + timedelta(hours=2)
    scheduled = office.approved(4, at=When(soon, "Z"))
    moved = office.desk.move(ASKER, scheduled.token, When(soon + timedelta(hours=1), "Z"))
    assert moved.state is State.AWAITING
    assert moved.plan_hash != scheduled.plan_hash
