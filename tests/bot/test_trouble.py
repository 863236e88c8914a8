"""What goes wrong outside: Slack, Prefect, the channel, the tokens; and the bot that is killed and started again."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from bot.memory import open_memory
from bot.runner import Runner
from forkyard.commands import Amount, Scale
from forkyard.names import new_request_id
from forkyard.requests import Entry, Request, State
from forkyard.requests.desk import Desk
from forkyard.requests.looking import plan_now
from forkyard.roles import Person
from tests.bot.conftest import Stage, buttons_of, text_of
from tests.support.lab import until
from tests.support.slack import ANNA, FLEET, GENERAL


def run_it(stage: Stage) -> None:
    stage.slack.click(stage.ask(), "approve", "ben")
    run = stage.until_run()
    assert stage.prefect.begin(run)
    stage.until_shown("look at the fleet")


def good_calls(stage: Stage, method: str) -> int:
    return len([call for call in stage.slack.calls(method) if not call["error"]])


def test_slack_down_in_the_middle_stops_no_run_and_the_end_is_shown(stage: Stage) -> None:
    run_it(stage)
    stage.slack.faults(down=60)
    run = stage.prefect.the_run()
    stage.prefect.progress(run, 4, 4, 1, 0, 0, total=4)
    stage.prefect.end(run, serving=4, made=4)
    assert stage.until_row("succeeded").result
    stage.slack.faults(down=0)
    assert buttons_of(stage.until_shown("*4 serve*", seconds=20)) == ["Roll back to 0", "Open the run"]
    until(lambda: stage.slack.command("whoami")["ok"], seconds=20, what="the bot listening again")


def test_a_storm_of_429_is_waited_out_and_the_end_is_shown(stage: Stage) -> None:
    run_it(stage)
    stage.slack.faults(ratelimited=2)
    stage.prefect.end(stage.prefect.the_run(), serving=4, made=4)
    stage.until_row("succeeded")
    stage.until_shown("*4 serve*", seconds=15)
    refused = [call for call in stage.slack.calls() if call["error"] == "ratelimited"]
    assert 1 <= len(refused) <= 3


def test_an_archived_channel_moves_the_message_to_whoever_asked(stage: Stage) -> None:
    run_it(stage)
    stage.slack.faults(archived={"fleet": True})
    stage.prefect.end(stage.prefect.the_run(), serving=4, made=4)
    direct = f"D{ANNA[1:]}"
    until(lambda: "4 serve" in text_of(stage.slack.messages("anna", direct)), seconds=15)
    assert any("is gone" in logged.entry.detail for logged in stage.store.read_log())


def refusals(stage: Stage, error: str) -> int:
    return len([call for call in stage.slack.calls() if call["error"] == error])


def forget_message(stage: Stage, row: Request) -> None:
    """As if the bot had been killed while it posted."""
    with open_memory(stage.settings) as memory:
        shown = memory.find(row.id)
        assert shown is not None
        memory.change(shown, ts="", digest="")


def ask_as(stage: Stage, who: str) -> Request:
    """A request of somebody who is not in Slack."""
    row = Request(
        id=new_request_id(), service="game", target=4, requested_by=who, requested_at=datetime.now(UTC), origin="cli"
    )
    row, _ = stage.store.add(row, Entry(who=who, action="scale", request_id=row.id))
    return row


def test_a_request_from_outside_slack_goes_on_in_the_next_channel_that_works(quiet_stage: Stage) -> None:
    stage = quiet_stage
    assert stage.slack.api("conversations.join", channel="general").json()["ok"]
    stage.change(channels=(FLEET, GENERAL))
    stage.slack.faults(archived={"fleet": True})
    ask_as(stage, "calendar")
    stage.start_bot()
    until(lambda: "Approve" in text_of(stage.slack.messages("anna", GENERAL)), seconds=10)


def test_a_request_that_can_be_shown_nowhere_is_tried_now_and_then_until_it_can(quiet_stage: Stage) -> None:
    stage = quiet_stage
    stage.slack.faults(archived={"fleet": True})
    row = ask_as(stage, "local:root")
    stage.start_bot()
    until(lambda: refusals(stage, "is_archived") > 0, seconds=10)
    began = time.monotonic()
    until(lambda: time.monotonic() > began + 4, seconds=6, what="some rounds")
    assert refusals(stage, "is_archived") <= 2
    stage.slack.faults(archived={"fleet": False})
    stage.until_shown("Approve", request=row, seconds=15)


def test_a_missing_scope_keeps_only_what_needs_it_from_being_shown(stage: Stage) -> None:
    stage.ask()
    first = stage.until_row("awaiting approval")
    stage.stop_bot()
    forget_message(stage, first)
    stage.slack.faults(missing_scopes=["channels:history"])
    stage.start_bot()
    until(lambda: refusals(stage, "missing_scope") > 0, seconds=10)
    stage.slack.command("scale shop to 4")
    stage.until_shown("Approve", request=stage.until_row("awaiting approval", lambda row: row.service == "shop"))
    assert refusals(stage, "missing_scope") <= 2


def test_a_request_that_cannot_be_followed_keeps_no_other_one_from_being_shown(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_it(stage)
    first = stage.until_row("running")
    follow = Runner.url

    def fail(runner: Runner, request: Request) -> str:
        if request.id == first.id:
            raise KeyError(request.id)
        return follow(runner, request)

    monkeypatch.setattr(Runner, "url", fail)
    stage.slack.command("scale shop to 4")
    stage.until_shown("Approve", request=stage.until_row("awaiting approval", lambda row: row.service == "shop"))


def test_a_deleted_message_is_posted_again(stage: Stage) -> None:
    run_it(stage)
    message = stage.message()
    assert stage.slack.api("chat.delete", channel="fleet", ts=message["ts"]).json()["ok"]
    stage.prefect.progress(stage.prefect.the_run(), 4, 0, 0, 0, 0, total=4)
    assert stage.until_shown("4 of 4")["ts"] != message["ts"]


def test_revoked_tokens_stop_no_run(stage: Stage) -> None:
    run_it(stage)
    stage.slack.faults(revoked=True)
    stage.prefect.end(stage.prefect.the_run(), serving=4, made=4)
    assert stage.until_row("succeeded").result
    until(lambda: any(call["error"] == "token_revoked" for call in stage.slack.calls("chat.update")), seconds=10)


def test_without_prefect_an_approved_request_waits_and_says_so(stage: Stage) -> None:
    message = stage.ask()
    stage.prefect.down = True
    stage.slack.click(message, "approve", "ben")
    stage.until_shown(":warning:", seconds=40)
    stage.prefect.down = False
    stage.until_run()


def test_a_bot_that_is_started_again_goes_on_with_the_same_message(stage: Stage) -> None:
    run_it(stage)
    ts = stage.message()["ts"]
    stage.stop_bot()
    stage.prefect.progress(stage.prefect.the_run(), 4, 4, 0, 0, 0, total=4)
    stage.start_bot()
    assert stage.until_shown("4 of 4")["ts"] == ts
    stage.prefect.end(stage.prefect.the_run(), serving=4, made=4)
    stage.until_thread(stage.until_shown("*4 serve*"))
    # The message and, in its thread, the picture's.
    assert (good_calls(stage, "chat.postMessage"), len(stage.prefect.runs)) == (1, 1)


def test_a_message_that_was_posted_but_not_noted_is_found_again(stage: Stage) -> None:
    stage.ask()
    row = stage.until_row("awaiting approval")
    stage.stop_bot()
    forget_message(stage, row)
    stage.start_bot()
    stage.slack.click(stage.message(), "approve", "ben")
    stage.until_run()
    stage.until_shown("approved by")
    assert good_calls(stage, "chat.postMessage") == 1


def test_a_request_that_was_put_on_record_but_not_planned_is_planned_after_a_restart(quiet_stage: Stage) -> None:
    stage = quiet_stage
    desk = Desk(stage.store, stage.load, plan_now)
    command = Scale("game", Amount(4))
    row, _ = desk.ask(Person(ANNA), command, origin="slack", where=FLEET)
    assert row.state is State.DRAFTED
    stage.start_bot()
    stage.until_shown("Approve", request=row)


def test_a_hundred_commands_at_once_are_each_acknowledged_within_a_second(stage: Stage) -> None:
    # The bot is in this process here, and what a thousand tests before left in it is not the bot's to look through.
    gc.collect()
    gc.freeze()
    began = time.monotonic()
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda number: stage.slack.command(f"scale game to {number + 1}"), range(100)))
    assert all(answer["ok"] for answer in answers), time.monotonic() - began
    acks = sorted(answer["ack_seconds"] for answer in answers)
    until(lambda: len(stage.store.list_requests(limit=200)) == 100, seconds=30, what="100 requests on record")
    gc.unfreeze()
    assert acks[98] < 1.0, acks[90:]
