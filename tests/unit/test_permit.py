"""A request changes nothing that it has no right to change, also when nobody has come to tell it so."""

import time

from forkyard.holders import make_holder
from forkyard.registry.consul_lease import ConsulLease
from tasks.work import Permit

TTL = 10


def a_permit(*, renewed: float) -> tuple[Permit, ConsulLease]:
    """One under a lease that was renewed *renewed* seconds ago."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    lease = ConsulLease(make_holder("r", who="ana", reason="sale"), 7, TTL, now - renewed)
    permit = Permit()
    permit.grant(lease, fork_limit=3)
    return permit, lease


def test_without_a_lease_nothing_is_permitted() -> None:
    assert Permit().refusal() == "no lease is held"


def test_a_lease_that_was_renewed_in_time_permits() -> None:
    permit, _ = a_permit(renewed=TTL - 5)
    assert permit.refusal() is None
    assert not permit.lease_lost


def test_who_was_stopped_for_longer_than_the_lease_lives_changes_nothing_before_anybody_says_so() -> None:
    permit, lease = a_permit(renewed=TTL + 1)
    assert not lease.lost.is_set()
    assert permit.lease_lost
    for undo in (False, True):
        assert "the lease was lost" in (permit.refusal(undo=undo) or "")


def test_a_renewal_that_consul_still_granted_permits_again() -> None:
    permit, lease = a_permit(renewed=TTL + 1)
    lease.renewed += TTL
    assert permit.refusal() is None


def test_a_stopped_request_may_only_undo() -> None:
    permit, _ = a_permit(renewed=0)
    permit.withdraw("the request was stopped")
    assert permit.refusal() == "the request was stopped"
    assert permit.refusal(undo=True) is None
