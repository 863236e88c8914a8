"""The form: what it is filled in with, what it puts in another request's place, and a bot that is killed meanwhile."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from time import time

import pytest

from bot.answers import say
from bot.inbox import Letter, open_inbox
from bot.people import Asker
from bot.replies import Replies
from bot.slack_api import make_client
from bot.tickets import make_ticket
from forkyard.commands import Amount, Scale
from forkyard.requests import State
from forkyard.requests.desk import Desk
from forkyard.requests.looking import plan_now
from forkyard.requests.moves import make_entry
from forkyard.roles import Person
from forkyard.settings import RoleSettings
from tests.bot.conftest import Stage, text_of
from tests.support.lab import until
from tests.support.slack import ANNA, BEN, CARO, FLEET, Json


def open_form(stage: Stage, message: Json, action: str, person: str = "anna") -> Json:
    """Click what opens a form; give the form."""
    stage.slack.click(message, action, person)
    until(lambda: len(stage.slack.state(person)["views"]) == 1, seconds=5, what="a form")
    view: Json = stage.slack.state(person)["views"][0]
    return view


def initials(view: Json) -> dict[str, str]:
    """What its fields are filled in with."""
    found = {block["block_id"]: block["element"] for block in view["blocks"]}
    return {name: element["initial_value"] for name, element in found.items() if "initial_value" in element}


def last_ephemeral(stage: Stage, person: str = "anna") -> Json:
    return [m for m in stage.slack.messages(person) if m["ephemeral"]][-1]


def test_an_edit_keeps_when_and_for_how_long(stage: Stage) -> None:
    start = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M")
    message = stage.ask(f'scale game to 4 at {start} Europe/Berlin for 2h because "a launch"')
    first = stage.until_row("awaiting approval")
    view = open_form(stage, message, "edit")
    assert initials(view) == {"target": "4", "at": f"{start} Europe/Berlin", "for": "2h", "because": "a launch"}
    stage.slack.act("submit", "anna", view_id=view["id"], values={"target": "6"})
    second = stage.until_row("awaiting approval", lambda row: row.target == 6)
    assert (second.start_at, second.zone, second.hold_seconds) == (first.start_at, "Europe/Berlin", 7200)


def test_a_typing_mistake_opens_a_form_that_has_all_the_rest(stage: Stage) -> None:
    stage.slack.command('scale gmae to 4 at noon for 2h because "a launch"')
    stage.until_told("no service is called so")
    view = open_form(stage, last_ephemeral(stage), "form")
    assert initials(view) == {"target": "4", "at": "noon", "for": "2h", "because": "a launch"}


def test_a_request_that_runs_is_not_edited_and_no_other_one_is_left(stage: Stage) -> None:
    message = stage.ask()
    view = open_form(stage, message, "edit")
    stage.slack.click(message, "approve", "ben")
    assert stage.prefect.begin(stage.until_run())
    stage.slack.act("submit", "anna", view_id=view["id"], values={"target": "6"})
    stage.until_told("runs already. Let it end")
    assert {(row.target, row.state) for row in stage.store.list_requests()} == {
        (4, State.RUNNING),
        (6, State.CANCELLED),
    }


def test_an_edit_by_somebody_who_may_not_cancel_leaves_the_request_as_it_is(stage: Stage) -> None:
    roles = stage.settings.chatops.roles
    stage.change(roles={**roles, "few": RoleSettings(users=(CARO,), services=("game",), verbs=("scale",))})
    view = open_form(stage, stage.ask(), "edit", "caro")
    stage.slack.act("submit", "caro", view_id=view["id"], values={"target": "6"})
    stage.until_told("cancel game: you have no role for it", "caro")
    assert {(row.target, row.state) for row in stage.store.list_requests()} == {
        (4, State.AWAITING),
        (6, State.CANCELLED),
    }


def test_a_number_beyond_the_service_is_told_at_its_field(stage: Stage) -> None:
    stage.slack.command("help")
    stage.until_told("/fleet scale")
    view = open_form(stage, last_ephemeral(stage), "form")
    values = {"service": "game", "target": "4000"}
    errors = stage.slack.act("submit", "anna", view_id=view["id"], values=values)["errors"]
    assert "maximum of 200" in errors["target"]


@pytest.mark.parametrize("kind", ["scale", "edit", "deny"])
def test_a_form_that_was_acknowledged_by_a_bot_that_was_killed_is_dealt_with(stage: Stage, kind: str) -> None:
    stage.ask()
    first = stage.until_row("awaiting approval")
    stage.stop_bot()
    ticket = make_ticket(first)
    asker = asdict(Asker(BEN, "T0LAB00001", FLEET))
    body = {"reason": "not today", "value": ticket} if kind == "deny" else {"text": "scale game to 6 at in 2h"}
    body |= {"edits": ticket if kind == "edit" else ""}
    with open_inbox(stage.settings) as inbox:
        name = "deny" if kind == "deny" else "form"
        assert inbox.put(Letter(f"{name}:V1", name, {"asker": asker, **body}, time() - 600))
    stage.start_bot()
    if kind == "deny":
        stage.until_row("denied")
        return
    second = stage.until_row("awaiting approval", lambda row: row.target == 6)
    # As of the moment at which it was sent.
    assert second.start_at is not None
    assert timedelta(minutes=105) < second.start_at - datetime.now(UTC) < timedelta(minutes=111)
    assert stage.store.get(first.id).state is (State.CANCELLED if kind == "edit" else State.AWAITING)


def test_an_edit_that_was_cut_off_in_the_middle_is_brought_to_its_end(stage: Stage) -> None:
    stage.ask()
    first = stage.until_row("awaiting approval")
    stage.stop_bot()
    # The new one is on record and the old one cancelled; the letter was not put aside.
    desk = Desk(stage.store, stage.load, plan_now)
    second, _ = desk.ask(Person(ANNA), Scale("game", Amount(6)), where=FLEET, delivery="form:V1")
    stage.store.move(first, State.CANCELLED, make_entry(first, ANNA, "cancel"))
    asker = asdict(Asker(ANNA, "T0LAB00001", FLEET))
    body = {"text": "scale game to 6", "edits": make_ticket(first)}
    with open_inbox(stage.settings) as inbox:
        inbox.put(Letter("form:V1", "form", {"asker": asker, **body}, time()))
    stage.start_bot()
    stage.until_shown("Approve", request=second)
    assert len(stage.store.list_requests()) == 2


def test_an_answer_waits_as_long_as_slack_says(quiet_stage: Stage) -> None:
    slack = quiet_stage.slack
    replies = Replies(make_client(slack.secret("bot.token"), slack.api_url))
    slack.faults(ratelimited=3)
    replies.answer(Asker(ANNA, "T0LAB00001", FLEET), say("at last"))
    assert "at last" in text_of(slack.messages("anna"))
    assert [call["error"] for call in slack.calls("chat.postEphemeral")] == ["ratelimited", ""]
