"""What is asked for once more, or taken back: the buttons below what is over, and what they leave behind."""

from bot.memory import open_memory
from forkyard.requests import Request
from tests.bot.conftest import Stage, buttons_of, text_of
from tests.support.pretend_prefect import Run
from tests.support.slack import Json


def run_of(stage: Stage, row: Request) -> Run:
    """The run of a request, begun."""
    found = stage.until_row("approved", lambda newest: newest.id == row.id and newest.run_id is not None)
    run = stage.prefect.runs[found.run_id or ""]
    assert stage.prefect.begin(run)
    return run


def failed(stage: Stage) -> tuple[Request, Json]:
    """A request that came to 3 of 4, and its message."""
    stage.slack.click(stage.ask(), "approve", "ben")
    row = stage.until_row("approved")
    stage.prefect.end(run_of(stage, row), serving=3, made=4, error="3 of 4 serving")
    return row, stage.until_shown("Retry the missing 1", request=row)


def roll_back(stage: Stage, shown: Json) -> Request:
    """Have it rolled back to 0, to the end."""
    stage.slack.click(shown, "rollback", "ben")
    back = stage.until_row("awaiting approval", lambda row: row.kind == "rollback")
    stage.slack.click(stage.until_shown("Approve", request=back), "approve", "ben")
    stage.prefect.end(run_of(stage, back), serving=0, made=0)
    return back


def test_a_request_that_was_rolled_back_says_so_in_its_message(stage: Stage) -> None:
    first, shown = failed(stage)
    roll_back(stage, shown)
    assert buttons_of(stage.until_shown("Rolled back", request=first)) == []


def test_a_request_that_was_rolled_back_while_the_bot_was_away_says_so_afterwards(stage: Stage) -> None:
    first, shown = failed(stage)
    stage.slack.click(shown, "rollback", "ben")
    back = stage.until_row("awaiting approval", lambda row: row.kind == "rollback")
    stage.slack.click(stage.until_shown("Approve", request=back), "approve", "ben")
    run = run_of(stage, back)
    stage.stop_bot()
    with open_memory(stage.settings) as memory:
        known = memory.find(back.id)
        assert known is not None
        memory.finish(known)
    stage.prefect.end(run, serving=0, made=0)
    stage.start_bot()
    stage.until_shown("Rolled back", request=first)


def test_a_second_click_is_told_what_the_first_one_asked_for(stage: Stage) -> None:
    first, shown = failed(stage)
    stage.slack.click(shown, "retry", "anna")
    again = stage.until_row("awaiting approval", lambda row: row.kind == "retry")
    stage.slack.click(shown, "retry", "ben")
    stage.until_told(f"already asked as `{again.token}`: awaiting approval", "ben")
    stage.slack.command(f"retry {first.token}", "ben")
    stage.until_told(f"already asked as `{again.token}`: awaiting approval", "ben")
    assert len(stage.store.list_requests()) == 2


def test_a_button_asks_again_once_its_first_request_is_over(stage: Stage) -> None:
    _, shown = failed(stage)
    stage.slack.click(shown, "retry", "anna")
    again = stage.until_row("awaiting approval", lambda row: row.kind == "retry")
    stage.slack.click(stage.until_shown("Approve", request=again), "cancel", "anna")
    stage.until_row("cancelled")
    stage.slack.click(shown, "retry", "anna")
    third = stage.until_row("awaiting approval", lambda row: row.kind == "retry" and row.id != again.id)
    assert "(once more)" in text_of(stage.message(third))
