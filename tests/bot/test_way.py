"""The whole way: a command, a plan, an approval by another person, a run, its report; and what stands in between."""

import pytest

from forkyard.stages import write_wait
from tests.bot.conftest import Stage, buttons_of, text_of
from tests.support.slack import BEN


def test_a_command_becomes_a_plan_that_another_person_approves_and_a_run_that_is_followed_to_its_end(
    stage: Stage,
) -> None:
    message = stage.ask('scale game to 4 because "a launch"')
    assert "0 → 4" in text_of(message)
    assert "“a launch”" in text_of(message)
    assert buttons_of(message) == ["Approve", "Deny", "Edit", "Cancel"]
    assert stage.slack.click(message, "approve", "anna")["ok"]
    assert "<!subteam^S0LABOPS01>" in stage.until_told("approve game: you have no role for it")
    assert stage.slack.click(message, "approve", "ben")["ok"]
    run = stage.until_run()
    assert stage.prefect.begin(run)
    stage.until_shown("look at the fleet", "approved by <@U0LABBEN01>")
    stage.prefect.progress(run, 4, 2, 0, 0, 0, total=4)
    stage.until_shown("4 of 4", "2 of 4", seconds=5)
    stage.prefect.end(run, serving=4, made=4)
    shown = stage.until_shown("*4 serve* after 12 s", "in 1.3 s")
    assert buttons_of(shown) == ["Roll back to 0", "Open the run"]
    assert [file["name"] for file in stage.until_thread(shown)["files"]] == ["timeline.png"]
    assert stage.slack.state()["complaints"] == []


def test_what_is_as_asked_already_is_said_to_whoever_asked_and_troubles_nobody_else(stage: Stage) -> None:
    stage.slack.command("scale game to 0")
    stage.until_told("game: 0 serve already: nothing to do")
    assert [m for m in stage.slack.messages("ben") if m["blocks"]] == []


def test_a_run_that_waits_for_another_says_who_is_changing_the_service_and_why(stage: Stage) -> None:
    message = stage.ask()
    stage.slack.click(message, "approve", "ben")
    run = stage.until_run()
    assert stage.prefect.begin(run)
    run.text = write_wait(BEN, "a sale")
    stage.until_shown(f"Waits for <@{BEN}>, who is changing it: a sale")
    stage.prefect.progress(run, 4, 0, 0, 0, 0, total=4)
    assert "Waits for" not in text_of(stage.until_shown("4 of 4"))


def test_a_report_that_comes_long_after_the_end_is_shown_all_the_same(stage: Stage) -> None:
    message = stage.ask("scale game to 2")
    assert stage.slack.click(message, "approve", "ben")["ok"]
    run = stage.until_run()
    assert stage.prefect.begin(run)
    stage.prefect.end(run, serving=2, made=2, pause=3)
    shown = stage.until_shown("*2 serve* after 12 s", "in 1.1 s")
    assert [file["name"] for file in stage.until_thread(shown)["files"]] == ["timeline.png"]


@pytest.mark.parametrize("unreadable", [{"children": [{"phase": "NAPPING", "intervals": []}]}, ["no", "report"]])
def test_a_report_of_a_newer_forkyard_keeps_neither_its_own_end_nor_any_other_request_from_being_shown(
    stage: Stage, unreadable: object
) -> None:
    message = stage.ask("scale game to 2")
    assert stage.slack.click(message, "approve", "ben")["ok"]
    run = stage.until_run()
    assert stage.prefect.begin(run)
    stage.prefect.end(run, serving=2, made=2, pause=0, report=unreadable)
    stage.until_shown("*2 serve* after 12 s", request=stage.until_row("succeeded"))
    stage.slack.command("scale shop to 4")
    stage.until_shown("Approve", request=stage.until_row("awaiting approval", lambda row: row.service == "shop"))
