"""
What Slack sends, as slack-bolt hands it over: put on record, acknowledged, and left to the workers.

Nothing here waits for the fleet, for Prefect, or for more than a moment for Slack itself. The same delivery, once more
or twenty times at once, is acknowledged and does nothing.
"""

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from threading import Event, Lock
from typing import Any

from slack_bolt import Ack, App, BoltResponse
from slack_sdk import WebClient

from bot import answers
from bot.answers import COMMAND, refuse, say
from bot.blocks import clean
from bot.clerk import Clerk
from bot.forms import make_deny_form, make_scale_form, read_deny_form, read_scale_form
from bot.inbox import Inbox, Letter
from bot.messages import Message
from bot.people import Asker, Directory, read_asker
from bot.replies import Replies
from bot.slack_api import call
from bot.tickets import Ticket, read_ticket
from forkyard.commands import Command, Deny, Scale
from forkyard.errors import ForkyardError
from forkyard.grammar import Complaint, parse
from forkyard.requests import Entry
from forkyard.requests.desk import Desk
from forkyard.roles import check_place, list_services
from forkyard.settings import Settings

logger = logging.getLogger(__name__)

Body = dict[str, Any]

_TIMED = re.compile(r"\b(at|to)\b.*\d", re.IGNORECASE)
"""A command that may name a time, for which the person's zone must be known."""

