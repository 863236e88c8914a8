"""
Find and remove what nobody owns: the guarantee that a killed process leaves nothing behind for good.

Works without the workflow server. Touches only what carries our stamp (VMs), what is registered under the
service (entries without a VM) and the service's own upstream. Holds the service's lease while it works, so that
no flow makes children meanwhile, and removes only what it has seen at two looks.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from forkyard.errors import ForkyardError, NotReady
from forkyard.holders import hold_lease
from forkyard.model import Child, Fleet, LeaseHolder, Phase, Power, Registration, Upstream
from forkyard.phases import observe_fleet
from forkyard.registry import Lease
from forkyard.world import World

logger = logging.getLogger(__name__)


class OrphanKind(StrEnum):
    """Why something is an orphan."""

    DEAD = "dead"  # a VM whose process is gone
    EXPIRED = "expired"  # a VM whose stamp has run out and that nobody keeps
    ABANDONED = "abandoned"  # a VM of a request that nobody works on any more
    STRAY = "stray"  # a registration that no VM stands behind
    DANGLING = "dangling"  # an upstream line that no registration stands behind
    REMNANT = "remnant"  # what a crash left on the host that is no VM: half a directory, a process of nobody


class Remnant(Protocol):
    """One thing that a crash left in a driver's own keeping."""

    @property
    def path(self) -> Path:
        """What makes it this one and no other."""
        ...

    @property
    def what(self) -> str:
        """What it is, for the person."""
        ...


@runtime_checkable
class LeavesRemnants(Protocol):
    """A hypervisor whose crashes can leave what no list of VMs shows."""

    def list_strays(self, *, older_than: timedelta) -> Sequence[Remnant]:
        """All remnants that have not changed for *older_than*."""
        ...

    def remove_stray(self, stray: Any) -> None:  # noqa: ANN401 - the driver's own, which it gave
        """Remove one. Absent is success."""
        ...


@runtime_checkable
class MayBeBlind(Protocol):
    """A hypervisor whose VMs can be out of its own sight, and serve all the same."""

    def list_unseen(self) -> Sequence[str]:
        """Names of VMs that may be children, and that nobody can read now."""
        ...


