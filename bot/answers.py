"""What the bot answers to one person: help, status, log, who they are. Pure, from values that were looked up before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bot import blocks as b
from bot.blocks import Block, clean, clean_refusal, mention, moment
from bot.forms import write_draft
from bot.messages import Message
from forkyard.grammar import Complaint
from forkyard.model import Fleet, Phase
from forkyard.requests import Request, ServiceLock, State
from forkyard.requests.audit import Logged
from forkyard.usages import USAGES

COMMAND = "/fleet"

_LINES = 20
_BUCKETS = 12


@dataclass(frozen=True, slots=True)
class ServiceSight:
    """One service as it is now."""

    service: str
    fleet: Fleet | None
    """None: it cannot be seen; *trouble* says why."""
    trouble: str = ""
    held_by: str = ""
    lock: ServiceLock | None = None
    following: Request | None = None
    """What is scheduled next."""
    history: tuple[Request, ...] = ()
    """Requests that ended in the last day, oldest first."""


def say(text: str, *more: Block) -> Message:
    """An answer of one paragraph."""
    return Message(text, [b.section(text), *more])


def refuse(error: object) -> Message:
    """Say what cannot be done, and so what can."""
    return say(f":no_entry: {clean_refusal(error)}")


def render_complaint(complaint: Complaint) -> Message:
    """Say why a text is no command, with buttons for what was probably meant, and for the form."""
    lines = [clean(complaint.text), f"Usage: `{COMMAND} {clean(complaint.usage)}`" if complaint.usage else ""]
    wholes = [complaint.meant] if complaint.meant is not None else list(complaint.choices)
    buttons = [
        b.button(f"{COMMAND} {whole}", f"type-{number}", whole[:2000]) for number, whole in enumerate(wholes[:4])
    ]
    buttons.append(b.button("Open the form", "form", write_draft(complaint.draft)))
    return Message(str(complaint), [b.section("\n".join(filter(None, lines))), b.actions(*buttons)])


def render_help(verbs: Sequence[str], about: str | None, services: Sequence[str]) -> Message:
    """What this person can type; only that."""
    shown = [verb for verb in verbs if about in {None, verb}]
    if not shown:
        return say(
            f"`{clean(about or '')}`: you have no role for it, or there is no such verb. `{COMMAND} help` lists yours."
        )
    lines = [f"`{COMMAND} {clean(USAGES[verb].form)}`\n{clean(USAGES[verb].does)}" for verb in shown]
    if about is not None:
        lines += ["Examples:", *(f"`{COMMAND} {clean(example)}`" for example in USAGES[about].examples)]
    where = f"Services: {', '.join(services)}." if services else "You have no role on any service yet."
    form = b.actions(b.button("Open the form", "form", write_draft({})))
    return Message("what you can type", [*(b.section(line) for line in lines), b.context(where), form])


def render_status(sights: Sequence[ServiceSight], now: datetime) -> Message:
    """The fleets as a table, what to know beside it, and their last 24 hours."""
    rows: list[list[object]] = [["service", "wanted", "serving", "healthy", "lease", "next"]]
    notes: list[str] = []
    for sight in sights:
        rows.append(_row(sight))
        if sight.trouble:
            notes.append(f":warning: {sight.service}: {clean(sight.trouble)}")
        if sight.lock is not None:
            held = sight.lock
            who = f"locked by {mention(held.who)} since {moment(held.since)}"
            notes.append(f":lock: {sight.service}: {who}: {clean(held.reason)}")
    text = "; ".join(f"{row[0]}: {row[2]} of {row[1]} serve" for row in rows[1:])
    found = [b.table(rows), *([b.context(*notes)] if notes else [])]
    if any(sight.history for sight in sights):
        found.append(make_chart([sight for sight in sights if sight.history or sight.fleet is not None], now))
    found.append(b.actions(b.button("Scale…", "form", write_draft({})), b.button("Refresh", "status", "")))
    return Message(text, found)


def _row(sight: ServiceSight) -> list[object]:
    fleet = sight.fleet
    if fleet is None:
        return [sight.service, "?", "?", "?", "?", _next(sight)]
    wanted = fleet.intent.wanted if fleet.intent is not None else "-"
    healthy = sum(child.phase in {Phase.READY, Phase.SERVING} for child in fleet.children)
    return [
        sight.service,
        wanted,
        len(fleet.serving),
        f"{healthy} of {len(fleet.children)}",
        sight.held_by or "free",
        _next(sight),
    ]


def _next(sight: ServiceSight) -> str:
    request = sight.following
    if request is None or request.start_at is None:
        return "-"
    return f"to {request.target} at {request.start_at:%m-%d %H:%M} UTC"


def make_chart(sights: Sequence[ServiceSight], now: datetime) -> Block:
    """Servers over the last 24 hours, a line for each service, from what the requests of that time reported."""
    step = timedelta(hours=24 / _BUCKETS)
    ends = [now - step * (_BUCKETS - 1 - number) for number in range(_BUCKETS)]
    # The moment is the end of each bucket.
    labels = [f"{end:%d. %H:%M}" for end in ends]
    shown = sights[: b.MOST_LINES]
    names = shown[0].service if len(shown) == 1 else f"{len(shown)} of {len(sights)} services"
    return b.line_chart(
        f"Last 24 hours (UTC, most of each 2 h): {names}",
        labels,
        [(sight.service, _count_served(sight, ends, step)) for sight in shown],
    )


def _count_served(sight: ServiceSight, ends: Sequence[datetime], step: timedelta) -> list[float]:
    """The most that served within each *step*: one moment of it would miss an event that is shorter."""
    there = float(len(sight.fleet.serving)) if sight.fleet is not None else 0.0
    # Where nothing was asked for in that time it is as it was.
    level, values = float(sight.history[0].count_before or 0) if sight.history else there, list[float]()
    reports = [(r.finished_at, r.result) for r in sight.history if r.finished_at is not None and r.result]
    for end in ends:
        within = [level]
        for finished, result in reports:
            if end - step < finished <= end:
                # Until the next report it stays at what this one says.
                level = float(result["serving"]) if result.get("serving") is not None else level
                within.append(level)
        values.append(max(within))
    if sight.fleet is not None:
        values[-1] = max(values[-1], there)
    return values


def render_log(entries: Sequence[Logged]) -> Message:
    """The log's last lines."""
    if not entries:
        return say("Nothing is in the log about that.")
    lines = [_log_line(logged) for logged in entries[-_LINES:]]
    blocks = [b.section("\n".join(lines[start : start + 5])) for start in range(0, len(lines), 5)]
    return Message(f"{len(lines)} lines of the log", blocks)