POLITE = 0.5
"""Most seconds that a worker waits for others to be acknowledged first."""

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
        workers: Executor,
        inbox: Inbox,
    ) -> None:
        """Keep what comes in *inbox*, and have *workers* do what takes time."""
        self._load, self._desk, self._directory, self._clerk = load, desk, directory, clerk
        self._replies, self._client, self._workers, self._inbox = replies, client, workers, inbox
        self._taking, self._counting, self._calm = 0, Lock(), Event()
        self._calm.set()

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
            self.submit(self._deal, letter)

    def _keep(self, asker: Asker, kind: str, **body: str) -> Letter | None:
        """Keep a delivery; None for one that came before."""
        letter = Letter(f"{kind}:{asker.trigger}", kind, {"asker": asdict(asker), **body})
        return letter if self._inbox.put(letter) else None

    def _deal(self, letter: Letter) -> None:
        asker, body = Asker(**letter.body["asker"]), letter.body
        if letter.kind == "click":
            self._clerk.click(asker, body["action"], read_ticket(body["value"]))
        else:
            answer = self._take(asker, body["text"], delivery=letter.key)
            if answer is not None:
                self._replies.answer(asker, answer)
        self._inbox.finish(letter.key)

    @contextmanager
    def _first(self) -> Iterator[None]:
        """While deliveries are being taken, the workers wait: whoever typed is acknowledged before anything is done."""
        with self._counting:
            self._taking += 1
            self._calm.clear()
        try:
            yield
        finally:
            with self._counting:
                self._taking -= 1
                if self._taking == 0:
                    self._calm.set()

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - the work's own
        """Have it done soon; what goes wrong with it is in the log."""

        def guarded() -> None:
            self._calm.wait(POLITE)
            try:
                work(*arguments)
            except Exception:
                # The last edge of a worker's thread: nobody else would ever hear of it.
                logger.exception("%s failed", getattr(work, "__name__", work))

        self._workers.submit(guarded)

    # Commands

    def on_command(self, ack: Ack, body: Body) -> None:
        """Take `/fleet ...`."""
        with self._first():
            letter = self._keep(read_asker(body), "command", text=str(body.get("text") or ""))
            ack()
        if letter is not None:
            self.submit(self._deal, letter)

    def _take(self, asker: Asker, text: str, *, delivery: str) -> Message | None:
        """Read it and put it on record, or do it; gives what to say at once."""
        try:
            self._check_place(asker, text)
            command = self._parse(asker, text)
            if isinstance(command, Complaint):
                return answers.render_complaint(command)
            return self._accept(asker, command, text, delivery)
        except ForkyardError as error:
            return refuse(error)

    def _check_place(self, asker: Asker, text: str) -> None:
        try:
            check_place(self._load().chatops, asker.team, asker.channel)
        except ForkyardError as error:
            where = f"{asker.team}/{asker.channel}"
            refused = Entry(
                who=asker.id, action="command", where=where, raw=text, decision="refused", detail=str(error)
            )
            self._desk.store.note(refused)
            raise

    def _parse(self, asker: Asker, text: str) -> Command | Complaint:
        # Only where a time may stand: a command must not fail because Slack cannot be asked for a zone.
        zone = self._directory.zone(asker.id) if _TIMED.search(text) else "Z"
        return parse(text, datetime.now(UTC), zone, list(self._load().services))

    def _accept(self, asker: Asker, command: Command, text: str, delivery: str) -> Message | None:
        if not isinstance(command, Scale) or command.dry_run:
            self._clerk.carry_out(asker, command, delivery=delivery)
            return None
        person = self._directory.person(asker.id)
        request, fresh = self._desk.ask(
            person, command, raw=text, origin="slack", where=asker.channel, delivery=delivery
        )
        if not fresh:
            return None
        self.submit(self._clerk.plan, request, asker)
        return say(f"Understood as `{COMMAND} {clean(str(command))}` (`{request.token}`); planning…")

    def _carry_out(self, asker: Asker, command: Command, delivery: str) -> None:
        self._clerk.carry_out(asker, command, delivery=delivery)

    # Buttons

    def on_click(self, ack: Ack, body: Body) -> None:
        """Take a click on a request's message."""
        asker, action = read_asker(body), body["actions"][0]
        ticket = self._ticket(asker, action)
        letter = None
        if ticket is not None:
            letter = self._keep(asker, "click", action=str(action["action_id"]), value=str(ticket))
        ack()
        if letter is not None:
            self.submit(self._deal, letter)

    def on_deny(self, ack: Ack, body: Body) -> None:
        """Ask why not."""
        asker = read_asker(body)
        ticket = self._ticket(asker, body["actions"][0])
        ack()
        if ticket is not None and self._is_new(asker):
            self.submit(self._open_deny, asker, ticket)

    def on_edit(self, ack: Ack, body: Body) -> None:
        """Open the form, filled in with what a request says."""
        asker = read_asker(body)
        ticket = self._ticket(asker, body["actions"][0])
        ack()
        if ticket is not None and self._is_new(asker):
            self.submit(self._open_edit, asker, ticket)

    def on_form(self, ack: Ack, body: Body) -> None:
        """Open the form, filled in with what was understood of a command."""
        asker = read_asker(body)
        ack()
        service, number, reason = (*str(body["actions"][0].get("value") or "").split("\x1f"), "", "", "")[:3]
        if self._is_new(asker):
            self.submit(self._open_form, asker, service, number, reason, "")

    def on_typed(self, ack: Ack, body: Body) -> None:
        """Take a button that stands for a whole command, as if it were typed."""
        asker, action = read_asker(body), body["actions"][0]
        text = "status" if action["action_id"] == "status" else str(action.get("value") or "")
        letter = self._keep(asker, "typed", text=text)
        ack()
        if letter is not None:
            self.submit(self._deal, letter)

    def on_link(self, ack: Ack) -> None:
        """Slack tells of clicks on links too; there is nothing to do."""
        ack()

    def _ticket(self, asker: Asker, action: Body) -> Ticket | None:
        try:
            # Its own conversation with a person is the bot's only place beside the channels that are listed.
            if not asker.channel.startswith("D"):
                check_place(self._load().chatops, asker.team, asker.channel)
            return read_ticket(str(action.get("value") or ""))
        except ForkyardError as error:
            self.submit(self._replies.answer, asker, refuse(error))
            return None

    def _is_new(self, asker: Asker) -> bool:
        letter = self._keep(asker, "open")
        if letter is not None:
            self._inbox.finish(letter.key)  # a form that could not be opened in three seconds never can
        return letter is not None

    # Forms

    def _open_form(self, asker: Asker, service: str, number: str, reason: str, edits: str) -> None:
        person, settings = self._directory.person(asker.id), self._load()
        services = list_services(settings.chatops, person, "scale", list(settings.services))
        if not services:
            self._replies.answer(asker, say(":no_entry: You have no role for `scale` on any service."))
            return
        channel = asker.channel or next(iter(settings.chatops.channels), "")
        form = make_scale_form(services, channel=channel, service=service, number=number, reason=reason, edits=edits)
        self._open(asker, form)

    def _open_edit(self, asker: Asker, ticket: Ticket) -> None:
        request = self._desk.store.get(ticket.request_id)
        self._open_form(asker, request.service, str(request.target), request.reason, str(ticket))

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
        asker = Asker(read_asker(body).id, read_asker(body).team, channel, trigger=str(view["id"]))
        delivery = f"form:{view['id']}:{view.get('hash', '')}"
        try:
            self._check_place(asker, text)
            command = self._parse(asker, text)
        except ForkyardError as error:
            ack(response_action="errors", errors={"target": str(error)[:150]})
            return
        if not isinstance(command, Scale):
            ack(response_action="errors", errors=_complain(command))
            return
        if edits:
            self.submit(self._edit, asker, edits, command, delivery)
            ack()
            return
        try:
            answer = self._accept(asker, command, text, delivery)
        except ForkyardError as error:
            ack(response_action="errors", errors={"target": str(error)[:150]})
            return
        ack()
        if answer is not None:
            self.submit(self._replies.answer, asker, answer)

    def _edit(self, asker: Asker, edits: str, command: Scale, delivery: str) -> None:
        self._clerk.edit(asker, read_ticket(edits), command, delivery=delivery)

    def on_deny_form(self, ack: Ack, body: Body, view: Body) -> None:
        """Take the reason."""
        reason, channel, value = read_deny_form(view)
        asker = Asker(read_asker(body).id, read_asker(body).team, channel)
        delivery = f"form:{view['id']}"
        new = self._desk.store.deliver(delivery)
        ack()
        if new:
            self.submit(self._carry_out, asker, Deny(read_ticket(value).request_id, reason), delivery)

    # Home

    def on_home(self, event: Body) -> None:
        """Fill in the home tab of whoever opened it."""
        if event.get("tab") == "home":
            self.submit(self._publish_home, str(event["user"]))

    def on_home_button(self, ack: Ack, body: Body) -> None:
        """Fill it in anew."""
        ack()
        self.submit(self._publish_home, read_asker(body).id)

    def _publish_home(self, user: str) -> None:
        view = {"type": "home", "blocks": self._clerk.render_home(user)}
        try:
            call("views.publish", self._client.views_publish, user_id=user, view=view)
        except ForkyardError as error:
            logger.warning("no home for %s: %s", user, error)


def _complain(complaint: Command | Complaint) -> dict[str, str]:
    """Which field of the form is to blame, as far as that can be seen."""
    text = str(complaint) if isinstance(complaint, Complaint) else "This form only scales."
    lower = text.lower()
    field = (
        "because" if "reason" in lower else "at" if "time" in lower or "zone" in lower or "past" in lower else "target"
    )
    return {field: text[:150]}


def report(error: Exception, body: Body) -> BoltResponse:
    """Say in the log what a listener could not do; Slack is told that it failed."""
    logger.error("a %s could not be taken", body.get("type", "command"), exc_info=error)
    return BoltResponse(status=500, body="")
