"""What goes wrong outside: Slack, Prefect, the channel, the tokens; and the bot that is killed and started again."""

import time
from concurrent.futures import ThreadPoolExecutor

from bot.memory import open_memory
from forkyard.commands import Amount, Scale
from forkyard.requests import State
from forkyard.requests.desk import Desk
from forkyard.requests.looking import plan_now
from forkyard.roles import Person
from tests.bot.conftest import Stage, buttons_of, text_of
from tests.support.lab import until
from tests.support.slack import ANNA, FLEET


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
    refused = [call for call in stage.slack.calls() if call["error"] == "ratelimited"]
    stage.until_shown("*4 serve*", seconds=15)
    assert len(refused) <= 3


def test_an_archived_channel_moves_the_message_to_whoever_asked(stage: Stage) -> None:
    run_it(stage)
    stage.slack.faults(archived={"fleet": True})
    stage.prefect.end(stage.prefect.the_run(), serving=4, made=4)
    direct = f"D{ANNA[1:]}"
    until(lambda: "4 serve" in text_of(stage.slack.messages("anna", direct)), seconds=15)
    assert any("is gone" in logged.entry.detail for logged in stage.store.read_log())


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
    with open_memory(stage.settings) as memory:
        shown = memory.find(row.id)
        assert shown is not None
        memory.change(shown, ts="", digest="")
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
    began = time.monotonic()
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda number: stage.slack.command(f"scale game to {number + 1}"), range(100)))
    assert all(answer["ok"] for answer in answers), time.monotonic() - began
    acks = sorted(answer["ack_seconds"] for answer in answers)
    until(lambda: len(stage.store.list_requests(limit=200)) == 100, seconds=30, what="100 requests on record")
    assert acks[98] < 1.0, acks[90:]
