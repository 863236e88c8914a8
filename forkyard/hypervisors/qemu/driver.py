"""
The QEMU driver: forks VMs on this one Linux machine, without a daemon of its own.

It holds no state in memory that counts: what is there stands in settings.state_dir and in the living
processes, so any number of processes may use it at once and any of them may be killed at any moment.
"""

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from forkyard import wire
from forkyard.errors import NotFound, OutcomeUnknown, PermanentError, Unavailable, VerificationFailed
from forkyard.hypervisors.proof import check_identity, read_report
from forkyard.hypervisors.qemu.accelerator import explain_slowness
from forkyard.hypervisors.qemu.capacity import children_at_once
from forkyard.hypervisors.qemu.children import FORKED, IDENTIFIED, MACHINE, ChildStore, Record
from forkyard.hypervisors.qemu.guest_channel import GuestChannel
from forkyard.hypervisors.qemu.instance import Instance, explained, get_process
from forkyard.hypervisors.qemu.launcher import Launcher
from forkyard.hypervisors.qemu.machine import NIC
from forkyard.hypervisors.qemu.network import attach, make_mac
from forkyard.hypervisors.qemu.nursery import Nursery, UnfrozenParent
from forkyard.hypervisors.qemu.parents import Frozen, ParentStore
from forkyard.hypervisors.qemu.qmp import Qmp
from forkyard.hypervisors.qemu.records import read_record
from forkyard.hypervisors.qemu.standby import StandbyStore
from forkyard.hypervisors.qemu.strays import Stray, find_strays, remove_stray
from forkyard.hypervisors.qemu.timing import Deadline, Steps
from forkyard.model import ForkSpec, FrozenParent, Identity, IdentityReport, Placement, Power, Stamp, Vm, VmId
from forkyard.oserrors import translated
from forkyard.settings import Settings

logger = logging.getLogger(__name__)

_ROLLBACK = timedelta(seconds=15)


