"""
A request as its message in the channel: a pure rendering of its row, its run's progress and its report.

The same row gives the same message, whoever renders it and when; only what `stamp` adds (when it was edited) differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bot import blocks as b
from bot.blocks import Block, clean, mention, moment
from bot.stage_list import TITLES, status_of, sum_up
from bot.tickets import make_ticket
from flows.runs import Progress
from forkyard.report import Report
from forkyard.requests import Need, PlanRecord, Request, State
from forkyard.stages import Stage, read_stages, read_wait

PLACES = 6
"""Parents shown one by one; of more the rest is summed up."""

STEPS = 40
"""Later steps shown; of more the first ones, and always the last: whoever approves signs where it ends."""


@dataclass(frozen=True, slots=True)
class Sight:
    """All that a request's message shows."""

    request: Request
    progress: Progress | None = None
    report: Report | None = None
    approved_by: str = ""
    run_url: str = ""
    ran: bool = True
    """Whether its run may have changed something: only then is there something to go back from."""
    kept: bool = False
    """Whether somebody said that it may stay as it came out."""
    trouble: str = ""
    """Why the run cannot be followed at the moment."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message ready to be sent."""

    text: str
    """For notifications and screen readers."""
    blocks: list[Block]


def render_request(sight: Sight) -> Message:
    """Render a request's message, whatever state it is in."""
    request = sight.request
    title = f"{request.service}: {_way(request)}"
    body = _BODIES[request.state](sight)
    mark = b.section(f"{_summary(sight)}", block_id=f"request-{request.id}"[:255])
    return Message(f"{title}: {_plain_state(request)}", [b.header(title), mark, *body][: b.MOST_BLOCKS - 1])


def render_preview(request: Request) -> Message:
    """Render what a planned request would do, for somebody who has not asked for it."""
    plan = request.plan
    if plan is None:
        return Message(f"{request.service}: not planned", [b.section("Not planned.")])
    way = f"{plan.current} → {plan.target}"
    text = f"would go {way}" if plan.current != plan.target else f"would stay at {plan.target}"
    need = f"*Would need another person's approval*: {clean(request.need_why)}."
    if request.need is Need.REQUESTER:
        need = f"Whoever asks for it can confirm it: {clean(request.need_why)}."
    title = b.header(f"{request.service}: {_way(request)}")
    return Message(f"{request.service}: {text}", [title, *_show_plan(request, plan), b.section(need)])


def stamp(message: Message, request: Request, now: datetime, run_url: str) -> list[Block]:
    """The blocks, with the line that says of when they are."""
    run = f" · <{run_url}|run>" if run_url else ""
    words = f"`{request.token}` · updated {moment(now, '{time_secs}')}{run}"
    return [*message.blocks, b.context(words)]


def block_of(request_id: str) -> str:
    """The id of the block by which a request's message is found again."""
    return f"request-{request_id}"[:255]


def _way(request: Request) -> str:
    plan = request.plan
    if plan is None:
        return f"to {b.number_of(request.target, 'server')}"
    wanted = b.number_of(plan.target, "server")
    return f"{plan.current} → {wanted}" if plan.current != plan.target else wanted


def _plain_state(request: Request) -> str:
    return {State.AWAITING: "waits for approval", State.PLANNED: "is planned"}.get(request.state, request.state.value)


def _summary(sight: Sight) -> str:
    request = sight.request
    asked = f"Asked by {mention(request.requested_by)}"
    reason = f": “{clean(request.reason)}”" if request.reason else ""
    by = f" · approved by {mention(sight.approved_by)}" if sight.approved_by else ""
    kind = {"retry": " (once more)", "rollback": " (rollback)", "later": " (as approved before)"}.get(request.kind, "")
    return f"{asked}{kind}{reason}{by}"


# Before it runs


def _awaiting(sight: Sight) -> list[Block]:
    request, plan = sight.request, sight.request.plan
    if plan is None:
        return [b.section("Being planned.")]
    if request.unplanned:
        why = f"*Cannot be planned as things are:* {clean(request.error)} It is planned again by itself."
        return [b.section(why), _cancel(request)]
    ticket = make_ticket(request)
    return [
        *_show_plan(request, plan),
        b.section(_whose(request)),
        b.actions(
            b.button("Approve", "approve", ticket, style="primary"),
            b.button("Deny", "deny", ticket, style="danger"),
            b.button("Edit", "edit", ticket),
            b.button("Cancel", "cancel", ticket),
        ),
        b.context(f"plan `{plan.hash[:12]}`{_until(request)}"),
    ]


