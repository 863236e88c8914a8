"""What the planner decides, and what it refuses."""

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkyard.errors import CapacityExhausted, InvalidRequest, NotFound, NotReady
from forkyard.model import Child, Fleet, Limits, Phase, Placement, Power, ScalePlan, StepKind, VmId
from forkyard.plan import fails_at_large, limit_forks, make_plan
from tests.support.fleets import OTHER_ID, REQUEST_ID, a_child, a_fleet, a_placement, a_request, a_vm

LIMITS = Limits(minimum=0, maximum=10, step=200)


def names(plan: ScalePlan, kind: StepKind) -> list[str]:
    return [step.name for step in plan.of(kind)]


def serving(number: int, **marks: object) -> list[Child]:
    return [a_child(a_vm(f"game-old-{n}", age=timedelta(minutes=n), **marks)) for n in range(1, number + 1)]  # type: ignore[arg-type]


def test_from_nothing_to_four_forks_four_by_name() -> None:
    plan = make_plan(a_request(4), a_fleet(), LIMITS)
    assert names(plan, StepKind.FORK) == [f"game-aaaaaa-{n}" for n in (1, 2, 3, 4)]
    assert (plan.current, plan.target) == (0, 4)


def test_a_fleet_that_is_as_asked_gets_no_step() -> None:
    assert make_plan(a_request(3), a_fleet(*serving(3)), LIMITS).steps == ()


def test_above_the_maximum_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_plan(a_request(200), a_fleet(), LIMITS)
    assert str(caught.value) == (
        "game: 200 is above this service's maximum of 10. "
        "Ask for at most 10, or raise services.game.maximum in forkyard.toml."
    )


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="-1 is negative"):
        make_plan(a_request(-1), a_fleet(), LIMITS)


def test_below_the_minimum_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="1 is below this service's minimum of 2"):
        make_plan(a_request(1), a_fleet(), Limits(2, 10, 200))


def test_one_request_changes_at_most_a_step_and_says_so() -> None:
    plan = make_plan(a_request(9), a_fleet(*serving(2)), Limits(0, 10, 3))
    assert (plan.target, len(plan.of(StepKind.FORK))) == (5, 3)
    assert "9 was asked for" in plan.notes[0]


def test_the_newest_retires_first() -> None:
    plan = make_plan(a_request(2), a_fleet(*serving(4)), LIMITS)
    assert names(plan, StepKind.RETIRE) == ["game-old-1", "game-old-2"]


def test_the_least_loaded_retires_before_the_newest() -> None:
    loads = {"game-old-1": 5, "game-old-2": 5, "game-old-3": 0}
    plan = make_plan(a_request(2), a_fleet(*serving(3)), LIMITS, connections=loads)
    assert names(plan, StepKind.RETIRE) == ["game-old-3"]


def test_what_does_not_serve_retires_before_what_serves() -> None:
    ready = a_child(a_vm("game-old-9", age=timedelta(hours=9)), Phase.READY)
    plan = make_plan(a_request(2), a_fleet(*serving(2), ready), LIMITS)
    assert names(plan, StepKind.RETIRE) == ["game-old-9"]


@pytest.mark.parametrize(
    "broken",
    [
        a_child(a_vm("game-old-7", power=Power.DEAD), Phase.FAILED),
        a_child(a_vm("game-old-7"), Phase.FAILED),
        a_child(a_vm("game-old-7", kept=False, identified=False), Phase.FORKED),
        a_child(a_vm("game-old-7", kept=False), Phase.REGISTERED),
    ],
    ids=["dead", "unhealthy", "left behind at its fork", "left behind at its registration"],
)
def test_a_broken_child_is_removed_and_replaced(broken: Child) -> None:
    plan = make_plan(a_request(2), a_fleet(*serving(1), broken), LIMITS)
    assert names(plan, StepKind.REMOVE) == ["game-old-7"]
    assert len(plan.of(StepKind.FORK)) == 1
    assert plan.steps[0].kind is StepKind.REMOVE


def test_a_serving_child_of_a_dead_request_counts() -> None:
    unkept = a_child(a_vm("game-bbbbbb-1", kept=False))
    assert make_plan(a_request(1), a_fleet(unkept), LIMITS).steps == ()