class QemuHypervisor:
    """A `forkyard.hypervisors.Hypervisor` on this machine."""

    name = "qemu"

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing is started, made or looked at."""
        self._settings = settings
        self._host = socket.gethostname()
        self._parents = ParentStore(settings.state_dir / "parents", settings.run_dir / "verified")
        self._children = ChildStore(settings, self._host)
        self._standbys = StandbyStore(settings.state_dir / "standby", settings.run_dir)
        self._launcher = Launcher(settings)
        self._nursery = Nursery(settings, self._host, self._parents, self._launcher)

    # What is there

    @translated("looking at this host's VMs")
    def list_vms(self, service: str | None = None) -> list[Vm]:
        """All children with our stamp, dead and half-made ones included, by name."""
        records = self._children.list_records()
        return [
            self._children.make_vm(record, measure=True)
            for record in records
            if service in {None, record.stamp.service}
        ]

    @translated("looking at this host's VMs")
    def list_parents(self, service: str | None = None) -> list[FrozenParent]:
        """All frozen parents."""
        living = [record.parent for record in self._children.list_records()]
        frozen = (parent for parent in self._parents.list_frozen() if service in {None, parent.service})
        return [self._as_parent(parent, living.count(parent.name)) for parent in frozen]

    @translated("looking at this host's VMs")
    def list_unfrozen_parents(self) -> list[UnfrozenParent]:
        """All parents that run and are not frozen yet, and those that were left half made, by name."""
        return self._nursery.list_unfrozen()

    @translated("looking at this host's VMs")
    def placements(self, service: str) -> list[Placement]:
        """Room per parent of the service, most first."""
        frozen = self._parents.list_frozen()
        sizes = {parent.name: parent.memory_bytes for parent in frozen}
        records = self._children.list_records()
        found: list[Placement] = []
        for parent in frozen:
            if parent.service == service:
                room, limit = self._children.room(records, sizes, parent.memory_bytes)
                store, bridge = str(self._settings.state_dir), self._settings.qemu.bridge
                found.append(Placement(VmId(parent.name), self._host, store, bridge, room, limit, children_at_once()))
        return sorted(found, key=lambda placement: -placement.room)

    # Parents

    def start_parent(
        self, image: Path, name: str, service: str, *, timeout: timedelta, memory_mib: int | None = None
    ) -> VmId:
        """
        Boot an image directory until its agent waits at the fork point; one that runs already is waited for.

        Raises:
            NotFound: the image or the network namespace is not there.
            PermanentError: a parent of that name is frozen already, or belongs to another service.
            NotReady: the agent was not there in time; the parent is gone, the console's last lines are in the message.
        """
        with translated(f"starting parent {name}"):
            return self._nursery.start(image, name, service, timeout=timeout, memory_mib=memory_mib)

    def explain_slowness(self) -> str:
        """Say in one line why parents and children run under emulation here; empty when they do not."""
        return explain_slowness(self._settings.qemu.accelerator, self._settings.run_dir)

    def freeze(self, parent: VmId, *, timeout: timedelta) -> FrozenParent:
        """Quiesce and freeze the parent, or prove that the frozen one is whole and fits this host; see the contract."""
        with translated(f"parent {parent}"):
            frozen = self._parents.find(parent)
            if frozen is None:
                frozen = self._nursery.freeze(parent, timeout=timeout)
            else:
                self._parents.check(frozen)
            self._launcher.check_machine(frozen)
            return self._as_parent(frozen, self._count_children(parent))

    def find_differences(self, parent: VmId) -> tuple[str, ...]:
        """Why this host cannot fork the frozen parent (another QEMU, processor, accelerator), a sentence each."""
        with translated(f"parent {parent}"):
            return self._launcher.find_differences(self._parents.get(parent))

    def verify(self, parent: VmId) -> None:
        """Read every byte of a frozen parent; raises VerificationFailed naming the file that is broken."""
        with translated(f"parent {parent}"):
            self._parents.verify(self._parents.get(parent))

    def remove_parent(self, parent: VmId, *, timeout: timedelta) -> bool:
        """
        Remove a parent, frozen or not, and say whether there was one. Absent is success.

        Raises:
            InvalidRequest: that is no name of a parent.
            PermanentError: it has children.
        """
        with translated(f"parent {parent}"):
            return self._nursery.remove(
                parent, self._children.list_records, cool=lambda: self.cool(parent), timeout=timeout
            )

    # Children

    def fork(self, spec: ForkSpec, *, timeout: timedelta) -> Vm:
        """Make a running child, its NIC down; see the contract."""
        deadline, steps = Deadline(timeout), Steps()
        parent = spec.placement.parent
        with translated(f"child {spec.name}"), self._parents.held(parent, timeout=deadline.left, shared=True):
            frozen = self._parents.get(parent)
            self._parents.check(frozen)
            self._launcher.check_host(frozen)
            steps.done("check")
            record = self._children.allot(spec.name, frozen, spec.stamp)
            steps.done("allot")
            with self._children.held(spec.name, timeout=deadline.left):
                vm = self._children.make_vm(record)
                if vm.power is Power.RUNNING and self._children.is_forked(spec.name):
                    return vm
                with self._rolled_back(spec.name):
                    self._children.clear(spec.name, timeout=deadline.left)
                    self._bring_up(record, frozen, deadline, steps)
            logger.debug("%s: forked from %s: %s", spec.name, parent, steps)
            return self._children.make_vm(record)

    def identify(self, vm: VmId, identity: Identity, *, timeout: timedelta) -> IdentityReport:
        """Give the child its identity, then its network; see the contract."""
        deadline, steps = Deadline(timeout), Steps()
        record = self._get_child(vm)
        check_identity(
            identity,
            name=record.name,
            fork_id=record.stamp.fork_id,
            mac=make_mac(record.address),
            address=record.address,
        )
        with translated(f"child {vm}"), self._children.held(vm, timeout=deadline.left):
            told = read_record(self._children.path(vm) / IDENTIFIED)
            if told is not None:
                return wire.report_from_wire(told)
            instance = self._get_instance(record)
            with explained(instance), GuestChannel(instance.agent, timeout=deadline.left) as guest:
                guest.wait_for_state("waiting", "quiesced", "identified")
                steps.done("hello")
                report = _prove(guest, identity)
                steps.done("identify")
                with Qmp(instance.qmp, timeout=deadline.left) as qmp:
                    self._connect(instance, guest, qmp, deadline)
                steps.done("network")
            self._children.mark(vm, IDENTIFIED, wire.report_to_wire(report))
        logger.debug("%s: identified: %s", vm, steps)
        return report

    def restamp(self, vm: VmId, stamp: Stamp) -> Vm:
        """Replace the stamp; fork id and service must not change."""
        with translated(f"child {vm}"), self._children.held(vm, timeout=_ROLLBACK):
            return self._children.make_vm(self._children.restamp(self._get_child(vm), stamp))

    def destroy(self, vm: VmId, *, timeout: timedelta) -> None:
        """Remove the VM and all it holds, half-made or whole. Absent is success."""
        deadline = Deadline(timeout)
        with translated(f"destroying child {vm}"), ExitStack() as stack:
            try:
                stack.enter_context(self._children.held(vm, timeout=deadline.left))
            except NotFound:
                return
            self._children.remove(vm, timeout=deadline.left)

    # Processes started ahead, and what crashes left

    def warm(self, parent: VmId, count: int, *, timeout: timedelta = timedelta(seconds=30)) -> int:
        """Have *count* QEMU processes wait for forks of the parent; say how many there are now."""
        deadline = Deadline(timeout)
        with translated(f"warming parent {parent}"), self._parents.held(parent, timeout=deadline.left, shared=True):
            frozen = self._parents.get(parent)
            self._parents.check(frozen)
            self._launcher.check_host(frozen)
            with self._standbys.counted(timeout=deadline.left):
                self._standbys.remove(lambda instance: self._is_stale(instance, frozen))
                for _ in range(count - len(self._standbys.list_waiting(parent))):
                    self._standbys.add(lambda place: self._launcher.start_waiting(place, frozen, timeout=timeout))
                return len(self._standbys.list_waiting(parent))

    def start_ahead(self, parent: VmId, *, timeout: timedelta) -> int:
        """Have as many processes wait for forks of the parent as `qemu.standbys` says."""
        return self.warm(parent, self._settings.qemu.standbys, timeout=timeout)

    def cool(self, parent: VmId | None = None) -> int:
        """End the waiting processes of one parent, or of all; say how many were ended."""
        with translated("ending processes that wait for forks"):
            return self._standbys.remove(lambda instance: parent in {None, instance.parent})

    @translated("looking at this host's VMs")
    def list_strays(self, *, older_than: timedelta) -> list[Stray]:
        """What crashes left that is no VM: half-made directories, sockets and processes without an owner."""
        return find_strays(self._settings, older_than)

    def remove_stray(self, stray: Stray) -> None:
        """Remove one of them. Absent is success."""
        with translated(f"removing {stray.path}"):
            remove_stray(stray)

    # Steps

    def _bring_up(self, record: Record, frozen: Frozen, deadline: Deadline, steps: Steps) -> None:
        place = self._children.path(record.name) / MACHINE
        ahead = self._standbys.claim(frozen, place)
        steps.done("claim")
        try:
            if ahead is not None:
                self._restore(ahead, frozen, deadline, steps)
        except Unavailable:
            # It died between the look and the claim: the fork need not fail for that.
            self._children.clear(record.name, timeout=deadline.left)
            ahead = None
        if ahead is None:
            place.mkdir()
            instance = self._launcher.start(place, frozen)
            steps.done("start")
            self._restore(instance, frozen, deadline, steps)
        self._children.mark(record.name, FORKED, {"seconds": dict(steps.seconds)})

    def _restore(self, instance: Instance, frozen: Frozen, deadline: Deadline, steps: Steps) -> None:
        with explained(instance):
            self._launcher.restore(instance, frozen, deadline, steps)

    def _connect(self, instance: Instance, guest: GuestChannel, qmp: Qmp, deadline: Deadline) -> None:
        attach(self._settings.qemu, instance.tap)
        qmp.execute("set_link", {"name": NIC, "up": True}, timeout=deadline.left)
        answer = guest.ask("network")
        if answer.get("ok") is not True:
            qmp.execute("set_link", {"name": NIC, "up": False}, timeout=deadline.left)
            text = f"guest's network did not come up: {answer.get('error', answer)}"
            raise VerificationFailed(text)

    @contextmanager
    def _rolled_back(self, name: str) -> Iterator[None]:
        # A courtesy: whoever is killed here leaves it to the reaper, which knows the child by its stamp.
        try:
            yield
        except BaseException as error:
            try:
                self._children.remove(name, timeout=_ROLLBACK)
            except (OSError, PermanentError) as second:
                text = f"child {name}: {error}; and what was begun could not be removed: {second}"
                raise OutcomeUnknown(text) from error
            raise

    def _get_child(self, vm: VmId) -> Record:
        with translated(f"child {vm}"):
            record = self._children.find(vm)
        if record is None:
            text = f"child {vm} is not there."
            raise NotFound(text)
        return record

    def _get_instance(self, record: Record) -> Instance:
        instance = self._children.instance(record.name)
        if instance is None or not self._children.is_forked(record.name):
            text = f"child {record.name} was never forked to the end. Fork it again, or destroy it."
            raise NotFound(text)
        return instance

    def _is_stale(self, instance: Instance, frozen: Frozen) -> bool:
        current = (instance.parent, instance.fingerprint) == (frozen.name, frozen.fingerprint)
        return get_process(instance) is None or (not current and instance.parent == frozen.name)

    def _count_children(self, parent: str) -> int:
        return sum(1 for record in self._children.list_records() if record.parent == parent)

    def _as_parent(self, frozen: Frozen, children: int) -> FrozenParent:
        return FrozenParent(
            id=VmId(frozen.name),
            name=frozen.name,
            service=frozen.service,
            host=frozen.host,
            frozen_at=frozen.frozen_at,
            memory_bytes=frozen.memory_bytes,
            fingerprint=frozen.fingerprint,
            children=children,
        )


def _prove(guest: GuestChannel, identity: Identity) -> IdentityReport:
    """Have the guest take its identity, and believe it only point by point."""
    return read_report(guest.ask("identify", identity=wire.identity_to_wire(identity)), identity)
