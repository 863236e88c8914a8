"""
What Slack sends, as slack-bolt hands it over: put on record, acknowledged, and left to the workers.

Nothing here waits for the fleet, for Prefect, or for more than a moment for Slack itself. The same delivery, once more
or twenty times at once, is acknowledged and does nothing.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from time import time
from typing import Any

from slack_bolt import Ack, App, BoltResponse
from slack_sdk import WebClient

from bot import answers
from bot.answers import COMMAND, refuse, say
from bot.blocks import clean
from bot.clerk import Clerk
from bot.forms import (
    draft_request,
    make_deny_form,
    make_scale_form,
    read_deny_form,
    read_draft,
    read_scale_form,
)
from bot.inbox import Inbox, Letter
from bot.messages import Message
from bot.people import Asker, Directory, read_asker
from bot.reading import Reading, make_entry, noting_refusals
from bot.replies import Replies
from bot.slack_api import call
from bot.tickets import Ticket, read_ticket
from bot.workers import Workers
from forkyard.commands import Command, Deny, Scale
from forkyard.errors import ForkyardError, RequestError
from forkyard.grammar import Complaint
from forkyard.model import ScaleRequest
from forkyard.plan import check_request
from forkyard.requests.desk import Desk
from forkyard.roles import check, list_services
from forkyard.settings import Settings

logger = logging.getLogger(__name__)

Body = dict[str, Any]

CLICKS = re.compile(r"^(approve|cancel|retry|rollback|keep)$")


class Listeners:
    """Takes what Slack sends."""

    def __init__(
        self,
        load: Callable[[], Settings],
        desk: Desk,
        directory: Directory,
        clerk: Clerk,
        replies: Replies,
        client: WebClient,
        workers: Workers,
        inbox: Inbox,
    ) -> None:
        """Keep what comes in *inbox*, and have *workers* do what takes time."""
        self._load, self._desk, self._directory, self._clerk = load, desk, directory, clerk
        self._replies, self._client, self._workers, self._inbox = replies, client, workers, inbox
        self._reading = Reading(load, desk.store, directory)

    def register(self, app: App) -> None:
        """Take all that the manifest subscribes to."""
        app.command(COMMAND)(self.on_command)
        app.action(CLICKS)(self.on_click)
        app.action("deny")(self.on_deny)
        app.action("edit")(self.on_edit)
        app.action("form")(self.on_form)
        app.action(re.compile(r"^type-\d$"))(self.on_typed)
        app.action("status")(self.on_typed)
        app.action("home")(self.on_home_button)
        app.action("details")(self.on_link)
        app.view("scale")(self.on_scale_form)
        app.view("deny")(self.on_deny_form)
        app.event("app_home_opened")(self.on_home)
        app.error(report)

    def resume(self) -> None:
        """Deal with what was delivered to a bot that was killed."""
        for letter in self._inbox.list_open():
            logger.info("dealing with %s again", letter.key)
            self._submit(letter)

    def _keep(self, asker: Asker, kind: str, key: str = "", **body: str) -> Letter | None:
        """Keep a delivery, known by its trigger or by *key*; None for one that came before."""
        letter = Letter(f"{kind}:{key or asker.trigger}", kind, {"asker": asdict(asker), **body}, time())
        return letter if self._inbox.put(letter) else None

    def _submit(self, letter: Letter | None) -> None:
        if letter is not None:
            self._workers.submit(self._deal, letter, asker=Asker(**letter.body["asker"]))

    def _deal(self, letter: Letter) -> None:
        asker, body, at = Asker(**letter.body["asker"]), letter.body, datetime.fromtimestamp(letter.at, UTC)
        try:
            match letter.kind:
                case "click":
                    self._clerk.click(asker, body["action"], read_ticket(body["value"]), at=at)
                case "deny":
                    denial = Deny(read_ticket(body["value"]).request_id, body["reason"])
                    self._clerk.carry_out(asker, denial, at=at)
                case _:
                    answer = self._take(asker, body["text"], letter.key, at, edits=body.get("edits", ""))
                    if answer is not None:
                        self._replies.answer(asker, answer)
        finally:
            # Also when there is a bug in it: the person is told so, and the next bot would meet the same.
            self._inbox.finish(letter.key)

    # Commands

    def on_command(self, ack: Ack, body: Body) -> None:
        """Take `/fleet ...`."""
        with self._workers.first():
            letter = self._keep(read_asker(body), "command", text=str(body.get("text") or ""))
            ack()
        self._submit(letter)

    def _take(self, asker: Asker, text: str, delivery: str, at: datetime, *, edits: str) -> Message | None:
        """Read it and put it on record, or do it; gives what to say at once."""
        try:
            self._reading.check_place(asker, "command", text)
            command = self._reading.read(asker, text, at)
            if isinstance(command, Complaint):
                return answers.render_complaint(command)
            if edits and isinstance(command, Scale):
                self._clerk.edit(asker, read_ticket(edits), command, delivery=delivery)
                return None
            return self._accept(asker, command, text, delivery, at)
        except ForkyardError as error:
            return refuse(error)

    def _accept(self, asker: Asker, command: Command, text: str, delivery: str, at: datetime) -> Message | None:
        if not isinstance(command, Scale) or command.dry_run:
            self._clerk.carry_out(asker, command, at=at, raw=text)
            return None
        person = self._directory.person(asker.id)
        request, fresh = self._desk.ask(
            person, command, raw=text, origin="slack", where=asker.channel, delivery=delivery
        )
        if not fresh:
            return None
        self._workers.submit(self._clerk.plan, request, asker, asker=asker)
        return say(f"Understood as `{COMMAND} {clean(str(command))}` (`{request.token}`); planning…")

    # Buttons

    def on_click(self, ack: Ack, body: Body) -> None:
        """Take a click on a request's message."""
        asker, action = read_asker(body), body["actions"][0]
        ticket = self._ticket(asker, action)
        letter = None
        if ticket is not None:
            letter = self._keep(asker, "click", action=str(action["action_id"]), value=str(ticket))
        ack()
        self._submit(letter)

    def on_deny(self, ack: Ack, body: Body) -> None:
        """Ask why not."""
        asker = read_asker(body)
        ticket = self._ticket(asker, body["actions"][0])
        ack()
        if ticket is not None and self._is_new(asker):
            self._workers.submit(self._open_deny, asker, ticket, asker=asker)

    def on_edit(self, ack: Ack, body: Body) -> None:
        """Open the form, filled in with what a request says."""
        asker = read_asker(body)
        ticket = self._ticket(asker, body["actions"][0])
        ack()
        if ticket is not None and self._is_new(asker):
            self._workers.submit(self._open_edit, asker, ticket, asker=asker)

    def on_form(self, ack: Ack, body: Body) -> None:
        """Open the form, filled in with what was understood of a command."""
        asker = read_asker(body)
        ack()
        draft = read_draft(str(body["actions"][0].get("value") or ""))
        if self._is_new(asker):
            self._workers.submit(self._open_form, asker, draft, asker=asker)

    def on_typed(self, ack: Ack, body: Body) -> None:
        """Take a button that stands for a whole command, as if it were typed."""
        asker, action = read_asker(body), body["actions"][0]
        text = "status" if action["action_id"] == "status" else str(action.get("value") or "")
        letter = self._keep(asker, "typed", text=text)
        ack()
        self._submit(letter)

    def on_link(self, ack: Ack) -> None:
        """Slack tells of clicks on links too; there is nothing to do."""
        ack()

    def _ticket(self, asker: Asker, action: Body) -> Ticket | None:
        try:
            self._reading.judge_where_shown(asker)
            return read_ticket(str(action.get("value") or ""))
        except ForkyardError as error:
            self._workers.submit(self._refuse_click, asker, str(action["action_id"]), error, asker=asker)
            return None

    def _refuse_click(self, asker: Asker, action: str, error: ForkyardError) -> None:
        try:
            self._desk.store.note(replace(make_entry(asker, action), decision="refused", detail=str(error)))
        finally:
            self._replies.answer(asker, refuse(error))

    def _is_new(self, asker: Asker) -> bool:
        letter = self._keep(asker, "open")
        if letter is not None:
            self._inbox.finish(letter.key)  # a form that could not be opened in three seconds never can
        return letter is not None

    # Forms

    def _open_form(self, asker: Asker, draft: Mapping[str, str], edits: str = "") -> None:
        person, settings = self._directory.person(asker.id), self._load()
        try:
            self._reading.check_where_shown(asker, "form")
            with noting_refusals(self._desk.store, make_entry(asker, "form")):
                check(settings.chatops, person, "scale")
        except ForkyardError as error:
            self._replies.answer(asker, refuse(error))
            return
        services = list_services(settings.chatops, person, "scale", list(settings.services))
        # In a conversation with the bot, as in its home tab, the first channel is where the answer goes.
        elsewhere = not asker.channel or asker.channel.startswith("D")
        channel = next(iter(settings.chatops.channels), "") if elsewhere else asker.channel
        self._open(asker, make_scale_form(services, draft, channel=channel, edits=edits))
        self._learn_zone(asker)

    def _learn_zone(self, asker: Asker) -> None:
        """Have the zone known when the form comes back: its times are judged before it closes."""
        try:
            self._directory.zone(asker.id)
        except ForkyardError as error:
            logger.info("the zone of %s is not known yet: %s", asker.id, error)

    def _open_edit(self, asker: Asker, ticket: Ticket) -> None:
        try:
            request = self._clerk.check_editable(ticket.request_id)
        except ForkyardError as error:
            self._refuse_click(asker, "edit", error)
            return
        self._open_form(asker, draft_request(request), str(ticket))

    def _open_deny(self, asker: Asker, ticket: Ticket) -> None:
        self._open(asker, make_deny_form(self._desk.store.get(ticket.request_id), ticket, asker.channel))

    def _open(self, asker: Asker, form: Body) -> None:
        try:
            call("views.open", self._client.views_open, trigger_id=asker.trigger, view=form)
        except ForkyardError as error:
            logger.warning("no form for %s: %s", asker.id, error)
            self._replies.answer(asker, say(f":hourglass: The form could not be opened in time. Try again. ({error})"))

    def on_scale_form(self, ack: Ack, body: Body, view: Body) -> None:
        """Take the filled-in form: it says a command, which is read like any other."""
        text, channel, edits = read_scale_form(view)
        asker = replace(read_asker(body), channel=channel, response_url="")
        found = self._reading.read_now(asker, text, datetime.now(UTC))
        errors = _complain(found) if isinstance(found, Complaint) else self._judge_number(found)
        if errors:
            ack(response_action="errors", errors=errors)
            if isinstance(found, Complaint):
                self._workers.submit(self._reading.note_complaint, asker, text, found)
            return
        with self._workers.first():
            letter = self._keep(asker, "form", f"{view['id']}:{view.get('hash', '')}", text=text, edits=edits)
            ack()
        self._submit(letter)

    def _judge_number(self, command: Command | None) -> dict[str, str]:
        """What is wrong with the number, as far as the settings say; the rest is told after the form is closed."""
        if not isinstance(command, Scale) or command.amount.relative:
            return {}
        asked = ScaleRequest("", command.service, command.amount.number, "", datetime.now(UTC))
        try:
            check_request(asked, self._load().service(command.service).limits)
        except RequestError as error:
            return {"target": str(error)[:150]}
        return {}

    def on_deny_form(self, ack: Ack, body: Body, view: Body) -> None:
        """Take the reason."""
        reason, channel, value = read_deny_form(view)
        asker = replace(read_asker(body), channel=channel, response_url="")
        with self._workers.first():
            letter = self._keep(asker, "deny", str(view["id"]), reason=reason, value=value)
            ack()
        self._submit(letter)

    # Home

    def on_home(self, event: Body) -> None:
        """Fill in the home tab of whoever opened it."""
        if event.get("tab") == "home":
            self._workers.submit(self._publish_home, str(event["user"]))

    def on_home_button(self, ack: Ack, body: Body) -> None:
        """Fill it in anew."""
        ack()
        self._workers.submit(self._publish_home, read_asker(body).id)

    def _publish_home(self, user: str) -> None:
        view = {"type": "home", "blocks": self._clerk.render_home(user)}
        try:
            call("views.publish", self._client.views_publish, user_id=user, view=view)
        except ForkyardError as error:
            logger.warning("no home for %s: %s", user, error)


def _complain(complaint: Complaint) -> dict[str, str]:
    """Which field of the form is to blame, as far as that can be seen."""
    text = str(complaint)
    lower = text.lower()
    field = (
        "because" if "reason" in lower else "at" if "time" in lower or "zone" in lower or "past" in lower else "target"
    )
    return {field: text[:150]}


def report(error: Exception, body: Body) -> BoltResponse:
    """Say in the log what a listener could not do; Slack is told that it failed."""
    logger.error("a %s could not be taken", body.get("type", "command"), exc_info=error)
    return BoltResponse(status=500, body="")
