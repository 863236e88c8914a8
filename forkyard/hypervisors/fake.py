"""A hypervisor in memory that keeps the contract to the letter; for tests and for the flows' own overhead."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from forkyard.errors import CapacityExhausted, NotFound, NotReady, PermanentError, VerificationFailed
from forkyard.fake_world import FakeWorld
from forkyard.model import (
    ForkSpec,
    FrozenParent,
    Identity,
    IdentityReport,
    Placement,
    Power,
    Role,
    Stamp,
    Vm,
    VmId,
)
from forkyard.wire import POINTS, PointReport


class FakeHypervisor:
    """Forks by adding a row to the shared world."""

    name = "fake"

    def __init__(self, world: FakeWorld) -> None:
        """Work on *world*."""
        self.world = world

    def list_vms(self, service: str | None = None) -> list[Vm]:
        """All children with our stamp, by name."""
        self.world.enter("list_vms", service or "")
        with self.world.changed:
            found = [vm for vm in self.world.vms.values() if service in (None, vm.stamp.service)]
        return sorted(found, key=lambda vm: vm.name)

    def list_parents(self, service: str | None = None) -> list[FrozenParent]:
        """All frozen parents, by name."""
        self.world.enter("list_parents", service or "")
        with self.world.changed:
            found = [
                self.world.frozen(parent)
                for parent in self.world.parents.values()
                if parent.frozen_at is not None and service in (None, parent.service)
            ]
        return sorted(found, key=lambda parent: parent.name)

    def placements(self, service: str) -> list[Placement]:
        """One placement for each frozen parent of the service."""
        self.world.enter("placements", service)
        with self.world.changed:
            room = max(0, self.world.capacity - len(self.world.vms))
            parents = [p.id for p in self.world.parents.values() if p.service == service and p.frozen_at]
        return [Placement(p, "fake", "memory", "fake0", room, "memory") for p in sorted(parents)]

    def freeze(self, parent: VmId, *, timeout: timedelta) -> FrozenParent:
        """Freeze at once; a frozen parent is returned as it is."""
        _in_time(timeout, f"{parent}: freeze")
        fault = self.world.enter("freeze", parent)
        with self.world.changed:
            found = self.world.parents.get(parent)
            if found is None:
                text = f"{parent}: no such parent, running or frozen"
                raise NotFound(text)
            found.frozen_at = found.frozen_at or datetime.now(UTC)
            frozen = self.world.frozen(found)
        if fault:
            raise fault
        return frozen

    def fork(self, spec: ForkSpec, *, timeout: timedelta) -> Vm:
        """Add a running child without identity."""
        _in_time(timeout, f"{spec.name}: fork")
        fault = self.world.enter("fork", spec.name)
        with self.world.changed:
            vm = self.world.vms.get(VmId(spec.name)) or self._made(spec)
        if (vm.stamp.fork_id, vm.stamp.service) != (spec.stamp.fork_id, spec.stamp.service):
            text = f"{spec.name}: the name belongs to fork {vm.stamp.fork_id} of {vm.stamp.service}"
            raise PermanentError(text)
        if fault:
            raise fault
        return vm

    def _made(self, spec: ForkSpec) -> Vm:
        world, parent = self.world, self.world.parents.get(spec.placement.parent)
        if parent is None or parent.frozen_at is None:
            text = f"{spec.placement.parent}: not there, or not frozen"
            raise NotFound(text)
        if len(world.vms) >= world.capacity:
            text = f"{spec.name}: no memory left for a child of {parent.id}"
            raise CapacityExhausted(text)
        number = world.next_number()
        vm = Vm(
            id=VmId(spec.name),
            name=spec.name,
            role=Role.CHILD,
            power=Power.RUNNING,
            stamp=spec.stamp,
            parent=parent.id,
            host="fake",
            address=f"10.77.{1 + number // 250}.{1 + number % 250}",
            mac="52:54:00:{:02x}:{:02x}:{:02x}".format(*number.to_bytes(3, "big")),
            created=datetime.now(UTC),
            pid=10_000 + number,
        )
        world.vms[vm.id] = vm
        return vm

    def identify(self, vm: VmId, identity: Identity, *, timeout: timedelta) -> IdentityReport:
        """Prove all points at once; the child then registers itself."""
        _in_time(timeout, f"{vm}: identify")
        begun = time.monotonic()
        fault = self.world.enter("identify", vm)
        with self.world.changed:
            found = self.world.find_vm(vm)
            if found.power is not Power.RUNNING:
                text = f"{vm}: its agent does not answer: the VM is {found.power}"
                raise NotReady(text)
            for point, given, own in (
                ("fork_uuid", identity.fork_id, found.stamp.fork_id),
                ("address", identity.address.partition("/")[0], found.address),
                ("mac", identity.mac, found.mac),
                ("hostname", identity.name, found.name),
            ):
                if given != own:
                    text = f"{vm}: {point}: was given {given}, and the VM was made with {own}"
                    raise VerificationFailed(text)
            if not found.identified:
                self.world.vms[vm] = replace(found, identified=True)
                self.world.agent_registers(found)
        if fault:
            raise fault
        values = {"mac": identity.mac, "address": identity.address, "hostname": identity.name}
        points = tuple(
            PointReport(point, values.get(point, identity.fork_id), proved=True, seconds=0.0) for point in POINTS
        )
        return IdentityReport(identity.fork_id, points, time.monotonic() - begun)

    def restamp(self, vm: VmId, stamp: Stamp) -> Vm:
        """Replace the stamp; fork id and service stay."""
        fault = self.world.enter("restamp", vm)
        with self.world.changed:
            found = self.world.find_vm(vm)
            if (stamp.fork_id, stamp.service) != (found.stamp.fork_id, found.stamp.service):
                text = f"{vm}: fork id and service of a stamp never change"
                raise PermanentError(text)
            found = self.world.vms[vm] = replace(found, stamp=stamp)
        if fault:
            raise fault
        return found

    def destroy(self, vm: VmId, *, timeout: timedelta) -> None:
        """Remove the row; what it had registered turns critical."""
        _in_time(timeout, f"{vm}: destroy")
        fault = self.world.enter("destroy", vm)
        with self.world.changed:
            gone = self.world.vms.pop(vm, None)
            if gone is not None:
                self.world.fade(gone.name)
        if fault:
            raise fault


def _in_time(timeout: timedelta, what: str) -> None:
    if timeout <= timedelta(0):
        text = f"{what}: not within {timeout.total_seconds():g} s"
        raise NotReady(text)
