"""The wire format survives the wire, and bad lines are refused as such."""

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkyard import wire
from guest.agent.channel import LineBuffer

TEXT = st.text(max_size=20)
IDENTITIES = st.builds(
    wire.Identity,
    **dict.fromkeys(
        ("fork_id", "request_id", "service", "name", "mac", "address", "machine_id", "consul_node_id", "datacenter"),
        TEXT,
    ),
    gateway=st.none() | TEXT,
    consul_join=st.lists(TEXT, max_size=3).map(tuple),
    wall_clock=st.floats(0, 1e11),
    seed=TEXT,
)
POINTS = st.builds(
    wire.PointReport,
    point=st.sampled_from(wire.POINTS),
    value=TEXT,
    proved=st.booleans(),
    seconds=st.floats(0, 100),
    detail=TEXT,
)
REPORTS = st.builds(
    wire.IdentityReport, fork_id=TEXT, points=st.lists(POINTS, max_size=13).map(tuple), seconds=st.floats(0, 100)
)


@given(IDENTITIES)
def test_an_identity_comes_through_as_it_is(identity: wire.Identity) -> None:
    line = wire.encode({"identity": wire.identity_to_wire(identity)})
    assert wire.identity_from_wire(wire.decode(line)["identity"]) == identity


@given(REPORTS)
def test_a_report_comes_through_as_it_is(report: wire.IdentityReport) -> None:
    assert wire.report_from_wire(wire.decode(wire.encode({"r": wire.report_to_wire(report)}))["r"]) == report


@given(REPORTS)
def test_a_report_is_proved_only_when_every_point_is(report: wire.IdentityReport) -> None:
    proved = {p.point for p in report.points if p.proved}
    assert report.proved == (proved == set(wire.POINTS))


@given(IDENTITIES)
def test_the_seed_is_in_no_representation(identity: wire.Identity) -> None:
    assert "seed" not in repr(identity)


@given(st.lists(st.dictionaries(TEXT, TEXT, max_size=3), min_size=1, max_size=5), st.integers(1, 7))
def test_lines_are_whole_however_the_bytes_arrive(messages: list[dict[str, object]], size: int) -> None:
    data = b"".join(wire.encode(message) for message in messages)
    buffer = LineBuffer()
    lines = [line for at in range(0, len(data), size) for line in buffer.feed(data[at : at + size])]
    assert [wire.decode(line) for line in lines] == messages


def test_a_line_that_never_ends_is_dropped_and_the_next_one_is_heard() -> None:
    buffer = LineBuffer()
    assert buffer.feed(b"x" * (wire.MAX_LINE + 1)) == []
    assert buffer.feed(b'{"verb":"hello"}\n') == [b'{"verb":"hello"}']


@pytest.mark.parametrize("line", [b"", b"nothing", b"[1]", b"\xff\xfe", b"1"])
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(line)


@given(IDENTITIES, st.sampled_from([field.name for field in fields(wire.Identity)]))
def test_an_identity_with_a_missing_field_is_refused_by_that_fields_name(identity: wire.Identity, name: str) -> None:
    message = {key: value for key, value in wire.identity_to_wire(identity).items() if key != name}
    with pytest.raises(wire.WireError, match=name):
        wire.identity_from_wire(json.loads(json.dumps(message)))
