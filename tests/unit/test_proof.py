"""What a host believes of a guest's proofs."""

from typing import Any

import pytest

from forkyard import wire
from forkyard.errors import VerificationFailed
from forkyard.hypervisors.proof import read_report
from tests.support.agent_world import make_identity

IDENTITY = make_identity()
PROVED = {
    "mac": IDENTITY.mac,
    "hostname": IDENTITY.name,
    "address": IDENTITY.address,
    "machine_id": IDENTITY.machine_id,
    "consul_node": f"{IDENTITY.name} {IDENTITY.consul_node_id}",
    "fork_uuid": IDENTITY.fork_id,
}


def answer(changed: dict[str, str] | None = None) -> dict[str, Any]:
    """What a guest says that has proved all, but for what is *changed*."""
    values = PROVED | (changed or {})
    points = tuple(wire.PointReport(p, values.get(p, "x"), proved=True, seconds=0.0) for p in wire.POINTS)
    report = wire.IdentityReport(IDENTITY.fork_id, points, 0.0)
    return {"ok": True, "report": wire.report_to_wire(report)}


def test_what_is_proved_as_it_was_asked_is_believed() -> None:
    assert read_report(answer(), IDENTITY).proved


@pytest.mark.parametrize("point", PROVED)
def test_a_point_that_is_proved_but_is_not_what_was_asked_is_refused(point: str) -> None:
    with pytest.raises(VerificationFailed, match=f"{point} is another, not "):
        read_report(answer({point: "another"}), IDENTITY)


def test_an_address_may_be_told_without_its_prefix_length() -> None:
    assert read_report(answer({"address": IDENTITY.address.partition("/")[0]}), IDENTITY).proved
