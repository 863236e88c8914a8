"""
What the host and the guest agent say to each other, and nothing else.

Standard library only: this one module is copied into every guest as it is.
Both sides speak JSON objects, one a line, UTF-8, at most `MAX_LINE` bytes, strictly request
then answer; the host speaks first. Requests have a `verb`, answers have `ok`:

    {"verb": "hello"}                          -> {"ok": true, "state": "waiting", "fork_id": null, "agent": "1"}
    {"verb": "quiesce"}                        -> {"ok": true, "state": "quiesced"}
    {"verb": "identify", "identity": {...}}    -> {"ok": true, "report": {...}}
    {"verb": "network"}                        -> {"ok": true, "addresses": ["10.77.0.21"]}   after the link is up
    anything that failed                       -> {"ok": false, "error": "mac: could not be set: ...", "report": {...}?}

The seed inside an identity is a secret: it is never logged, and `Identity.__repr__` leaves it out.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, cast

PORT_NAME = "io.forkyard.agent"
"""Name of the virtio-serial port; in the guest /dev/virtio-ports/io.forkyard.agent."""

MAX_LINE = 64 * 1024
"""Longest accepted line, in bytes."""

STATES = ("starting", "waiting", "quiesced", "identified", "failed")
"""What an agent says of itself: the fork point is `waiting` (app warm) or `quiesced`."""

POINTS = (
    "mac",
    "address",
    "hostname",
    "machine_id",
    "ssh_host_keys",
    "dhcp_client_id",
    "kernel_rng",
    "app",
    "clock",
    "consul_node",
    "fork_uuid",
    "tcp_connections",
    "container_identity",
)
"""The 13 things that a fork must not share, in the order in which reports list them."""


class WireError(ValueError):
    """A line that is not what this module describes."""


@dataclass(frozen=True, slots=True)
class Identity:
    """All that a child must not share with its parent, as chosen by the host."""

    fork_id: str
    """A UUID of this fork; readable in the guest at /run/forkyard/identity.json."""
    request_id: str
    service: str
    name: str
    """Host name and Consul node name."""
    mac: str
    """Lower case with colons; None of the parent's."""
    address: str
    """IPv4 address with prefix length, such as 10.77.0.21/24."""
    gateway: str | None
    machine_id: str
    """32 hexadecimal digits."""
    consul_node_id: str
    """A UUID."""
    consul_join: tuple[str, ...]
    """Addresses of Consul servers that the guest's agent joins."""
    datacenter: str
    wall_clock: float
    """Seconds since the epoch, taken by the host just before sending. In the guest it is this late or later."""
    seed: str = field(repr=False)
    """Base64 of 32 random bytes from the host for the kernel's RNG. Secret."""


@dataclass(frozen=True, slots=True)
class PointReport:
    """One identity point: what the guest found after it had changed it."""

    point: str
    value: str
    """
    What a person can compare between children; for secrets a fingerprint, never the thing.

    Of `clock` the time that it was then, such as 2025-11-26T09:14:48Z: the host compares it with its own.
    """
    proved: bool
    seconds: float
    """Time that changing and proving took inside the guest."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class IdentityReport:
    """What the guest proved of its new identity."""

    fork_id: str
    points: tuple[PointReport, ...]
    seconds: float
    """Time inside the guest from the request to the last proof."""
    left: tuple[str, ...] = ()
    """Points that nobody looks at, as forkyard.toml has it (`vsphere.customize = "tools"`): the image's to change."""

    @property
    def proved(self) -> bool:
        """Whether every one of `POINTS` is there and proved, but for those that are left to the guest on purpose."""
        return {p.point for p in self.points if p.proved} | set(self.left) >= set(POINTS)


def encode(message: dict[str, object]) -> bytes:
    """One message as a line."""
    line = json.dumps(message, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
    if len(line) > MAX_LINE:
        text = f"a message of {len(line)} bytes is longer than {MAX_LINE}"
        raise WireError(text)
    return line


def decode(line: bytes) -> dict[str, object]:
    """The message in a line; raises WireError when it is not one."""
    try:
        # More than MAX_LINE nobody may send; within it brackets can still nest deeper than Python goes.
        message = json.loads(line) if len(line) <= MAX_LINE else _refuse_length(line)
    except (ValueError, RecursionError) as error:
        text = f"not JSON: {line[:80]!r}"
        raise WireError(text) from error
    return _read_object(message, f"not an object: {line[:80]!r}")


def _refuse_length(line: bytes) -> object:
    text = f"a message of {len(line)} bytes is longer than {MAX_LINE}"
    raise WireError(text)


def identity_to_wire(identity: Identity) -> dict[str, object]:
    """The identity as a JSON object."""
    return {**asdict(identity), "consul_join": list(identity.consul_join)}


def identity_from_wire(message: object) -> Identity:
    """The identity in a JSON object; raises WireError naming what is missing or unknown."""
    fields = dict(_read_object(message, "identity: not an object"))
    try:
        join = tuple(fields.pop("consul_join"))
        return Identity(consul_join=join, **fields)
    except (KeyError, TypeError) as error:
        text = f"identity: {error}"
        raise WireError(text) from error


def report_to_wire(report: IdentityReport) -> dict[str, object]:
    """The report as a JSON object."""
    return {**asdict(report), "points": [asdict(point) for point in report.points]}


def report_from_wire(message: object) -> IdentityReport:
    """The report in a JSON object; raises WireError naming what is missing or unknown."""
    fields = _read_object(message, "report: not an object")
    try:
        points = tuple(PointReport(**point) for point in fields["points"])
        left = tuple(str(point) for point in fields.get("left", ()))
        return IdentityReport(fork_id=fields["fork_id"], points=points, seconds=fields["seconds"], left=left)
    except (KeyError, TypeError) as error:
        text = f"report: {error}"
        raise WireError(text) from error


def _read_object(message: object, otherwise: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise WireError(otherwise)
    return cast("dict[str, Any]", message)