def _log_line(logged: Logged) -> str:
    entry = logged.entry
    about = f" `{entry.request_id[:6]}`" if entry.request_id else f" {entry.service}" if entry.service else ""
    detail = f": {clean(b.shorten(entry.detail or entry.raw, 160))}" if entry.detail or entry.raw else ""
    return f"{moment(logged.at)} {mention(entry.who)} *{clean(entry.action)}*{about} {clean(entry.decision)}{detail}"


def render_whoami(person: str, roles: Sequence[str], verbs: Sequence[str], zone: str) -> Message:
    """Who the person is here."""
    named = ", ".join(roles) or "none: ask for one under [chatops.roles] in forkyard.toml"
    can = ", ".join(verbs)
    who = f"You are {mention(person)} (`{person}`). Roles: {clean(named)}."
    return say(f"{who} You may: {can}. Times are read in {clean(zone)}.")


def render_schedule(requests: Sequence[Request]) -> Message:
    """What is going to happen by itself."""
    if not requests:
        return say(f"Nothing is scheduled. Schedule something: `{COMMAND} scale SERVICE to N at WHEN`")
    lines = [
        f"`{r.token}` {r.service} to {r.target}, {moment(r.start_at) if r.start_at else 'as soon as it is approved'}"
        f"{' (waits for approval)' if r.state is State.AWAITING else ''}"
        for r in sorted(requests, key=lambda r: (r.start_at is None, r.start_at))[:_LINES]
    ]
    return say("\n".join(lines))


def render_home(
    person: str,
    waiting: Sequence[Request],
    live: Sequence[Request],
    recent: Sequence[Request],
    roles: Mapping[str, object],
) -> list[Block]:
    """App Home: what waits for this person, what runs, what is scheduled, what was."""
    running = [r for r in live if r.state in {State.RUNNING, State.APPROVED}]
    coming = [r for r in live if r.state is State.SCHEDULED]
    parts = (
        ("Waiting for you", waiting, "No request waits for your approval."),
        ("Running", running, "Nothing runs."),
        ("Scheduled", coming, "Nothing is scheduled."),
        ("Recent", recent, "Nothing was asked for yet."),
    )
    found = [b.actions(b.button("Scale…", "form", write_draft({}), style="primary"), b.button("Refresh", "home", ""))]
    for title, requests, none in parts:
        found += [b.header(title), *([b.section(_line(r)) for r in requests[:10]] or [b.context(none)])]
    named = ", ".join(sorted(roles)) or "none"
    return [*found, b.context(f"{mention(person)} · roles: {clean(named)}")]


def _line(request: Request) -> str:
    when = f" · {moment(request.start_at)}" if request.start_at and request.open else ""
    by = mention(request.requested_by)
    return f"`{request.token}` *{request.service} to {request.target}* · {request.state.value}{when} · {by}"
