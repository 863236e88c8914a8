"""Plan a request by a look at its fleet as it is now: nothing is changed and no lease is taken."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime

from forkyard.estimates import Run, estimate_seconds, list_runs
from forkyard.model import Fleet, ScaleRequest
from forkyard.phases import observe_fleet
from forkyard.plan import check_request, make_plan
from forkyard.requests import Request, State
from forkyard.requests.plans import PlanRecord, find_later, make_record
from forkyard.requests.store import Store, read_clock
from forkyard.settings import Settings
from forkyard.world import World, open_world

Open = Callable[[Settings, str], AbstractContextManager[World]]


def plan_now(
    settings: Settings,
    request: Request,
    *,
    runs: Sequence[Run] = (),
    opening: Open = open_world,
    clock: Callable[[], datetime] = read_clock,
) -> PlanRecord:
    """
    Plan the request on the fleet of this moment; *runs* tell how long it will take.

    Raises:
        InvalidRequest: the number is out of the service's limits.
        NotFound, CapacityExhausted: no parent to fork from, or no room for so many.
        TransientError: the fleet cannot be seen.
    """
    with opening(settings, request.service) as world:
        fleet = observe_fleet(world)
        connections = world.balancer.active_connections(request.service) if fleet.children else {}
        asked = replace(to_scale_request(request), target=request.target)
        if request.change is not None:
            asked = replace(asked, target=max(0, _count(asked, fleet, world) + request.change))
        check_request(asked, world.policy.limits)
        plan = make_plan(asked, fleet, world.policy.limits, connections=connections)
    record = make_record(plan, fleet, start_at=request.start_at)
    begin = request.start_at or clock()
    # What the calendar wants afterwards is known from the beginning.
    given = request.plan.later if request.plan is not None else ()
    if request.hold_seconds is None:
        later = tuple(step for step in given if step[0] > begin)
    else:
        # A repeated one goes back to what there was before the first: by now some of its children may be there.
        back = given[-1][1] if given and request.kind == "retry" else record.current
        later = find_later(back, request.hold_seconds, begin)
    return replace(record, later=later, expected_seconds=estimate_seconds(runs, record.forks))


def learn_from(store: Store, service: str) -> list[Run]:
    """What the service's last runs tell, newest first; one that was rolled back later did what was asked too."""
    return list_runs(store.list_requests(states=[State.SUCCEEDED, State.ROLLED_BACK], service=service, limit=20))


def to_scale_request(request: Request, *, dry_run: bool = False) -> ScaleRequest:
    """What the flow is asked."""
    return ScaleRequest(
        id=request.id,
        service=request.service,
        target=request.goal,
        requested_by=request.requested_by,
        requested_at=request.requested_at,
        reason=request.reason,
        dry_run=dry_run,
    )


def _count(asked: ScaleRequest, fleet: Fleet, world: World) -> int:
    """How many children count now, by the planner's own rule."""
    nothing_to_do = replace(asked, target=max(world.policy.minimum, min(world.policy.maximum, len(fleet.serving))))
    return make_plan(nothing_to_do, fleet, world.policy.limits).current
