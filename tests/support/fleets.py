"""Fleets for tests of pure code: short to write, complete in every field."""

from datetime import UTC, datetime, timedelta

from forkyard.model import (
    Child,
    Fleet,
    FrozenParent,
    Phase,
    Placement,
    Power,
    Registration,
    Role,
    ScaleRequest,
    Stamp,
    Vm,
    VmId,
)

NOW = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
REQUEST_ID = "aaaaaa00-0000-4000-8000-000000000000"
OTHER_ID = "bbbbbb00-0000-4000-8000-000000000000"
PARENT = VmId("game")
HOST = "here"


def a_vm(  # noqa: PLR0913 - every mark of a VM that a phase may depend on
    name: str,
    *,
    kept: bool = True,
    expires: datetime | None = None,
    request_id: str = OTHER_ID,
    power: Power = Power.RUNNING,
    age: timedelta = timedelta(minutes=5),
    identified: bool = True,
    address: str | None = "10.77.1.1",
    host: str = HOST,
    parent: VmId | None = PARENT,
) -> Vm:
    """A child's VM: kept and identified, unless said otherwise."""
    limit = None if kept else expires or NOW + timedelta(minutes=10)
    return Vm(
        id=VmId(name),
        name=name,
        role=Role.CHILD,
        power=power,
        stamp=Stamp("game", f"fork-{name}", request_id, limit),
        parent=parent,
        host=host,
        address=address,
        mac=None,
        created=NOW - age,
        identified=identified,
    )


def a_registration(
    name: str, *, status: str = "passing", fork_id: str | None = None, draining: bool = False
) -> Registration:
    """The entry that belongs to `a_vm` of the same name."""
    mark = f"fork-{name}" if fork_id is None else fork_id
    return Registration("forkyard:game:8080", "game", name, "10.77.1.1", 80, status, mark, draining)


def a_child(vm: Vm, phase: Phase = Phase.SERVING) -> Child:
    """A child in a phase."""
    registered = phase in {Phase.REGISTERED, Phase.READY, Phase.SERVING, Phase.DRAINING}
    entry = a_registration(vm.name, draining=phase is Phase.DRAINING) if registered else None
    return Child(vm, phase, entry, in_upstream=phase is Phase.SERVING)


def a_placement(room: int = 100, *, host: str = HOST, parent: VmId = PARENT, limited_by: str = "memory") -> Placement:
    """A place with room."""
    return Placement(parent, host, "local", "fy0", room, limited_by)


def a_fleet(*children: Child, placements: tuple[Placement, ...] | None = None, parents: int = 1) -> Fleet:
    """A fleet with a frozen parent and room."""
    frozen = tuple(FrozenParent(PARENT, "game", "game", HOST, NOW, 1 << 30, "print") for _ in range(parents))
    places = (a_placement(),) if placements is None else placements
    return Fleet("game", NOW, None, frozen, places, children)


def a_request(target: int, *, request_id: str = REQUEST_ID) -> ScaleRequest:
    """A request of a person for the game."""
    return ScaleRequest(request_id, "game", target, "ada", NOW)