@dataclass(frozen=True, slots=True)
class Orphan:
    """One thing that nobody owns."""

    kind: OrphanKind
    name: str
    """The child's name, whatever of it is left."""
    mark: str
    """The stamp's fork id, the registration's id, or the server's address: with the name, this one and no other."""
    why: str
    child: Child | None = None
    registration: Registration | None = None
    remnant: Remnant | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of one orphan."""

    orphan: Orphan
    error: str | None = None
    """None: it is gone."""


@dataclass(frozen=True, slots=True)
class ReapReport:
    """Exactly what was found and removed."""

    service: str
    removals: tuple[Removal, ...]
    seen_once: tuple[Orphan, ...]
    """At one look only, and so left alone: most likely somebody was just at it."""
    dry_run: bool = False

    @property
    def clean(self) -> bool:
        """Whether nothing that was found twice is still there."""
        return all(removal.error is None for removal in self.removals) and not (self.dry_run and self.removals)


def find_orphans(fleet: Fleet, upstream: Upstream | None, *, now: datetime, leased: bool) -> tuple[Orphan, ...]:
    """
    Find the orphans in one look. Pure.

    *leased* says that the caller holds the service's lease: then no request is at work, and a child
    that nobody keeps is abandoned even before its stamp expires.
    """
    vms = tuple(orphan for child in fleet.children if (orphan := _judge(child, now=now, leased=leased)) is not None)
    strays = tuple(
        Orphan(OrphanKind.STRAY, entry.node, entry.id, "registered, and no VM stands behind it", registration=entry)
        for entry in fleet.strays
        # An entry without our mark may be anybody's: a server that a person registered by hand.
        if entry.fork_id is not None
    )
    registered = {child.vm.name for child in fleet.children if child.registration is not None}
    registered |= {entry.node for entry in fleet.strays}
    dangling = tuple(
        Orphan(OrphanKind.DANGLING, server.name, f"{server.address}:{server.port}", "in Nginx, and not registered")
        for server in (upstream.servers if upstream is not None else ())
        if server.name not in registered and server.name not in {orphan.name for orphan in vms}
    )
    return vms + strays + dangling


def reap(
    world: World,
    holder: LeaseHolder,
    *,
    interval: timedelta = timedelta(seconds=2),
    wait: timedelta = timedelta(seconds=15),
    destroy_timeout: timedelta = timedelta(seconds=30),
    dry_run: bool = False,
) -> ReapReport:
    """
    Remove what was an orphan at two looks *interval* apart; each removal's failure is a value in the report.

    A service whose lease somebody living holds is not touched.

    Raises:
        LeaseHeld: a request is at work on the service, after *wait*.
        NotReady: the lease was lost between the looks; nothing was removed.
        Unavailable: hypervisor, registry or balancer does not answer.
    """
    with hold_lease(world.registry, world.service, holder, wait=wait) as lease:
        before = {(orphan.name, orphan.mark) for orphan in _look(world, interval)}
        if not before:
            return ReapReport(world.service, (), (), dry_run)
        if lease.lost.wait(interval.total_seconds()) or not lease.is_held():
            text = f"{world.service}: the lease was lost between two looks, and nothing was removed. Run it again."
            raise NotReady(text)
        now = _look(world, interval)
        orphans = tuple(orphan for orphan in now if (orphan.name, orphan.mark) in before)
        seen_once = tuple(orphan for orphan in now if (orphan.name, orphan.mark) not in before)
        if dry_run:
            return ReapReport(world.service, tuple(Removal(orphan) for orphan in orphans), seen_once, dry_run)
        return ReapReport(world.service, _remove(world, orphans, lease, destroy_timeout), seen_once)


def _look(world: World, unchanged_for: timedelta) -> tuple[Orphan, ...]:
    fleet = observe_fleet(world)
    if fleet.strays and isinstance(world.hypervisor, MayBeBlind):
        # No VM is seen behind them; that is not to say that there is none.
        unseen = frozenset(world.hypervisor.list_unseen())
        fleet = replace(fleet, strays=tuple(stray for stray in fleet.strays if stray.node not in unseen))
    found = find_orphans(fleet, world.balancer.upstream(world.service), now=fleet.observed_at, leased=True)
    if not isinstance(world.hypervisor, LeavesRemnants):
        return found
    remnants = world.hypervisor.list_strays(older_than=unchanged_for)
    return found + tuple(Orphan(OrphanKind.REMNANT, r.path.name, str(r.path), r.what, remnant=r) for r in remnants)


def _judge(child: Child, *, now: datetime, leased: bool) -> Orphan | None:
    stamp = child.vm.stamp
    if child.vm.power is Power.DEAD:
        kind, why = OrphanKind.DEAD, "its process is gone"
    elif stamp.expires is None:  # kept
        return None
    elif child.phase is Phase.SERVING:
        # Its request was killed at its very end. Players are on it: the next request counts it, and keeps it.
        return None
    elif stamp.expires <= now:
        kind, why = OrphanKind.EXPIRED, f"nobody kept it by {stamp.expires:%H:%M:%S} UTC"
    elif leased:
        kind, why = OrphanKind.ABANDONED, f"request {stamp.request_id} is no longer at work"
    else:
        return None
    return Orphan(kind, child.vm.name, stamp.fork_id, why, child=child, registration=child.registration)


def _remove(world: World, orphans: tuple[Orphan, ...], lease: Lease, timeout: timedelta) -> tuple[Removal, ...]:
    if not orphans:
        return ()
    unlist = partial(_unlist, world, frozenset(orphan.name for orphan in orphans))
    # Out of Nginx before anything ends, so that a player's request never meets a child that is being removed.
    hidden = [_leased(lease, partial(_hide, world, orphan)) for orphan in orphans]
    unlisted = _leased(lease, unlist)
    cleared = [_leased(lease, partial(_clear, world, orphan, timeout)) for orphan in orphans]
    if unlisted is not None:
        # A full disk is why people reap: what was removed may have made the room that was missing.
        unlisted = _leased(lease, unlist)
    removals: list[Removal] = []
    for orphan, *found in zip(orphans, hidden, cleared, strict=True):
        found.append(unlisted)
        reasons = "; ".join(reason for reason in found if reason is not None)
        logger.info("%s: %s (%s) %s", world.service, orphan.name, orphan.why, reasons or "removed")
        removals.append(Removal(orphan, reasons or None))
    return tuple(removals)


def _leased(lease: Lease, action: Callable[[], None]) -> str | None:
    """Do it under the lease; returns why it was not done, or None."""
    if not lease.is_held():
        return "the lease was lost: left alone"
    try:
        action()
    except ForkyardError as error:
        return str(error)
    return None


def _hide(world: World, orphan: Orphan) -> None:
    # The mark keeps a resident `forkyard sync` from putting the server back until its entry is gone.
    if orphan.registration is not None and not orphan.registration.draining:
        world.registry.set_draining(world.service, orphan.name, draining=True)


def _unlist(world: World, names: frozenset[str]) -> None:
    with world.balancer.exclusive():
        upstream = world.balancer.upstream(world.service)
        if upstream is not None and any(server.name in names for server in upstream.servers):
            left = tuple(server for server in upstream.servers if server.name not in names)
            world.balancer.apply(replace(upstream, servers=left))


def _clear(world: World, orphan: Orphan, timeout: timedelta) -> None:
    if orphan.remnant is not None and isinstance(world.hypervisor, LeavesRemnants):
        world.hypervisor.remove_stray(orphan.remnant)
    if orphan.child is not None:
        world.hypervisor.destroy(orphan.child.vm.id, timeout=timeout)
    # After the VM: a living Consul agent would put its entry back.
    if orphan.registration is not None:
        world.registry.deregister(orphan.registration)
    if orphan.child is not None or orphan.registration is not None:
        world.registry.set_draining(world.service, orphan.name, draining=False)
