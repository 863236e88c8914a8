"""Who may click what, and when: the first valid click wins, and every other one is told why not."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from forkyard.model import LeaseHolder
from forkyard.registry.fake import FakeRegistry
from forkyard.requests import Entry, Request, State
from tests.bot.conftest import Stage, buttons_of, text_of
from tests.support.lab import until


def approved_run(stage: Stage, text: str = "scale game to 4") -> None:
    stage.slack.click(stage.ask(text), "approve", "ben")
    run = stage.until_run()
    assert stage.prefect.begin(run)


def test_the_same_command_twenty_times_at_once_is_one_request(stage: Stage) -> None:
    assert stage.slack.command("scale game to 4", times=20)["ok"]
    stage.until_shown("Approve")
    assert len(stage.store.list_requests()) == 1


def test_twenty_clicks_at_once_start_one_run(stage: Stage) -> None:
    message = stage.ask()
    assert stage.slack.click(message, "approve", "ben", times=20)["ok"]
    stage.until_run()
    stage.until_row("approved", lambda row: row.run_id is not None)
    assert len(stage.prefect.runs) == 1
    assert len([call for call in stage.slack.calls("chat.postMessage") if not call["error"]]) == 1


def test_a_person_without_a_role_is_told_whom_to_ask(stage: Stage) -> None:
    stage.slack.command("scale game to 4", "caro")
    stage.until_told("scale game: you have no role for it", "caro")
    assert stage.store.list_requests() == []
    stage.slack.click(stage.ask(), "approve", "caro")
    assert "&lt;" not in stage.until_told("approve game: you have no role for it", "caro")
    assert stage.until_row("awaiting approval").state.value == "awaiting approval"


def test_a_role_that_was_taken_away_a_moment_ago_is_gone(stage: Stage) -> None:
    message = stage.ask()
    approvers = stage.settings.chatops.roles["approvers"]
    stage.change(roles={**stage.settings.chatops.roles, "approvers": replace(approvers, groups=())})
    stage.slack.click(message, "approve", "ben")
    stage.until_told("you have no role for it", "ben")
    assert stage.prefect.runs == {}


def test_another_workspace_and_another_channel_are_refused_and_noted(stage: Stage) -> None:
    stage.slack.command("scale game to 4", channel="general")
    until(lambda: "may not come from this" in text_of(stage.slack.messages("anna", "C0LABOTHER")), seconds=5)
    stage.change(teams=("T0OTHER001",))
    stage.slack.command("status")
    stage.until_told("This workspace")
    refused = [logged.entry for logged in stage.store.read_log() if logged.entry.decision == "refused"]
    assert [entry.raw for entry in refused] == ["scale game to 4", "status"]


def test_a_button_of_an_older_plan_is_stale(stage: Stage) -> None:
    message = stage.ask()
    row = stage.until_row("awaiting approval")
    assert row.plan is not None
    newer = replace(row.plan, current=1)
    stage.store.amend(row, plan=newer)
    stage.slack.click(message, "approve", "ben")
    stage.until_told("was planned again since this button was made", "ben")
    assert stage.prefect.runs == {}


def test_a_denial_wants_a_reason_and_says_it_in_the_channel(stage: Stage) -> None:
    message = stage.ask()
    stage.slack.click(message, "deny", "ben")
    until(lambda: len(stage.slack.state("ben")["views"]) == 1, seconds=5)
    view = stage.slack.state("ben")["views"][0]
    stage.slack.act("submit", "ben", view_id=view["id"], values={"because": "not <!channel> today"})
    shown = stage.until_shown("Denied", "not &lt;!channel&gt; today")
    assert buttons_of(shown) == []


def test_the_requester_cancels_before_it_runs(stage: Stage) -> None:
    stage.slack.click(stage.ask(), "cancel", "anna")
    assert buttons_of(stage.until_shown("nothing was changed")) == []


def test_a_running_request_is_cancelled_through_its_run(stage: Stage) -> None:
    approved_run(stage)
    stage.slack.click(stage.until_shown("look at the fleet"), "cancel", "anna")
    stage.until_told("is being cancelled")
    assert stage.prefect.the_run().state == "CANCELLING"


def test_what_failed_before_its_run_began_is_offered_no_rollback(stage: Stage) -> None:
    stage.slack.click(stage.ask(), "approve", "ben")
    run = stage.until_run()
    run.state, run.message = "CRASHED", "its process was killed"
    shown = stage.until_shown("did not come to 4", "nothing was changed", seconds=15)
    assert buttons_of(shown) == ["Retry", "Open the run"]


def test_a_failure_says_what_why_and_what_can_be_done_with_numbers(stage: Stage) -> None:
    approved_run(stage)
    stage.prefect.end(stage.prefect.the_run(), serving=3, made=4, error="3 of 4 serving: 1 did not register")
    shown = stage.until_shown("did not come to 4", "did not register", "3 of 4 serve", "error id")
    assert buttons_of(shown) == ["Retry the missing 1", "Roll back to 0", "Keep 3", "Open the run"]
    assert "Traceback" not in text_of(shown)
    stage.slack.click(shown, "keep", "anna")
    assert buttons_of(stage.until_shown("Kept as it is")) == []


def test_retry_and_rollback_are_requests_of_their_own_and_made_once(stage: Stage) -> None:
    approved_run(stage)
    first = stage.until_row("running")
    stage.prefect.end(stage.prefect.the_run(), serving=3, made=4, error="3 of 4 serving")
    shown = stage.until_shown("Retry the missing 1", request=first)
    stage.slack.click(shown, "retry", "anna")
    stage.slack.click(shown, "retry", "ben")
    again = stage.until_row("awaiting approval", lambda row: row.kind == "retry")
    assert "(once more)" in text_of(stage.message(again))
    stage.slack.click(shown, "rollback", "ben")
    back = stage.until_row("awaiting approval", lambda row: row.kind == "rollback")
    assert back.target == 0
    assert len(stage.store.list_requests()) == 3


def test_an_edit_replaces_the_request_by_another_one(stage: Stage) -> None:
    message = stage.ask('scale game to 4 because "a launch"')
    first = stage.until_row("awaiting approval")
    stage.slack.click(message, "edit", "anna")
    until(lambda: len(stage.slack.state()["views"]) == 1, seconds=5)
    view = stage.slack.state()["views"][0]
    stage.slack.act("submit", "anna", view_id=view["id"], values={"target": "6"})
    second = stage.until_row("awaiting approval", lambda row: row.target == 6)
    assert second.reason == "a launch"
    stage.until_shown("Cancelled", request=first)


def test_a_small_change_is_confirmed_by_the_requester(stage: Stage) -> None:
    message = stage.ask("scale game to 2")
    assert "can confirm it" in text_of(message)
    stage.slack.click(message, "approve", "anna")
    stage.until_run()


def test_a_run_that_died_is_settled_and_told(stage: Stage) -> None:
    approved_run(stage)
    stage.prefect.the_run().state = "CRASHED"
    assert "Retry the missing" not in text_of(stage.until_shown("ended", "Now:", "left no report"))
    assert stage.until_row("failed").error


def test_a_cancelled_request_takes_the_runs_of_all_its_steps_off_the_schedule(stage: Stage) -> None:
    stage.slack.click(stage.ask("scale game to 4 at in 45m for 1h"), "approve", "ben")
    until(lambda: [row.run_id is not None for row in stage.store.list_requests()] == [True, True], seconds=10)
    (first,) = [row for row in stage.store.list_requests() if row.parent is None]
    stage.slack.command(f"schedule cancel {first.token}", "ben")
    until(
        lambda: {run.state for run in stage.prefect.runs.values()} == {"CANCELLED"}, seconds=10, what="both runs gone"
    )


def test_a_moved_request_takes_the_runs_of_its_old_time_off_the_schedule(stage: Stage) -> None:
    stage.slack.click(stage.ask("scale game to 4 at in 45m for 1h"), "approve", "ben")
    until(lambda: [row.run_id is not None for row in stage.store.list_requests()] == [True, True], seconds=10)
    (first,) = [row for row in stage.store.list_requests() if row.parent is None]
    stage.slack.command(f"schedule move {first.token} to in 3h")
    until(
        lambda: {run.state for run in stage.prefect.runs.values()} == {"CANCELLED"}, seconds=10, what="both runs gone"
    )


def test_what_runs_at_a_command_line_is_not_said_to_be_cancelled(stage: Stage) -> None:
    row = Request(
        id="d" * 32,
        service="game",
        target=4,
        requested_by="local:root",
        requested_at=datetime.now(UTC),
        state=State.RUNNING,
    )
    stage.store.add(row, Entry(who="local:root", action="scale", request_id=row.id))
    holder = LeaseHolder(row.id, "root", "host-7", 4711, datetime.now(UTC), "")
    with FakeRegistry(stage.world).lease("game", holder, wait=timedelta(seconds=1)):
        stage.slack.click(stage.until_shown("begun"), "cancel", "ben")
        told = stage.until_told("goes on: it runs in the process of a `forkyard scale`", "ben")
    assert "on host-7: kill -INT 4711" in told