def _show_plan(request: Request, plan: PlanRecord) -> list[Block]:
    facts = _facts(request, plan)
    first, *more = (facts[begin : begin + b.MOST_FIELDS] for begin in range(0, len(facts), b.MOST_FIELDS))
    return [
        b.section(_steps_of(plan), fields=first),
        *(b.section("*And so on*", fields=fields) for fields in more),
        *([b.context(*_places(plan))] if plan.places else []),
        *([b.context(*(clean(note) for note in plan.notes[:5]))] if plan.notes else []),
    ]


def _steps_of(plan: PlanRecord) -> str:
    parts = [f"fork *{plan.forks}*"] if plan.forks else []
    parts += [f"drain and retire *{plan.retires}*"] if plan.retires else []
    parts += [f"clear away *{plan.removes}* dead"] if plan.removes else []
    if not parts:
        return f"Nothing to do: *{plan.current}* are there already."
    back = f"Rollback would be: to {plan.current}."
    return f"Would {', '.join(parts)}. {back}"


def _facts(request: Request, plan: PlanRecord) -> list[str]:
    expected = plan.expected_seconds
    took = f"about {b.duration(expected)}, from the last runs" if expected else "not known yet: no run to go by"
    facts = [f"*Now → wanted*\n{plan.current} → {plan.target}", f"*Expected time*\n{took}"]
    if request.start_at is not None:
        facts.append(f"*Starts*\n{_when(request.start_at, request.zone)}")
    steps = [f"*Then*\nto {number} at {_when(at, request.zone)}" for at, number in plan.later]
    between = len(steps) - STEPS
    if between > 0:
        steps[STEPS - 1 : -1] = [f"*Between*\n{b.number_of(between, 'more step')}"]
    return facts + steps


def _when(at: datetime, zone: str) -> str:
    where = f" (asked in {clean(zone)})" if zone not in {"", "Z"} else ""
    return f"{moment(at)}, {at:%Y-%m-%d %H:%M} UTC{where}"


def _places(plan: PlanRecord) -> list[str]:
    used = sorted(plan.places, key=lambda place: -place.forks)
    lines = []
    for place in used[:PLACES]:
        limit = f" (limited by {place.limited_by})" if place.limited_by else ""
        lines.append(f"{place.parent} on {place.host}: +{place.forks}, room {place.room} → {place.room_after}{limit}")
    rest = used[PLACES:]
    if rest:
        lines.append(f"{len(rest)} more parents: +{sum(place.forks for place in rest)}")
    return [clean(line) for line in lines]


def _whose(request: Request) -> str:
    sent_back = f"*Sent back:* {b.clean_naming(request.error)}.\n" if request.error else ""
    if request.need is Need.REQUESTER:
        return f"{sent_back}{mention(request.requested_by)} can confirm it: {clean(request.need_why)}."
    return f"{sent_back}*Needs another person's approval*: {clean(request.need_why)}."


def _until(request: Request) -> str:
    return f" · can be approved until {moment(request.plan_expires)}" if request.plan_expires else ""


def _approved(sight: Sight) -> list[Block]:
    return [b.section(f"Approved; the run is being started.{_trouble(sight)}"), _cancel(sight.request)]


def _scheduled(sight: Sight) -> list[Block]:
    request = sight.request
    starts = _when(request.start_at, request.zone) if request.start_at else "now"
    return [b.section(f":calendar: Starts {starts}.{_trouble(sight)}"), _cancel(request)]


def _cancel(request: Request, *more: Block) -> Block:
    ask = f"Stop `{request.token}` ({request.service} to {request.target})?"
    return b.actions(b.button("Cancel", "cancel", make_ticket(request), style="danger", confirm=ask), *more)


def _trouble(sight: Sight) -> str:
    return f"\n:warning: {clean(sight.trouble)}" if sight.trouble else ""


# While it runs, and after


def _running(sight: Sight) -> list[Block]:
    stages = _stages_so_far(sight)
    percent = f"{sight.progress.percent:.0f} %" if sight.progress and sight.progress.percent else "begun"
    more = [b.button("Details", "details", url=sight.run_url)] if sight.run_url else []
    trouble = [b.section(_trouble(sight).strip())] if sight.trouble else []
    other = read_wait(sight.progress.text) if sight.progress is not None else None
    waits = [b.context(f"Waits for {mention(other[0])}, who is changing it: {clean(other[1])}")] if other else []
    return [_plan(sight, stages, percent, over=False), *waits, *trouble, _cancel(sight.request, *more)]


def _stages_so_far(sight: Sight) -> tuple[Stage, ...]:
    return read_stages(sight.progress.text) if sight.progress is not None else ()


