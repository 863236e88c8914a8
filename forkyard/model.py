"""
The nouns: frozen values that every layer passes on and nobody changes.

No I/O, no clock, no randomness here. Times are aware UTC datetimes or timedeltas; `seconds`
are floats; sizes are bytes. `Identity` and `IdentityReport` live in `forkyard.wire`, because the
guest shares them.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, NewType, TypeVar

from forkyard.wire import Identity, IdentityReport

T = TypeVar("T")

VmId = NewType("VmId", str)
"""What a hypervisor calls a VM; opaque above the driver."""


class Role(StrEnum):
    """What a VM is to the fleet."""

    PARENT = "parent"
    CHILD = "child"


class Power(StrEnum):
    """What the hypervisor sees of a VM."""

    RUNNING = "running"
    DEAD = "dead"  # its process is gone; what it left (disk, address) still wants destroying


class Phase(StrEnum):
    """Where a child is on its way; derived from what is observed, never stored."""

    FORKED = "forked"
    IDENTIFIED = "identified"
    REGISTERED = "registered"
    READY = "ready"
    SERVING = "serving"
    DRAINING = "draining"
    RETIRED = "retired"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Stamp:
    """The ownership marks that a VM carries from its first moment."""

    service: str
    fork_id: str
    request_id: str
    expires: datetime | None
    """After this moment a VM that nobody keeps is an orphan. None: kept, a member of the fleet."""


@dataclass(frozen=True, slots=True)
class Vm:
    """One stamped VM as its hypervisor sees it now."""

    id: VmId
    name: str
    role: Role
    power: Power
    stamp: Stamp
    parent: VmId | None
    host: str
    address: str | None
    """IPv4, without prefix; chosen by the driver when the VM was made."""
    mac: str | None
    created: datetime
    pid: int | None = None
    pss_bytes: int | None = None
    """Proportional set size of the VM's process, where the driver can tell."""
    identified: bool = False
    """Whether its guest has proved its own identity (and so has its NIC up)."""


@dataclass(frozen=True, slots=True)
class FrozenParent:
    """A VM stopped at a point from which it can be forked."""

    id: VmId
    name: str
    service: str
    host: str
    frozen_at: datetime
    memory_bytes: int
    fingerprint: str
    """Hash over memory, device state, disk and machine description."""
    children: int = 0
    """How many living children share its memory."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a child would run, and how many more fit there."""

    parent: VmId
    host: str
    datastore: str
    network: str
    room: int
    """Children that still fit; 0 when none."""
    limited_by: str = ""
    """What bounds the room, for the person: `memory`, `addresses`, `disk`, ..."""
    at_once: int = 64
    """Children that come up fastest together there; more only take the processor from each other."""


@dataclass(frozen=True, slots=True)
class ForkSpec:
    """One child to be made."""

    name: str
    stamp: Stamp
    placement: Placement


@dataclass(frozen=True, slots=True)
class Registration:
    """One entry of a service in Consul."""

    id: str
    service: str
    node: str
    """The child's name."""
    address: str
    port: int
    status: str
    """`passing`, `warning` or `critical`: the worst of its node's and its own checks."""
    fork_id: str | None = None
    draining: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What makes it this entry and no other: every child gives its own the same id."""
        return self.node, self.id


@dataclass(frozen=True, slots=True, order=True)
class Server:
    """One line of an upstream."""

    name: str
    address: str
    port: int
    down: bool = False


@dataclass(frozen=True, slots=True)
class Upstream:
    """The servers of a service as Nginx has, or should have, them; ordered by name."""

    service: str
    servers: tuple[Server, ...]


@dataclass(frozen=True, slots=True)
class Child:
    """One child as seen through hypervisor, Consul and Nginx at once."""

    vm: Vm
    phase: Phase
    registration: Registration | None
    in_upstream: bool
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Per phase, as far as known to who looked."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a service should be, on record in Consul before anything is made."""

    wanted: int
    request_id: str
    fencing: int
    """The lease's fencing value under which it was written; a lower one is refused."""


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """Who holds a service's lease, for the person who waits for it."""

    request_id: str
    who: str
    host: str
    pid: int
    since: datetime
    reason: str
    process: str = ""
    """Which process of which boot the pid is, in words that `forkyard.holders` compares; empty: unknown."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """One service's parents and children at one instant, as observed."""

    service: str
    observed_at: datetime
    intent: Intent | None
    parents: tuple[FrozenParent, ...]
    placements: tuple[Placement, ...]
    children: tuple[Child, ...]
    strays: tuple[Registration, ...] = ()
    """Registrations of the service that no VM stands behind."""
    unserved: str = ""
    """Why the balancer passes nobody on to any child; empty: it runs."""

    @property
    def serving(self) -> tuple[Child, ...]:
        """Children that are in the upstream of a balancer that runs, registered, and pass their checks."""
        return () if self.unserved else tuple(c for c in self.children if c.phase is Phase.SERVING)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a service, from forkyard.toml."""

    minimum: int
    maximum: int
    step: int
    """Most children made or retired by one request."""


@dataclass(frozen=True, slots=True)
class ScaleRequest:
    """What is wanted: an absolute number, never a difference."""

    id: str
    service: str
    target: int
    requested_by: str
    requested_at: datetime
    reason: str = ""
    dry_run: bool = False


class StepKind(StrEnum):
    """What one step does to one child."""

    FORK = "fork"
    RETIRE = "retire"
    REMOVE = "remove"  # clear what a dead or failed child left behind


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of a plan: one child."""

    kind: StepKind
    name: str
    placement: Placement | None = None
    vm: VmId | None = None


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """What will be done to come from a fleet to a request's target."""

    request: ScaleRequest
    current: int
    """Children that count today: those that serve or are on their way."""
    target: int
    """After limits; what capped it is in the notes."""
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def of(self, kind: StepKind) -> tuple[Step, ...]:
        """The steps of one kind, in order."""
        return tuple(step for step in self.steps if step.kind is kind)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What a stage did to one child: a value or an error, never an exception."""

    name: str
    value: T | None
    error: str | None = None
    transient: bool = False
    started: datetime | None = None
    seconds: float = 0.0
    mendable: bool = False
    """Whether a person can mend what went wrong: room, or what is missing."""

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.error is None


__all__ = [
    "Child",
    "Fleet",
    "ForkSpec",
    "FrozenParent",
    "Identity",
    "IdentityReport",
    "Intent",
    "LeaseHolder",
    "Limits",
    "Outcome",
    "Phase",
    "Placement",
    "Power",
    "Registration",
    "Role",
    "ScalePlan",
    "ScaleRequest",
    "Server",
    "Stamp",
    "Step",
    "StepKind",
    "Upstream",
    "Vm",
    "VmId",
]
