"""Approvals and starts that nobody came to in time: asked about once more, and never run silently late."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from forkyard.approvals import Approval, Kind, sign
from forkyard.moments import When
from forkyard.requests import State
from forkyard.requests import tables as t
from forkyard.requests.gate import RecordedGate
from forkyard.requests.looking import to_scale_request
from forkyard.roles import Person
from tests.flows.office import APPROVER, RUN, Office, furnished

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
NIGHT = Person("local:night")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path) as made:
        yield made


def test_a_missed_start_is_asked_about_and_never_run_silently_late(office: Office) -> None:
    soon = When(datetime.now(UTC) + timedelta(hours=2), "Europe/Berlin")
    scheduled = office.approved(4, at=soon)
    assert (scheduled.state, scheduled.start_at) == (State.SCHEDULED, soon.moment)
    _, early = office.run(scheduled)
    assert "its start is only at" in str(early)
    scheduled = office.approved(4, at=soon)
    missed = datetime.now(UTC) - timedelta(minutes=12)
    assert scheduled.plan is not None
    plan = replace(scheduled.plan, start_at=missed)
    signed = sign(
        office.store.key,
        Approval(request_id=scheduled.id, plan_hash=plan.hash, approver="U2", at=missed, kind=Kind.OTHER),
    )
    office.store.keep(signed)
    scheduled = office.store.amend(scheduled, start_at=missed, plan=plan)
    _, late = office.run(scheduled)
    assert "was missed by 12 min" in str(late)
    assert office.untouched()
    asked = office.store.get(scheduled.id)
    assert (asked.state, asked.start_at) == (State.AWAITING, None)
    assert office.run(office.desk.approve(APPROVER, asked.token))[0].ok


def test_an_approval_for_at_once_that_no_run_came_to_in_time_is_asked_about_again(office: Office) -> None:
    office.clock.hands = NOW
    approved = office.approved(4)
    office.clock.hands = NOW + office.settings.requests.late
    assert office.desk.sweep() == []
    office.clock.hands = NOW + 10 * HOUR
    _, late = office.run(approved)
    assert "its start at once, approved at 2026-11-20 12:00 UTC, was missed by 600 min" in str(late)
    assert office.untouched()
    assert office.state(approved) is State.AWAITING
    # The same plan, and so the same hash: what counts is the newer of its two approvals.
    assert office.desk.approve(NIGHT, approved.token).plan_hash == approved.plan_hash
    assert len(office.store.approvals(approved.id)) == 2
    assert office.run(office.store.get(approved.id), run_id="run-2")[0].ok


def test_an_approval_for_at_once_whose_run_nobody_begins_is_swept_and_told(office: Office) -> None:
    office.clock.hands = NOW
    approved = office.approved(4)
    office.store.amend(approved, run_id=RUN)
    office.clock.hands = NOW + office.settings.requests.late + timedelta(seconds=1)
    assert [row.id for row in office.desk.sweep()] == [approved.id]
    row = office.store.get(approved.id)
    assert (row.state, row.run_id) == (State.AWAITING, None)
    assert "was missed: nobody began its run. Approve it again" in office.store.list_notices()[-1].text


def test_a_row_put_back_to_approved_long_after_does_not_run_by_its_old_approval(office: Office) -> None:
    office.clock.hands = NOW
    approved = office.approved(4)
    assert office.run(approved)[0].ok
    assert office.run(office.approved(0), run_id="run-2")[0].ok
    with office.store._write() as connection:  # noqa: SLF001 - what somebody with the database's password could do
        connection.execute(
            update(t.requests).where(t.requests.c.id == approved.id).values(state="approved", run_id=None)
        )
    office.clock.hands = NOW + timedelta(days=60)
    _, error = office.run(office.store.get(approved.id), run_id="run-3")
    assert "was missed by 86400 min" in str(error)
    assert office.yard.serving() == []


def test_a_run_that_came_in_time_and_waited_for_the_lease_goes_on(office: Office) -> None:
    office.clock.hands = NOW
    approved = office.approved(4)
    asked = to_scale_request(approved)
    with RecordedGate(office.settings, asked, run_id=RUN, clock=office.clock) as gate:
        gate.enter()
        office.clock.hands = NOW + HOUR
        assert office.desk.sweep() == []
        gate.enter()
    assert office.state(approved) is State.RUNNING
