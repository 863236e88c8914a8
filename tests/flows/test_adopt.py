"""A child whose request was killed when it served already, and had not been kept yet."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from forkyard.holders import make_holder
from forkyard.reap import reap
from tests.flows.yard import Yard, make_yard


def left_behind(yard: Yard, name: str) -> None:
    """Undo the keeping of one child, as if its flow had died just before it."""
    for vm_id, vm in yard.fake.vms.items():
        if vm.name == name:
            stamp = replace(vm.stamp, expires=datetime.now(UTC) + timedelta(minutes=10))
            yard.fake.vms[vm_id] = replace(vm, stamp=stamp)


def test_it_is_kept_by_the_next_request_that_counts_it() -> None:
    yard = make_yard()
    yard.scale(2)
    names = yard.names()
    left_behind(yard, names[0])
    assert yard.scale(2).ok
    assert yard.names() == names
    assert all(vm.stamp.expires is None for vm in yard.fake.vms.values())
    holder = make_holder("r", who="test", reason="reap")
    assert reap(yard.world, holder, interval=timedelta(milliseconds=10)).removals == ()


def test_the_same_request_again_keeps_its_own() -> None:
    yard = make_yard()
    yard.scale(2, request_id="aaaaaa00-0000-4000-8000-000000000000")
    names = yard.names()
    left_behind(yard, names[0])
    assert yard.scale(2, request_id="aaaaaa00-0000-4000-8000-000000000000").ok
    assert yard.names() == names
    assert all(vm.stamp.expires is None for vm in yard.fake.vms.values())