def _plan(sight: Sight, stages: Sequence[Stage], title: str, *, over: bool) -> Block:
    seen = "complete" if stages or over else "in_progress"
    tasks = [b.task("observe", "look at the fleet and take the lease", seen, url=sight.run_url, link="the run")]
    for number, stage in enumerate(stages):
        took = f" in {b.duration(stage.seconds)}" if stage.seconds is not None else ""
        again = f", {stage.failed} failed on the way" if stage.failed else ""
        output = f"{stage.done} of {stage.total}{took}{again}"
        status = status_of(stages, number, over=over)
        tasks.append(b.task(stage.phase.value, TITLES[stage.phase], status, output=output))
    return b.plan(title, tasks)


def _ended_stages(sight: Sight) -> list[Block]:
    stages = sum_up(sight.report.children) if sight.report is not None else _stages_so_far(sight)
    seconds = (sight.request.result or {}).get("seconds")
    title = f"{sight.request.state.value} in {b.duration(float(seconds))}" if seconds else sight.request.state.value
    return [_plan(sight, stages, title, over=True)] if stages else []


def _succeeded(sight: Sight) -> list[Block]:
    request, result = sight.request, sight.request.result or {}
    seconds = f" after {b.duration(float(result['seconds']))}" if result.get("seconds") else ""
    words = f":white_check_mark: *{b.serving(int(result.get('serving', request.target)))}*{seconds}."
    return [*_ended_stages(sight), b.section(words), *_after(sight)]


def _failed(sight: Sight) -> list[Block]:
    request, result = sight.request, sight.request.result or {}
    why = clean(request.error or str(result.get("message", "no reason was given")))
    words = f":x: *{request.service} did not come to {request.target}.*\n*Why:* {why}\n*Now:* {_tell_now(sight)}"
    return [*_ended_stages(sight), b.section(words), *_after(sight), b.context(f"error id `{_error_id(request)}`")]


def _tell_now(sight: Sight) -> str:
    result = sight.request.result
    if result is None:
        return "its run left no report: look with `/fleet status`." if sight.ran else "nothing was changed."
    if result.get("serving") is None:
        return "nobody could look how many serve: try `/fleet status`."
    return f"{result['serving']} of {result['wanted']} serve."


def _error_id(request: Request) -> str:
    return f"{request.token}-{request.run_id[-8:]}" if request.run_id else request.token


def _after(sight: Sight) -> list[Block]:
    """Buttons that name numbers: what can be done now."""
    if sight.kept:
        return [b.context("Kept as it is.")]
    request, result, ticket = sight.request, sight.request.result or {}, make_ticket(sight.request)
    serving, before = result.get("serving"), request.count_before
    found: list[Block] = []
    if request.state is not State.SUCCEEDED:
        missing = request.target - int(serving) if serving is not None else 0
        text = f"Retry the missing {missing}" if missing > 0 else "Retry"
        found.append(b.button(text, "retry", ticket, style="primary"))
    if sight.ran and before is not None and before != serving:
        found.append(b.button(f"Roll back to {before}", "rollback", ticket))
    if request.state is not State.SUCCEEDED and serving is not None:
        found.append(b.button(f"Keep {serving}", "keep", ticket))
    if sight.run_url:
        found.append(b.button("Open the run", "details", url=sight.run_url))
    return [b.actions(*found)] if found else []


def _cancelled(sight: Sight) -> list[Block]:
    words = f"Cancelled.\n*Now:* {_tell_now(sight)}"
    return [*_ended_stages(sight), b.section(words), *(_after(sight) if sight.ran else [])]


def _denied(sight: Sight) -> list[Block]:
    return [b.section(f":no_entry: Denied: “{clean(sight.request.error)}”. Nothing was changed.")]


def _expired(sight: Sight) -> list[Block]:
    retry = b.button("Plan it again", "retry", make_ticket(sight.request))
    return [b.section("Nobody approved it in time. Nothing was changed."), b.actions(retry)]


def _rolled_back(_: Sight) -> list[Block]:
    return [b.section(":rewind: Rolled back.")]


_BODIES = {
    State.DRAFTED: lambda _: [b.section("Being planned.")],
    State.PLANNED: lambda _: [b.section("Being planned again.")],
    State.AWAITING: _awaiting,
    State.APPROVED: _approved,
    State.SCHEDULED: _scheduled,
    State.RUNNING: _running,
    State.SUCCEEDED: _succeeded,
    State.FAILED: _failed,
    State.CANCELLED: _cancelled,
    State.DENIED: _denied,
    State.EXPIRED: _expired,
    State.ROLLED_BACK: _rolled_back,
}