def test_what_drains_already_is_retired_and_does_not_count() -> None:
    leaving = a_child(a_vm("game-old-7"), Phase.DRAINING)
    plan = make_plan(a_request(1), a_fleet(*serving(1), leaving), LIMITS)
    assert names(plan, StepKind.RETIRE) == ["game-old-7"]
    assert plan.of(StepKind.FORK) == ()


def test_a_repeated_attempt_goes_on_with_the_children_that_it_began() -> None:
    begun = a_child(a_vm("game-aaaaaa-2", kept=False, request_id=REQUEST_ID, identified=False), Phase.FORKED)
    plan = make_plan(a_request(2), a_fleet(begun, placements=(a_placement(1),)), LIMITS)
    assert names(plan, StepKind.FORK) == ["game-aaaaaa-2", "game-aaaaaa-1"]
    assert plan.of(StepKind.REMOVE) == ()


def test_a_child_that_was_given_up_is_removed_and_its_name_is_not_used_again() -> None:
    begun = a_child(a_vm("game-aaaaaa-1", kept=False, request_id=REQUEST_ID), Phase.IDENTIFIED)
    plan = make_plan(a_request(1), a_fleet(begun), LIMITS, avoid={"game-aaaaaa-1"})
    assert names(plan, StepKind.REMOVE) == ["game-aaaaaa-1"]
    assert names(plan, StepKind.FORK) == ["game-aaaaaa-2"]


def test_what_does_not_fit_is_refused_with_the_bound() -> None:
    with pytest.raises(
        CapacityExhausted, match=r"4 more children are needed and 3 fit \(here: room for 3, bounded by memory\)"
    ):
        make_plan(a_request(4), a_fleet(placements=(a_placement(3),)), LIMITS)


def test_without_a_parent_nothing_can_be_forked() -> None:
    with pytest.raises(NotFound, match="forkyard parent build"):
        make_plan(a_request(1), a_fleet(parents=0, placements=()), LIMITS)


def test_without_a_parent_children_can_still_retire() -> None:
    plan = make_plan(a_request(0), a_fleet(*serving(2), parents=0, placements=()), LIMITS)
    assert len(plan.of(StepKind.RETIRE)) == 2


def test_forks_are_spread_evenly_counting_what_is_there() -> None:
    places = (a_placement(host="a"), a_placement(host="b"), a_placement(1, host="c"))
    plan = make_plan(a_request(8), a_fleet(*serving(2, host="a"), placements=places), LIMITS)
    assert hosts(plan) == Counter({"a": 2, "b": 3, "c": 1})


def hosts(plan: ScalePlan) -> Counter[str]:
    return Counter(step.placement.host for step in plan.of(StepKind.FORK) if step.placement is not None)


def test_members_that_fail_their_checks_all_at_once_are_not_replaced() -> None:
    failing = [a_child(a_vm(f"game-old-{n}"), Phase.FAILED) for n in range(6)]
    fleet = a_fleet(*failing, *serving(4))
    for target in (10, 9):
        with pytest.raises(NotReady, match="game: 6 of 10 running children fail their checks at once"):
            make_plan(a_request(target), fleet, LIMITS)
    assert len(names(make_plan(a_request(0), fleet, LIMITS), StepKind.REMOVE)) == 6


def test_half_of_the_members_or_dead_ones_are_replaced() -> None:
    failing = [a_child(a_vm(f"game-bad-{n}"), Phase.FAILED) for n in range(2)]
    dead = [a_child(a_vm(f"game-dead-{n}", power=Power.DEAD), Phase.FAILED) for n in range(4)]
    plan = make_plan(a_request(4), a_fleet(*failing, *dead, *serving(2)), LIMITS)
    assert len(names(plan, StepKind.REMOVE)) == 6
    assert len(names(plan, StepKind.FORK)) == 2


def test_forks_give_way_to_children_that_could_not_be_removed() -> None:
    broken = [a_child(a_vm(f"game-bad-{n}", power=Power.DEAD), Phase.FAILED) for n in range(3)]
    limits = Limits(0, 4, 200)
    plan = make_plan(a_request(4), a_fleet(*broken), limits)
    limited = limit_forks(plan, limits, ["game-bad-0", "game-bad-1"])
    assert len(limited.of(StepKind.FORK)) == 2
    assert limited.target == 2
    assert limit_forks(plan, limits, []) is plan


