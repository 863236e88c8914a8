"""Approvals and starts that nobody came to in time: asked about once more, and never run silently late."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forkyard.approvals import Approval, Kind, sign
from forkyard.moments import When
from forkyard.requests import State
from tests.flows.office import APPROVER, Office, furnished


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
