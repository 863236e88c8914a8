"""
Say where each child is on its way, from one look at hypervisor, Consul and Nginx.

`derive_phase` and `make_fleet` are pure; `observe_fleet` does the looking and nothing else. A phase is
never stored: whoever wants to know looks again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from forkyard.balancer import Balancer
from forkyard.errors import Unavailable
from forkyard.model import Child, Fleet, FrozenParent, Intent, Phase, Placement, Power, Registration, Role, Upstream, Vm
from forkyard.world import World

_WORST_FIRST = ("critical", "warning", "passing")


def is_kept(vm: Vm) -> bool:
    """Whether a finished request has made the VM a member of the fleet."""
    return vm.stamp.expires is None


def derive_phase(vm: Vm, registration: Registration | None, *, in_upstream: bool) -> Phase:
    """
    Derive the phase of one child.

    A kept child was serving once: when it has since lost its registration or its health it is FAILED,
    while a child that is still on its way and has not come that far is not. Nor is one that only warns (that it is
    too busy, say): it is out of Nginx, and comes back by itself.
    """
    if vm.power is Power.DEAD:
        return Phase.FAILED
    if registration is not None and registration.draining:
        return Phase.DRAINING
    if vm.identified and registration is not None and registration.status == "passing":
        return Phase.SERVING if in_upstream else Phase.READY
    if is_kept(vm) and not (registration is not None and registration.status == "warning"):
        return Phase.FAILED
    if not vm.identified:
        return Phase.FORKED
    return Phase.IDENTIFIED if registration is None else Phase.REGISTERED


def make_fleet(
    service: str,
    *,
    observed_at: datetime,
    vms: Sequence[Vm],
    registrations: Sequence[Registration],
    upstream: Upstream | None,
    intent: Intent | None = None,
    parents: Iterable[FrozenParent] = (),
    placements: Iterable[Placement] = (),
) -> Fleet:
    """Join what the three parts of the outside say into one value; children by age, oldest first."""
    children = tuple(_join(vm, registrations, upstream) for vm in vms if vm.role is Role.CHILD)
    claimed = {child.registration.key for child in children if child.registration is not None}
    owners = {child.vm.name: child.vm for child in children}
    strays = tuple(
        entry
        for entry in registrations
        if entry.key not in claimed and not (entry.node in owners and _belongs(entry, owners[entry.node]))
    )
    return Fleet(
        service=service,
        observed_at=observed_at,
        intent=intent,
        parents=tuple(parents),
        placements=tuple(placements),
        children=tuple(sorted(children, key=lambda child: (child.vm.created, child.vm.name))),
        strays=strays,
    )


def observe_fleet(world: World) -> Fleet:
    """Look once at everything that makes the service's fleet."""
    service = world.service
    # Registrations before VMs: a child that appears between the two looks is then a child without
    # a registration, which is harmless, and never a registration without a child, which is a stray.
    registrations = world.registry.registrations(service)
    upstream = world.balancer.upstream(service)
    fleet = make_fleet(
        service,
        observed_at=datetime.now(UTC),
        vms=world.hypervisor.list_vms(service),
        registrations=registrations,
        upstream=upstream,
        intent=world.registry.intent(service),
        parents=world.hypervisor.list_parents(service),
        placements=world.hypervisor.placements(service),
    )
    return replace(fleet, unserved=_find_silence(world.balancer))


def _find_silence(balancer: Balancer) -> str:
    try:
        balancer.check_running()
    except Unavailable as error:
        return str(error)
    return ""


def _join(vm: Vm, registrations: Sequence[Registration], upstream: Upstream | None) -> Child:
    own = [entry for entry in registrations if entry.node == vm.name and _belongs(entry, vm)]
    # An app with several published ports has several entries: the worst of them speaks for the child.
    registration = min(own, key=_severity) if own else None
    in_upstream = upstream is not None and any(
        server.name == vm.name and not server.down and vm.address in (None, server.address)
        for server in upstream.servers
    )
    return Child(vm, derive_phase(vm, registration, in_upstream=in_upstream), registration, in_upstream)


def _belongs(entry: Registration, vm: Vm) -> bool:
    # A name may come again after a crash; the fork id tells the old child's entry from the new one's.
    return entry.fork_id is None or entry.fork_id == vm.stamp.fork_id


def _severity(entry: Registration) -> tuple[int, str]:
    rank = _WORST_FIRST.index(entry.status) if entry.status in _WORST_FIRST else 0
    return rank, entry.id
