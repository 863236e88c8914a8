"""
Whose approval a plan needs, and whether somebody may give it.

Pure: the same rules are asked when a plan is shown, when a button is clicked and when a run begins.
"""

from datetime import datetime
from itertools import pairwise

from forkyard.approvals import Kind
from forkyard.errors import InvalidRequest, NotPermitted
from forkyard.requests import Need, Request, State, StateChanged
from forkyard.requests.plans import PlanRecord
from forkyard.roles import LOCAL, Person, check, name_able
from forkyard.settings import ChatopsSettings, ServiceSettings

CALENDAR = "calendar"
"""Who asks for what the calendar wants."""


def find_need(plan: PlanRecord, policy: ServiceSettings, requester: str) -> tuple[Need, str]:
    """Whose approval the plan needs, and why."""
    if requester == CALENDAR:
        return Need.OTHER, "the calendar asks for it, and a person must have seen it"
    # What is signed is all of it: a small first step may have a large one behind it.
    counts = [plan.target, *(number for _, number in plan.later)]
    change = max([plan.change, *(abs(after - before) for before, after in pairwise(counts))])
    if change > policy.approval_above:
        return Need.OTHER, f"it changes {_count_servers(change)}, and more than {policy.approval_above} is large"
    lower = min([plan.target, *(number for _, number in plan.later)])
    if policy.production and lower < plan.current:
        return Need.OTHER, f"it makes {plan.service} smaller, which is in production"
    return Need.REQUESTER, f"it changes {_count_servers(plan.change)}, and up to {policy.approval_above} is small"


def judge_approver(
    chatops: ChatopsSettings, request: Request, person: Person, *, now: datetime, break_glass: str = ""
) -> Kind:
    """
    Say what kind of approval *person* gives; everything that can be wrong with it is refused.

    Raises:
        StateChanged: it does not wait for approval any more.
        InvalidRequest: its plan is too old, or it could not be planned.
        NotPermitted: not by this person; the message says who can.
    """
    if request.state is not State.AWAITING or request.plan is None:
        raise StateChanged(request, State.APPROVED)
    if request.unplanned:
        text = (
            f"{request.token}: cannot be planned as things are, so there is nothing to approve yet: {request.error} "
            f"It is planned again by itself; or take it back: cancel {request.token}"
        )
        raise InvalidRequest(text)
    if request.plan_expires is not None and now > request.plan_expires:
        text = (
            f"{request.token}: its plan could be approved until {request.plan_expires:%Y-%m-%d %H:%M:%S} UTC. "
            f"Have it planned again: retry {request.token}"
        )
        raise InvalidRequest(text)
    local = person.id.startswith(LOCAL)
    own = person.id == request.requested_by
    if own and request.need is Need.REQUESTER:
        if not local:
            check(chatops, person, "scale", request.service)
        return Kind.REQUESTER
    if not local:
        check(chatops, person, "approve", request.service)
    if not own:
        return Kind.OTHER
    if break_glass:
        return Kind.BREAK_GLASS
    able = name_able(chatops, "approve", request.service, but=person)
    if local:
        # The bot may go by other settings than this file's: the lab's roles are only there.
        who = f"Somebody else approves it here, or in Slack who has the role there{f' ({able})' if able else ''}"
        alone = f'forkyard approve {request.token} --break-glass "TEXT"'
    else:
        who = f"Ask one of {able}" if able else "Nobody else has the role yet"
        alone = f'approve {request.token} break-glass because "TEXT"'
    text = (
        f"{request.token}: needs another person's approval than yours: {request.need_why}. "
        f"{who}; if nobody can be waited for: {alone}"
    )
    raise NotPermitted(text)


def _count_servers(number: int) -> str:
    return "1 server" if number == 1 else f"{number} servers"