phases = st.sampled_from([p for p in Phase if p is not Phase.RETIRED])


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    children = []
    for number in range(draw(st.integers(0, 12))):
        dead = draw(st.booleans())
        vm = a_vm(
            f"game-{draw(st.sampled_from(['aaaaaa', 'bbbbbb']))}-{number + 1}",
            kept=draw(st.booleans()),
            request_id=draw(st.sampled_from([REQUEST_ID, OTHER_ID])),
            power=Power.DEAD if dead else Power.RUNNING,
            age=timedelta(seconds=draw(st.integers(1, 999))),
            host=draw(st.sampled_from(["a", "b"])),
        )
        children.append(a_child(vm, Phase.FAILED if dead else draw(phases)))
    return a_fleet(*children, placements=(a_placement(20, host="a"), a_placement(20, host="b")))


limits_ = st.builds(
    lambda low, more, step: Limits(low, low + more, step), st.integers(0, 3), st.integers(1, 15), st.integers(1, 20)
)


def apply(plan: ScalePlan, fleet: Fleet) -> Fleet:
    """Do a plan as the flows do, in its order, every step a success."""
    children = {child.vm.name: child for child in fleet.children}
    for step in plan.steps:
        if step.kind is StepKind.FORK:
            place = step.placement or Placement(VmId("?"), "?", "", "", 0)
            children[step.name] = a_child(a_vm(step.name, host=place.host, request_id=plan.request.id))
        else:
            del children[step.name]
    return a_fleet(*children.values(), placements=fleet.placements)


@given(fleets(), limits_, st.integers(0, 18))
def test_a_plan_leads_to_its_target_or_is_refused(fleet: Fleet, limits: Limits, target: int) -> None:
    if not limits.minimum <= target <= limits.maximum:
        with pytest.raises(InvalidRequest):
            make_plan(a_request(target), fleet, limits)
        return
    if target > 0 and fails_at_large(fleet):
        with pytest.raises(NotReady):
            make_plan(a_request(target), fleet, limits)
        return
    plan = make_plan(a_request(target), fleet, limits)
    after = apply(plan, fleet)
    assert len(after.children) == plan.target
    assert len({child.vm.name for child in after.children}) == plan.target
    assert abs(plan.target - plan.current) <= limits.step
    assert plan.current + len(plan.of(StepKind.FORK)) - surplus(plan, fleet) == plan.target


def surplus(plan: ScalePlan, fleet: Fleet) -> int:
    leaving = {child.vm.name for child in fleet.children if child.phase is Phase.DRAINING}
    return sum(step.name not in leaving for step in plan.of(StepKind.RETIRE))


@given(fleets(), limits_, st.integers(0, 18))
def test_a_plan_that_was_done_has_nothing_left_to_do(fleet: Fleet, limits: Limits, target: int) -> None:
    if not limits.minimum <= target <= limits.maximum or fails_at_large(fleet):
        return
    after = fleet
    for _ in range(20):
        after = apply(make_plan(a_request(target), after, limits), after)
    assert make_plan(a_request(target), after, limits).steps == ()


@given(fleets(), st.integers(1, 15), st.integers(0, 15))
def test_forking_never_makes_the_fleet_larger_than_its_maximum(fleet: Fleet, maximum: int, target: int) -> None:
    if target > maximum or fails_at_large(fleet):
        return
    limits = Limits(0, maximum, 200)
    plan = make_plan(a_request(target), fleet, limits)
    there = {child.vm.name for child in fleet.children}
    for step in plan.steps:
        if step.kind is StepKind.FORK:
            there.add(step.name)
            assert len(there) <= maximum
        else:
            there.remove(step.name)


@given(fleets(), limits_, st.integers(0, 18))
def test_the_same_values_give_the_same_plan(fleet: Fleet, limits: Limits, target: int) -> None:
    if limits.minimum <= target <= limits.maximum and not fails_at_large(fleet):
        assert make_plan(a_request(target), fleet, limits) == make_plan(a_request(target), fleet, limits)
