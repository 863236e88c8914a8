"""What one person is told who asks: help, status, plan, log, whoami, complaints with buttons, the form, the home."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from bot.answers import ServiceSight, make_chart
from forkyard.requests import Need, Request, State
from tests.bot.conftest import Stage, buttons_of, text_of
from tests.support.lab import until


def last_ephemeral(stage: Stage, person: str = "anna") -> dict[str, object]:
    return [m for m in stage.slack.messages(person) if m["ephemeral"]][-1]


def test_help_shows_only_what_this_person_may_run(stage: Stage) -> None:
    stage.slack.command("help", "anna")
    assert "/fleet approve" not in stage.until_told("/fleet scale")
    stage.slack.command("help", "ben")
    assert "/fleet approve" in stage.until_told("/fleet scale", "ben")
    stage.slack.command("help scale", "anna")
    assert "Black Friday" in stage.until_told("Examples:")


def test_status_is_a_table_with_wanted_and_serving(stage: Stage) -> None:
    stage.slack.command("status")
    told = stage.until_told("serving")
    assert "game" in told
    assert "shop" in told
    stage.slack.command("status game")
    until(lambda: "shop" not in text_of(last_ephemeral(stage)), seconds=5)


def test_the_chart_of_the_last_day_follows_what_runs_reported(stage: Stage) -> None:
    stage.slack.click(stage.ask(), "approve", "ben")
    run = stage.until_run()
    stage.prefect.begin(run)
    stage.prefect.end(run, serving=4, made=4)
    stage.until_shown("*4 serve*")
    stage.slack.command("status game")
    stage.until_told("Last 24 hours")


def reported(serving: int, before: int, at: datetime) -> Request:
    return Request(
        id=f"{serving}-{at}",
        state=State.SUCCEEDED,
        service="game",
        target=serving,
        requested_by="anna",
        requested_at=at,
        result={"serving": serving, "before": before, "finished": at.isoformat()},
    )


def test_the_chart_shows_the_most_of_each_two_hours_so_that_a_short_event_is_seen() -> None:
    now = datetime(2026, 11, 27, 12, tzinfo=UTC)
    begun, over = now - timedelta(hours=9.5), now - timedelta(hours=8.5)
    history = (reported(7, 5, begun), reported(5, 7, over), reported(6, 5, now - timedelta(hours=3)))
    (line,) = make_chart([ServiceSight("game", None, history=history)], now)["chart"]["series"]
    assert [point["value"] for point in line["data"]] == [5, 5, 5, 5, 5, 5, 5, 7, 5, 5, 6, 6]


def test_the_chart_counts_what_was_there_when_two_hours_began() -> None:
    now = datetime(2026, 11, 27, 12, tzinfo=UTC)
    history = (reported(7, 5, now - timedelta(hours=5)), reported(5, 7, now - timedelta(hours=3)))
    (line,) = make_chart([ServiceSight("game", None, history=history)], now)["chart"]["series"]
    assert [point["value"] for point in line["data"]] == [5, 5, 5, 5, 5, 5, 5, 5, 5, 7, 7, 5]


def test_a_plan_is_shown_and_put_nowhere(stage: Stage) -> None:
    stage.slack.command("plan game to 7")
    told = stage.until_told("0 → 7")
    assert "Nothing was asked for" in told
    assert "/fleet scale game to 7" in told
    stage.slack.command("scale game to 3 dry-run")
    stage.until_told("0 → 3")
    assert stage.store.list_requests() == []


def test_a_plan_that_nobody_asked_for_shows_what_a_request_would(stage: Stage) -> None:
    stage.slack.command("plan game to 7")
    told = stage.until_told("Nothing was asked for")
    for words in ("Would fork *7*", "Rollback would be: to 0", "*Now → wanted*", "*Expected time*", "+7, room"):
        assert words in told
    assert "Would need another person's approval" in told or "Whoever asks for it can confirm it" in told
    message = last_ephemeral(stage)
    assert message["text"] == "game: would go 0 → 7"
    assert buttons_of(message) == []


def test_a_dry_run_says_whose_approval_it_would_need_and_what_follows(stage: Stage) -> None:
    stage.slack.command("scale game to 150 in 2h for 1h dry-run")
    told = stage.until_told("Nothing was asked for")
    assert "Would need another person's approval" in told
    assert "*Starts*" in told
    assert "*Then*" in told
    stage.slack.command("scale game to 1 dry-run")
    assert "Whoever asks for it can confirm it: it changes 1 server, and" in stage.until_told("0 → 1")


def test_a_typing_mistake_gets_the_whole_command_as_a_button(stage: Stage) -> None:
    stage.slack.command("scale gmae to 4")
    stage.until_told("no service is called so")
    message = last_ephemeral(stage)
    assert buttons_of(message)[0] == "/fleet scale game to 4"
    stage.slack.click(message, "type-0", "anna")
    assert stage.until_row("awaiting approval").target == 4


def test_smart_quotes_dashes_and_links_are_understood(stage: Stage) -> None:
    stage.ask("scale\u00a0game to 4 because “the <https://example.com|launch>” ")
    assert "launch" in stage.until_row("awaiting approval").reason


def test_the_form_says_a_command_and_its_errors_stand_at_the_field(stage: Stage) -> None:
    stage.slack.command("help")
    stage.until_told("/fleet scale")
    stage.slack.click(last_ephemeral(stage), "form", "anna")
    until(lambda: len(stage.slack.state()["views"]) == 1, seconds=5)
    view = stage.slack.state()["views"][0]
    values = {"service": "game", "target": "4", "at": "yesterday"}
    errors = stage.slack.act("submit", "anna", view_id=view["id"], values=values)["errors"]
    assert list(errors) == ["at"]
    values = {"service": "game", "target": "4", "because": "a launch"}
    assert stage.slack.act("submit", "anna", view_id=view["id"], values=values)["errors"] == {}
    assert stage.until_row("awaiting approval").reason == "a launch"


def test_a_start_ahead_is_scheduled_in_prefect_at_that_moment(stage: Stage) -> None:
    zone = ZoneInfo("America/New_York")
    start = (datetime.now(zone) + timedelta(days=2)).replace(hour=5, minute=0, second=0, microsecond=0)
    message = stage.ask(f"scale game to 4 at {start:%Y-%m-%dT%H:%M} America/New_York")
    assert f"{start.astimezone(UTC):%Y-%m-%d %H:%M} UTC" in text_of(message)
    stage.slack.click(message, "approve", "ben")
    assert stage.until_run().scheduled == start.astimezone(UTC).isoformat()
    stage.until_shown("Starts")
    stage.slack.command("schedule list")
    stage.until_told("game to 4")


def test_the_log_says_who_did_what(stage: Stage) -> None:
    stage.slack.click(stage.ask(), "approve", "ben")
    stage.until_run()
    stage.slack.command("log game")
    told = stage.until_told("approve")
    assert "<@U0LABANNA1>" in told
    assert "<@U0LABBEN01>" in told
    assert stage.store.verify_log().whole


def test_whoami_and_locks(stage: Stage) -> None:
    stage.slack.command("whoami")
    assert "Europe/Berlin" in stage.until_told("requesters")
    stage.slack.command('lock game because "audit"', "ben")
    stage.until_told("is locked", "ben")
    stage.slack.command("scale game to 4")
    stage.until_told("is locked by")
    stage.slack.command("unlock game", "ben")
    stage.until_told("can be changed again", "ben")


def test_the_home_tab_shows_what_waits_for_this_person(stage: Stage) -> None:
    stage.ask()
    stage.slack.act("home", "ben")
    until(lambda: stage.slack.state("ben")["home"] is not None, seconds=5)
    words = text_of(stage.slack.state("ben")["home"]["blocks"])
    assert "game to 4" in words.partition("Running")[0]
    stage.slack.act("home", "caro")
    until(lambda: stage.slack.state("caro")["home"] is not None, seconds=5)
    assert "game to 4" not in text_of(stage.slack.state("caro")["home"]["blocks"])


def test_the_home_tab_shows_a_requester_what_she_can_confirm_herself(stage: Stage) -> None:
    stage.ask("scale game to 1")
    assert stage.until_row("awaiting approval").need is Need.REQUESTER
    stage.slack.act("home", "anna")
    until(lambda: stage.slack.state("anna")["home"] is not None, seconds=5)
    words = text_of(stage.slack.state("anna")["home"]["blocks"])
    assert "game to 1" in words.partition("Running")[0]


def test_the_home_tab_shows_a_requester_nothing_that_another_person_must_approve(stage: Stage) -> None:
    stage.ask("scale game to 150")
    stage.slack.act("home", "anna")
    until(lambda: stage.slack.state("anna")["home"] is not None, seconds=5)
    assert "No request waits for your approval" in text_of(stage.slack.state("anna")["home"]["blocks"])
