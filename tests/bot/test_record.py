"""What is in the audit log although nothing came of it, and what of the log, the schedule and the home each may see."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from forkyard.requests import Entry
from forkyard.settings import RoleSettings
from tests.bot.conftest import Stage, text_of
from tests.support.lab import until
from tests.support.slack import ANNA, BEN, CARO


def until_logged(stage: Stage, action: str, decision: str = "refused") -> Entry:
    found: list[Entry] = []

    def look() -> bool:
        entries = [logged.entry for logged in stage.store.read_log()]
        found[:] = [entry for entry in entries if (entry.action, entry.decision) == (action, decision)]
        return bool(found)

    until(look, seconds=10, what=f"{action} {decision} in the log")
    assert stage.store.verify_log().whole
    return found[-1]


def restrict(stage: Stage, person: str, *verbs: str, service: str = "shop") -> None:
    """Let the person do no more than this on the one service."""
    others = {
        name: replace(role, users=tuple(user for user in role.users if user != person))
        for name, role in stage.settings.chatops.roles.items()
    }
    stage.change(roles={**others, "few": RoleSettings(users=(person,), services=(service,), verbs=verbs)})


def test_what_is_no_command_is_in_the_log_cut_to_a_sane_length(stage: Stage) -> None:
    stage.slack.command("dance " + "x" * 2000)
    entry = until_logged(stage, "command", "not understood")
    assert (entry.who, entry.raw[:5], len(entry.raw)) == (ANNA, "dance", 500)
    assert "there is no such command" in entry.detail


@pytest.mark.parametrize("text", ["status", "plan game to 4", "log game", "schedule list", "scale game to 4 dry-run"])
def test_a_question_that_is_refused_is_in_the_log(stage: Stage, text: str) -> None:
    stage.slack.command(text, "caro")
    entry = until_logged(stage, text.split(maxsplit=1)[0])
    assert (entry.who, entry.raw) == (CARO, text)


def test_a_form_that_is_refused_is_in_the_log(stage: Stage) -> None:
    stage.slack.command("help", "caro")
    stage.until_told("whoami", "caro")
    message = [m for m in stage.slack.messages("caro") if m["ephemeral"]][-1]
    stage.slack.click(message, "form", "caro")
    assert until_logged(stage, "form").who == CARO


def test_a_click_from_a_place_that_is_not_listened_to_is_in_the_log(stage: Stage) -> None:
    message = stage.ask()
    stage.change(channels=("C0OTHER0001",))
    stage.slack.click(message, "approve", "ben")
    entry = until_logged(stage, "approve")
    assert entry.who == BEN
    assert stage.prefect.runs == {}


def test_a_refused_keep_is_in_the_log(stage: Stage) -> None:
    stage.slack.click(stage.ask(), "approve", "ben")
    run = stage.until_run()
    assert stage.prefect.begin(run)
    stage.prefect.end(run, serving=3, made=4, error="3 of 4 serving")
    stage.slack.click(stage.until_shown("Keep 3"), "keep", "caro")
    assert until_logged(stage, "keep").who == CARO


def test_log_schedule_and_home_show_only_services_of_a_role(stage: Stage) -> None:
    start = datetime.now(UTC) + timedelta(days=1)
    stage.ask(f"scale game to 4 at {start:%Y-%m-%dT%H:%M}Z")
    restrict(stage, CARO, "status", "log", "schedule")
    stage.slack.command("schedule list", "caro")
    stage.until_told("Nothing is scheduled", "caro")
    stage.slack.command("log", "caro")
    stage.until_told("Nothing is in the log", "caro")
    stage.slack.act("home", "caro")
    until(lambda: stage.slack.state("caro")["home"] is not None, seconds=5)
    assert "game" not in text_of(stage.slack.state("caro")["home"]["blocks"])
    stage.slack.command("schedule list", "ben")
    stage.until_told("game to 4", "ben")


def test_a_refusal_names_the_holder_of_a_lock_as_slack_shows_people(stage: Stage) -> None:
    stage.slack.command('lock game because "audit by U0LABANNA1"', "ben")
    stage.until_told("is locked", "ben")
    stage.slack.command("scale game to 4")
    told = stage.until_told("is locked by")
    assert f"locked by <@{BEN}>" in told
    assert "audit by U0LABANNA1" in told


def test_slack_is_asked_for_a_zone_only_by_a_time_that_names_none(stage: Stage) -> None:
    stage.ask("scale game to 4")
    stage.slack.command("scale game to 5 at tomorrow 05:00 Europe/Berlin")
    stage.until_row("awaiting approval", lambda row: row.target == 5)
    assert stage.slack.calls("users.info") == []
    stage.slack.command("scale game to 6 at tomorrow 05:00")
    assert stage.until_row("awaiting approval", lambda row: row.target == 6).zone == "Europe/Berlin"
    assert len(stage.slack.calls("users.info")) == 1


def test_whose_groups_cannot_be_asked_for_is_told_so_and_may_a_moment_later(stage: Stage) -> None:
    stage.slack.faults(missing_scopes=["usergroups:read"])
    message = stage.ask()
    stage.slack.click(message, "approve", "ben")
    stage.until_told("Slack cannot be asked for your groups now", "ben")
    stage.slack.faults(missing_scopes=[])
    stage.slack.click(message, "approve", "ben")
    stage.until_run()


def test_a_bug_is_answered_with_an_error_id_that_is_in_the_log(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        message = "a bug"
        raise ZeroDivisionError(message)

    monkeypatch.setattr("bot.answers.render_status", broken)
    stage.slack.command("status")
    told = stage.until_told("error id")
    error_id = told.partition("error id `")[2].partition("`")[0]
    assert len(error_id) == 8
    assert error_id in caplog.text
    assert "ZeroDivisionError" not in told


def test_a_form_is_acknowledged_while_the_requests_database_is_busy(stage: Stage) -> None:
    stage.slack.command("help")
    stage.until_told("/fleet scale")
    message = [m for m in stage.slack.messages("anna") if m["ephemeral"]][-1]
    stage.slack.click(message, "form", "anna")
    until(lambda: len(stage.slack.state()["views"]) == 1, seconds=5)
    view = stage.slack.state()["views"][0]
    with closing(sqlite3.connect(stage.settings.state_dir / "requests.db", isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        values = {"service": "game", "target": "4", "at": "tomorrow 05:00"}
        answer = stage.slack.act("submit", "anna", view_id=view["id"], values=values)
        busy.execute("ROLLBACK")
    assert answer["ok"], answer
    assert answer["ack_seconds"] < 1
    stage.until_row("awaiting approval")
