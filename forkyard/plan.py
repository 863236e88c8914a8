"""
Decide what to do from what was asked and what is there.

Pure: no I/O, no clock, no randomness, so the plan that is shown is the plan that runs.
Limits are applied here and nowhere else; every capped number is explained in `ScalePlan.notes`.

A plan's steps stand in the order in which they are to be done: what is broken is removed before
anything is forked, so that the fleet is at no moment larger than its maximum.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from types import MappingProxyType

from forkyard.errors import CapacityExhausted, InvalidRequest, NotFound, NotReady
from forkyard.model import Child, Fleet, Limits, Phase, Placement, Power, ScalePlan, ScaleRequest, Step, StepKind
from forkyard.names import make_child_name
from forkyard.phases import is_kept

_NO_CONNECTIONS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Sorted:
    """The children of a fleet by what a request makes of them."""

    counted: tuple[Child, ...]
    """Members, and serving children that no request has kept yet."""
    resumed: tuple[Child, ...]
    """Begun by this very request in an earlier attempt: forking them again returns them as they are."""
    leaving: tuple[Child, ...]
    """Somebody began to drain them; that is finished."""
    broken: tuple[Child, ...]
    """Failed, dead, or left behind by a request that is no more."""


def make_plan(
    request: ScaleRequest,
    fleet: Fleet,
    limits: Limits,
    *,
    connections: Mapping[str, int] = _NO_CONNECTIONS,
    avoid: Collection[str] = (),
) -> ScalePlan:
    """
    Make the steps that lead from *fleet* to the request's target.

    Call it under the service's lease: every unfinished child of another request then has nobody
    who works on it, and is removed. *connections* are open ones per child: the least loaded retire first,
    the newest among equals. *avoid* are children that this request has tried and given up.

    Raises:
        InvalidRequest: negative, above the maximum or below the minimum.
        NotReady: most of the children fail their checks at once, which is hardly the children's fault.
        NotFound: children must be forked and there is no frozen parent.
        CapacityExhausted: they do not all fit; the message names what bounds them. Nothing was made.
    """
    check_request(request, limits)
    if request.target > 0:
        _refuse_mass_failure(request.service, fleet)
    found = _sort_children(request, fleet, frozenset(avoid))
    current = len(found.counted)
    target, notes = _apply_step(request, current, limits)
    missing = max(0, target - current)
    surplus = max(0, current - target)
    # Gone on with where it can be: its parent's host may be on its way into maintenance by now.
    places = {child.vm.name: _placement_of(child, fleet) for child in found.resumed}
    resumed = [child for child in found.resumed if places[child.vm.name] is not None][:missing]
    # What an earlier attempt of this request began beyond that is left behind like any other.
    broken = (*found.broken, *(child for child in found.resumed if child not in resumed))
    retiring = sorted(found.counted, key=lambda child: _retire_rank(child, connections))[:surplus]
    steps = (
        *(Step(StepKind.REMOVE, child.vm.name, vm=child.vm.id) for child in broken),
        *(Step(StepKind.RETIRE, child.vm.name, vm=child.vm.id) for child in (*found.leaving, *retiring)),
        *(Step(StepKind.FORK, child.vm.name, placement=places[child.vm.name]) for child in resumed),
        *_fork_steps(request, fleet, missing - len(resumed), frozenset(avoid), removals=len(broken)),
    )
    notes = (*notes, *_explain(found, broken))
    return ScalePlan(request=request, current=current, target=target, steps=steps, notes=notes)


def limit_forks(plan: ScalePlan, limits: Limits, still_there: Collection[str]) -> ScalePlan:
    """Drop the forks that no longer fit under the maximum because the children *still_there* could not be removed."""
    room = limits.maximum - plan.current - len(still_there)
    forks = plan.of(StepKind.FORK)
    dropped = frozenset(step.name for step in forks[max(0, room) :])
    if not dropped:
        return plan
    note = (
        f"{len(dropped)} not forked: {len(still_there)} failed children are still there and count toward the maximum."
    )
    kept = tuple(step for step in plan.steps if step.kind is not StepKind.FORK or step.name not in dropped)
    return replace(plan, target=plan.target - len(dropped), steps=kept, notes=(*plan.notes, note))


def check_request(request: ScaleRequest, limits: Limits) -> None:
    """Refuse a target out of range, before anybody has looked at the fleet; raises InvalidRequest."""
    service, target = request.service, request.target
    if target < 0:
        text = f"{service}: {target} is negative. Ask for the number of children that are to serve, 0 or more."
        raise InvalidRequest(text)
    if target > limits.maximum:
        text = (
            f"{service}: {target} is above this service's maximum of {limits.maximum}. "
            f"Ask for at most {limits.maximum}, or raise services.{service}.maximum in forkyard.toml."
        )
        raise InvalidRequest(text)
    if target < limits.minimum:
        text = (
            f"{service}: {target} is below this service's minimum of {limits.minimum}. "
            f"Ask for at least {limits.minimum}, or lower services.{service}.minimum in forkyard.toml."
        )
        raise InvalidRequest(text)


def fails_at_large(fleet: Fleet) -> bool:
    """Whether more than half, and at least two, of the members that run fail their checks."""
    failing, running = _count_failing(fleet)
    return failing > 1 and failing * 2 > running


def _count_failing(fleet: Fleet) -> tuple[int, int]:
    running = [child for child in fleet.children if is_kept(child.vm) and child.vm.power is Power.RUNNING]
    return sum(child.phase is Phase.FAILED for child in running), len(running)


def _refuse_mass_failure(service: str, fleet: Fleet) -> None:
    # They would be destroyed before the first of their replacements is forked.
    if fails_at_large(fleet):
        failing, running = _count_failing(fleet)
        text = (
            f"{service}: {failing} of {running} running children fail their checks at once: that looks like Consul, "
            f"the network or the app, and not like the children, so none is replaced. Look with `forkyard status` and "
            f"ask again when it is over. If they are lost: `forkyard scale {service} --to 0`, then up again."
        )
        raise NotReady(text)


def _sort_children(request: ScaleRequest, fleet: Fleet, avoid: frozenset[str]) -> _Sorted:
    counted: list[Child] = []
    resumed: list[Child] = []
    leaving: list[Child] = []
    broken: list[Child] = []
    for child in fleet.children:
        if child.phase is Phase.DRAINING:
            leaving.append(child)
        elif child.vm.power is Power.DEAD or child.phase in {Phase.FAILED, Phase.RETIRED} or child.vm.name in avoid:
            broken.append(child)
        elif is_kept(child.vm):
            counted.append(child)
        elif child.vm.stamp.request_id == request.id and _placement_of(child, fleet) is not None:
            resumed.append(child)
        elif child.phase is Phase.SERVING:
            # Its request was killed at its very end; who carries out this plan keeps it.
            counted.append(child)
        else:
            broken.append(child)
    return _Sorted(tuple(counted), tuple(resumed), tuple(leaving), tuple(broken))


def _apply_step(request: ScaleRequest, current: int, limits: Limits) -> tuple[int, tuple[str, ...]]:
    target = max(current - limits.step, min(current + limits.step, request.target))
    if target == request.target:
        return target, ()
    note = (
        f"{request.target} was asked for; one request changes at most {limits.step} children "
        f"(services.{request.service}.step), so this one goes to {target}."
    )
    return target, (note,)


def _retire_rank(child: Child, connections: Mapping[str, int]) -> tuple[bool, int, float, str]:
    # What does not serve goes first, then the least loaded, then the newest.
    serving = child.phase is Phase.SERVING
    return serving, connections.get(child.vm.name, 0), -child.vm.created.timestamp(), child.vm.name


def _placement_of(child: Child, fleet: Fleet) -> Placement | None:
    same = (p for p in fleet.placements if p.parent == child.vm.parent and p.host == child.vm.host)
    return next(same, None)


def _fork_steps(
    request: ScaleRequest, fleet: Fleet, number: int, avoid: frozenset[str], *, removals: int
) -> Iterable[Step]:
    if number <= 0:
        return ()
    if not fleet.parents:
        text = (
            f"{request.service}: there is no frozen parent to fork from. "
            f"Make one with `forkyard parent build` and `forkyard parent freeze`."
        )
        raise NotFound(text)
    _refuse_what_does_not_fit(request, fleet, number, removals)
    # A dead child's name is not used again: its registration may outlive it for a while.
    taken = avoid | {child.vm.name for child in fleet.children} | {stray.node for stray in fleet.strays}
    free = (name for name in (make_child_name(request.service, request.id, n) for n in count(1)) if name not in taken)
    spread = _spread(fleet, number)
    return tuple(Step(StepKind.FORK, name, placement=place) for place, name in zip(spread, free, strict=False))


def _refuse_what_does_not_fit(request: ScaleRequest, fleet: Fleet, number: int, removals: int) -> None:
    room = sum(place.room for place in fleet.placements)
    if number <= room:
        return
    bounds = "; ".join(
        f"{p.host}: room for {p.room}, bounded by {p.limited_by or 'its capacity'}" for p in fleet.placements
    )
    clear = f" Run `forkyard reap` first: {removals} broken children hold room." if removals else ""
    text = (
        f"{request.service}: {number} more children are needed and {room} fit ({bounds or 'no host takes any'}). "
        f"Ask for {number - room} fewer, or free what bounds them.{clear}"
    )
    raise CapacityExhausted(text)


def _spread(fleet: Fleet, number: int) -> list[Placement]:
    # Each fork goes to the place with the fewest children that still has room; the driver's order
    # (best first) decides between equals.
    load = Counter((child.vm.parent, child.vm.host) for child in fleet.children)
    room = [place.room for place in fleet.placements]
    chosen: list[Placement] = []
    for _ in range(number):
        open_places = [i for i, left in enumerate(room) if left > 0]
        best = min(open_places, key=lambda i: load[fleet.placements[i].parent, fleet.placements[i].host])
        place = fleet.placements[best]
        room[best] -= 1
        load[place.parent, place.host] += 1
        chosen.append(place)
    return chosen


def _explain(found: _Sorted, broken: tuple[Child, ...]) -> tuple[str, ...]:
    notes: list[str] = []
    if broken:
        notes.append(f"removed first, counting toward the maximum until then: {_names(broken)}.")
    if found.leaving:
        notes.append(f"was draining already and is retired: {_names(found.leaving)}.")
    if found.resumed:
        notes.append(f"begun by this request before and continued: {_names(found.resumed)}.")
    return tuple(notes)


def _names(children: Iterable[Child]) -> str:
    return ", ".join(child.vm.name for child in children)
