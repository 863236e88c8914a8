"""
Carry out what a person typed or clicked, after it was acknowledged; answer that person alone.

What changes something goes through the desk, which knows the roles and writes the log; what comes of it is seen in the
channel, by the board.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from bot import answers
from bot.answers import COMMAND, refuse, say
from bot.blocks import clean, serving
from bot.memory import Memory
from bot.messages import Message, render_preview
from bot.people import Asker, Directory
from bot.reading import make_entry, noting_refusals
from bot.replies import Replies
from bot.runner import Runner
from bot.sights import Sights
from bot.tickets import Ticket
from forkyard.commands import (
    Approve,
    Cancel,
    Card,
    Command,
    Deny,
    Help,
    Lock,
    Log,
    Plan,
    Retry,
    Rollback,
    Scale,
    ScheduleCancel,
    ScheduleList,
    ScheduleMove,
    Status,
    Unlock,
    Whoami,
)
from forkyard.errors import ForkyardError, InvalidRequest
from forkyard.names import new_request_id
from forkyard.requests import OPEN, Entry, Need, Request, State, StateChanged
from forkyard.requests.desk import Desk
from forkyard.roles import ALL, Person, check, list_roles, list_services, list_verbs, may
from forkyard.settings import Settings

logger = logging.getLogger(__name__)


class Clerk:
    """Carries out commands and clicks."""

    def __init__(
        self,
        load: Callable[[], Settings],
        desk: Desk,
        directory: Directory,
        runner: Runner,
        sights: Sights,
        memory: Memory,
        replies: Replies,
        *,
        wake: Callable[[], None],
    ) -> None:
        """Work at *desk*; *wake* has the channel show what came of it."""
        self._load, self._desk, self._directory, self._runner = load, desk, directory, runner
        self._sights, self._memory, self._replies, self._wake = sights, memory, replies, wake

    def carry_out(self, asker: Asker, command: Command, *, at: datetime, raw: str = "") -> None:
        """Do what came *at* a moment, and answer; a refusal is an answer too."""
        try:
            message = self._do(asker, command, at, raw)
        except ForkyardError as error:
            message = refuse(error)
        if message is not None:
            self._replies.answer(asker, message)
        self._wake()

    def plan(self, request: Request, asker: Asker | None = None) -> None:
        """Plan what was asked for; whoever asked is told when it cannot be."""
        try:
            planned = self._desk.plan(request)
        except ForkyardError as error:
            # Transient: the board has it planned again; somebody else moved it: they know.
            logger.warning("%s: not planned: %s", request.token, error)
            self._tell(request, asker, say(f":hourglass: {request.service}: {clean(str(error))} I am trying again."))
            return
        if planned.state is State.FAILED or planned.unplanned:
            self._tell(request, asker, refuse(planned.error))
        elif planned.state is State.SUCCEEDED:
            have = serving(planned.target)
            self._tell(request, asker, say(f":white_check_mark: {planned.service}: {have} already: nothing to do."))
        elif planned.need is Need.REQUESTER:
            self._tell(request, asker, say(f"Planned as `{planned.token}`: confirm it with Approve, in the channel."))
        else:
            self._tell(request, asker, say(f"Planned as `{planned.token}`: another person must approve it."))
        self._wake()

    def _tell(self, request: Request, asker: Asker | None, message: Message) -> None:
        # After a restart there is no address for an answer any more.
        self._replies.answer(asker or Asker(request.requested_by, "", request.channel), message)

    def _do(self, asker: Asker, command: Command, at: datetime, raw: str) -> Message | None:
        person, where, raw = self._directory.person(asker.id), asker.channel, raw or str(command)
        match command:
            case Approve(id=name, break_glass=reason):
                self._desk.approve(person, name, break_glass=reason, where=where, raw=raw)
            case Deny(id=name, reason=reason):
                self._desk.deny(person, name, reason, where=where, raw=raw)
            case Cancel(id=name) | ScheduleCancel(id=name):
                return self.cancel(asker, name, raw=raw)
            case Retry(id=name) | Rollback(id=name):
                return self._again(asker, command.verb, name, at, raw=raw)
            case ScheduleMove() | Lock() | Unlock():
                return self._change(person, command, where, raw)
            case _:
                entry = make_entry(asker, command.verb, raw, getattr(command, "service", None))
                with noting_refusals(self._desk.store, entry):
                    return self._show(asker, command)
        return None

    def _change(self, person: Person, command: ScheduleMove | Lock | Unlock, where: str, raw: str) -> Message:
        """Change what is no request's state."""
        match command:
            case ScheduleMove(id=name, to=when):
                moved = self._desk.move(person, name, when, where=where, raw=raw)
                self._runner.drop_unwanted()
                return say(f"`{moved.token}` would start at {when}; it must be approved again.")
            case Lock(service=service, reason=reason):
                self._desk.lock(person, service, reason, where=where, raw=raw)
                return say(f":lock: {service} is locked. When it is over: `{COMMAND} unlock {service}`")
            case Unlock(service=service):
                self._desk.unlock(person, service, where=where, raw=raw)
                return say(f":unlock: {service} can be changed again.")

    def _show(self, asker: Asker, command: Command) -> Message:
        """Answer what only asks."""
        person, settings = self._directory.person(asker.id), self._load()
        chatops, known = settings.chatops, list(settings.services)
        match command:
            case Card() | Status():
                service = command.service if isinstance(command, Status) else None
                check(chatops, person, "status", service)
                names = [service] if service else list_services(chatops, person, "status", known)
                return answers.render_status(self._sights.observe(names), datetime.now(UTC))
            case Help(about=about):
                services = list_services(chatops, person, "status", known)
                return answers.render_help(list_verbs(chatops, person), about, services)
            case Plan(service=service, amount=amount):
                check(chatops, person, "plan", service)
                return self._preview(person.id, Scale(service, amount))
            case Scale(service=service):
                check(chatops, person, "plan", service)
                return self._preview(person.id, command)
            case _:
                return self._read(asker, command)

    def _read(self, asker: Asker, command: Command) -> Message:
        """Answer from the record."""
        person, settings = self._directory.person(asker.id), self._load()
        chatops = settings.chatops
        match command:
            case ScheduleList(service=service):
                check(chatops, person, "schedule", service)
                coming = self._sights.list_scheduled(service)
                return answers.render_schedule([r for r in coming if may(chatops, person, "schedule", r.service)])
            case Log(about=about, since=since):
                check(chatops, person, "log", about if about in settings.services else None)
                return answers.render_log(self._sights.read_log(about, since, lambda entry: self._sees(person, entry)))
            case Whoami():
                zone = self._directory.zone(asker.id)
                verbs = list_verbs(chatops, person)
                return answers.render_whoami(asker.id, list_roles(chatops, person), verbs, zone)
            case _:
                text = f"{command}: nothing does this here."
                raise InvalidRequest(text)

    def _preview(self, who: str, command: Scale) -> Message:
        """What would happen: planned, shown, and not put on record."""
        draft = Request(
            id=new_request_id(),
            state=State.DENIED,
            service=command.service,
            target=0 if command.amount.relative else command.amount.number,
            change=command.amount.number if command.amount.relative else None,
            requested_by=who,
            requested_at=datetime.now(UTC),
            reason=command.reason,
            start_at=command.at.moment if command.at else None,
            zone=command.at.zone if command.at else "Z",
            hold_seconds=int(command.hold.total_seconds()) if command.hold else None,
        )
        message = render_preview(self._desk.preview(draft))
        again = f"Nothing was asked for. To do it: `{COMMAND} {clean(str(replace(command, dry_run=False)))}`"
        return Message(message.text, [*message.blocks, *say(again).blocks])

    def cancel(self, asker: Asker, name: str, *, raw: str = "") -> Message | None:
        """Take a request back, or have its run end."""
        request = self._desk.cancel(self._directory.person(asker.id), name, where=asker.channel, raw=raw)
        if request.state is State.RUNNING:
            self._runner.cancel(request, self._sights.find_holder)
            return say(f"`{request.token}` is being cancelled: what is half made is undone first.")
        self._runner.drop_unwanted()
        return None

    def _again(self, asker: Asker, kind: str, name: str, at: datetime, *, raw: str = "") -> Message | None:
        """Retry or roll back once, however often it is asked for, until what came of it is over."""
        person, store = self._directory.person(asker.id), self._desk.store
        old = store.find(name)
        made = [row for row in store.list_requests(parent=old.id) if row.kind == kind]
        # Made since this was asked for: two people at the same moment, or the bot was killed meanwhile.
        known = next((row for row in made if row.open or row.requested_at >= at), None)
        if known is None:
            ask = self._desk.retry if kind == Retry.verb else self._desk.rollback
            delivery = f"again:{kind}:{old.id}:{len(made)}"
            known, fresh = ask(person, old.id, where=asker.channel, delivery=delivery, raw=raw)
            if fresh:
                self.plan(known, asker)
                return None
        with noting_refusals(store, make_entry(asker, kind, raw or f"{kind} {old.token}", old.service)):
            check(self._load().chatops, person, kind, old.service)
        return say(f"This was already asked as `{known.token}`: {known.state.value}.")

    def click(self, asker: Asker, action: str, ticket: Ticket, *, at: datetime) -> None:
        """Do what a button of a request's message says, which was clicked *at* a moment."""
        try:
            answer = self._click(asker, action, ticket, at)
        except ForkyardError as error:
            answer = refuse(error)
        if answer is not None:
            self._replies.answer(asker, answer)
        self._wake()

    def _click(self, asker: Asker, action: str, ticket: Ticket, at: datetime) -> Message | None:
        request = self._desk.store.get(ticket.request_id)
        match action:
            case "approve":
                person = self._directory.person(asker.id)
                self._desk.approve(person, request.id, plan_hash=ticket.plan_hash, where=asker.channel)
            case "cancel":
                return self.cancel(asker, request.id)
            case "retry" | "rollback":
                return self._again(asker, action, request.id, at)
            case "keep":
                self._keep(asker, request)
        return None

    def _keep(self, asker: Asker, request: Request) -> None:
        entry = replace(make_entry(asker, "keep", service=request.service), request_id=request.id)
        with noting_refusals(self._desk.store, entry):
            check(self._load().chatops, self._directory.person(asker.id), "cancel", request.service)
        shown = self._memory.find(request.id)
        if shown is not None:
            self._desk.store.note(replace(entry, decision="kept"))
            self._memory.change(shown, kept=True, done=False)

    def check_editable(self, request_id: str) -> Request:
        """The request, if another one may still take its place; raises InvalidRequest with what can be done."""
        return _check_editable(self._desk.store.get(request_id))

    def edit(self, asker: Asker, ticket: Ticket, command: Scale, *, delivery: str) -> None:
        """
        Replace a request by another one: the old one is cancelled only when the new one is on record.

        Raises:
            ForkyardError: it cannot be replaced; nothing is left of the new one.
        """
        person, where = self._directory.person(asker.id), asker.channel
        new, fresh = self._desk.ask(person, command, origin="slack", where=where, delivery=delivery)
        try:
            # Not fresh: a bot that was killed in the middle of this may have come so far already.
            if fresh or self._desk.store.get(ticket.request_id).state is not State.CANCELLED:
                self.check_editable(ticket.request_id)
                old = self._desk.cancel(person, ticket.request_id, where=where)
                if old.state is State.RUNNING:
                    _check_editable(old)  # it began in this very moment
                self._runner.drop_unwanted()
        except ForkyardError as error:
            logger.info("%s: cannot take the place of %s: %s", new.token, ticket.request_id, error)
            self._desk.cancel(person, new.id, where=where)
            raise
        if new.state is State.DRAFTED:
            self.plan(new, asker)

    def _sees(self, person: Person, entry: Entry) -> bool:
        """Whether the log's line is for this person: their own, of a service of theirs, or all for who sees all."""
        return entry.who == person.id or may(self._load().chatops, person, "log", entry.service or ALL)

    def list_waiting(self, user: str) -> list[Request]:
        """Open requests that this person can approve."""
        person, chatops = self._directory.person(user), self._load().chatops
        found = self._desk.store.list_requests(states=[State.AWAITING])

        def can_approve(request: Request) -> bool:
            if request.requested_by == user:
                return request.need is Need.REQUESTER and may(chatops, person, "scale", request.service)
            return not request.unplanned and may(chatops, person, "approve", request.service)

        return [request for request in found if can_approve(request)]

    def render_home(self, user: str) -> list[dict[str, object]]:
        """The home tab of one person."""
        chatops, person = self._load().chatops, self._directory.person(user)
        if not list_roles(chatops, person):
            return answers.render_home(user, [], [], [], {})
        live, latest = self._desk.store.list_requests(states=OPEN), self._desk.store.list_requests(limit=100)
        live, over = (
            [r for r in found if may(chatops, person, "status", r.service)]
            for found in (live, [r for r in latest if not r.open])
        )
        roles = dict.fromkeys(list_roles(chatops, person))
        return answers.render_home(user, self.list_waiting(user), live, over, roles)


def _check_editable(request: Request) -> Request:
    if request.state is State.RUNNING:
        text = (
            f"{request.token}: runs already. Let it end and ask for the other number then, "
            f"or stop it first: cancel {request.token}"
        )
        raise InvalidRequest(text)
    if not request.open:
        raise StateChanged(request)
    if request.plan is not None and request.plan.later and request.hold_seconds is None:
        text = (
            f"{request.token}: more follows it (a ramp, or the end of an event), which a form cannot keep. "
            f"Move it with schedule move {request.token} to WHEN, or change the event in the calendar."
        )
        raise InvalidRequest(text)
    return request
