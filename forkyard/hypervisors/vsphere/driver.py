"""
The vSphere driver: Instant Clone through vCenter, one frozen parent on each host.

It keeps no state that counts: what is there stands at vCenter, on the VMs themselves, so any number of processes may
use it at once and any of them may be killed at any moment. What it remembers only saves it from asking twice.
"""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from forkyard import wire
from forkyard.errors import InvalidRequest, NotFound, PermanentError, VerificationFailed
from forkyard.hypervisors.proof import check_identity
from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.adapters import ADAPTER, OwnAdapters
from forkyard.hypervisors.vsphere.addresses import AddressBook
from forkyard.hypervisors.vsphere.api import moid, vim
from forkyard.hypervisors.vsphere.cloning import Cloner
from forkyard.hypervisors.vsphere.customizing import ANSWER, POWER, make_guest
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.freezing import FROZEN, freeze_parent, frozen_at
from forkyard.hypervisors.vsphere.guestinfo import Mark
from forkyard.hypervisors.vsphere.inventory import Inventory, InventoryReader, ParentRow
from forkyard.hypervisors.vsphere.parents import ParentFinder, leave_out_powered_off
from forkyard.hypervisors.vsphere.places import Places
from forkyard.hypervisors.vsphere.placing import make_placements
from forkyard.hypervisors.vsphere.removing import carry_out, remove_vm
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.specs import make_change
from forkyard.hypervisors.vsphere.stream import UpdateStream
from forkyard.hypervisors.vsphere.taken import TakenAddresses
from forkyard.hypervisors.vsphere.tools import HOST_NAME, NETWORK, GuestTools
from forkyard.hypervisors.vsphere.vms import VmRow, check_readable
from forkyard.hypervisors.vsphere.vsan import VsanHealth
from forkyard.keys import load_fleet_key
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
from forkyard.settings import Settings

logger = logging.getLogger(__name__)

LOOK_SHARED = 1.0
"""Seconds for which one look at the inventory serves the calls that one observation makes."""
_TAKEN_KNOWN = 300.0
"""Seconds for which the addresses of the VMs seen are believed; newer ones are claimed on this machine."""
_RESTAMP = timedelta(seconds=20)
_FREEZERS = 16


class VsphereHypervisor:
    """A `forkyard.hypervisors.Hypervisor` behind one vCenter."""

    name = "vsphere"

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing is sent before the first call."""
        self._settings = settings
        self._vsphere = settings.vsphere
        self.session = Session(settings.vsphere)
        by_tools = (HOST_NAME, NETWORK) if settings.vsphere.customize == "tools" else ()
        self._stream = UpdateStream(self.session, (POWER, FROZEN, ANSWER, ADAPTER, *by_tools))
        self._reader = InventoryReader(self.session, self._load_key)
        self._parents = ParentFinder(self.session, self._reader)
        self._addresses = AddressBook(settings.state_dir / "vsphere" / "addresses", settings.vsphere)
        self._places = Places(self.session, self._reader, settings.vsphere)
        rules = [settings.service(name).parent for name in self._own_services(None)]
        self._taken = TakenAddresses(self._addresses, self._parents, self._places, rules)
        self._vsan = VsanHealth(self.session)
        self._cloner = Cloner(
            self.session,
            self._stream,
            self._reader,
            self._addresses,
            self._places,
            settings.vsphere,
            self._load_key,
        )
        self._lock = threading.Lock()
        self._key: bytes | None = None
        self._look_at: float | None = None
        self._inventory: Inventory | None = None
        self._known: dict[str, Vm] = {}
        self._asked: dict[str, float] = {}
        """From when on a child's guest may have been asked to take its identity."""
        self._services: dict[str, str] = {}
        self._rows: dict[str, tuple[Inventory, list[ParentRow]]] = {}

    def close(self) -> None:
        """End the update stream and log out."""
        self._stream.close()
        self.session.close()

    # What is there

    def list_vms(self, service: str | None = None) -> list[Vm]:
        """All children with our stamp, dead ones included, by name."""
        inventory = self._look(younger_than=0)
        self._taken.list_unknown(inventory)
        found = [self._as_vm(row, row.mark, inventory) for row in inventory.vms if row.mark is not None]
        with self._lock:
            self._known.update({vm.id: vm for vm in found})
        return sorted((vm for vm in found if service in {None, vm.stamp.service}), key=lambda vm: vm.name)

    def list_unseen(self) -> list[str]:
        """Names of VMs that may be children, and that vCenter cannot read now; see `forkyard.reap.MayBeBlind`."""
        return [row.name for row in self._taken.list_unknown(self._look(younger_than=LOOK_SHARED))]

    def list_parents(self, service: str | None = None) -> list[FrozenParent]:
        """All frozen parents, by name."""
        inventory = self._look(younger_than=LOOK_SHARED)
        return [
            self._as_parent(parent, name, inventory)
            for name in self._own_services(service)
            for parent in self._list_rows(name, inventory)
            if parent.powered_on and (parent.frozen or self._vsphere.fork_running_parents)
        ]

    def placements(self, service: str) -> list[Placement]:
        """Room per parent of the service, most first."""
        inventory = self._look(younger_than=LOOK_SHARED)
        free = self._taken.count_free(inventory)
        parents = [row for name in self._own_services(service) for row in self._list_rows(name, inventory)]
        levels = {row.id: level for row in parents for level in self._count_levels(row)}
        # One that is gone since is no place any more.
        parents = [row for row in parents if row.id in levels or not self._forks_running(row)]
        store = self._choose_datastore()
        if self._vsphere.vsan_health:
            inventory = self._vsan.mark_ill(inventory, parents, store)
        return make_placements(parents, inventory, self._vsphere, addresses=free, datastore=store, disk_levels=levels)

    def list_hosts(self) -> set[str]:
        """The names of all hosts that children could run on now."""
        return {host.name for host in self._look(younger_than=LOOK_SHARED).hosts.values() if host.usable}

    def describe(self) -> str:
        """What vCenter calls itself."""
        about = self.session.content.about
        return f"{about.fullName}, API {about.apiVersion}"

    # Parents

    def freeze(self, parent: VmId, *, timeout: timedelta) -> FrozenParent:
        """
        Quiesce and freeze the parent; see the contract.

        *parent* is a VM's id or name, or the rule of a service in forkyard.toml: then all its parents are frozen, at
        once, and the first of them is returned.
        """
        deadline = Deadline(timeout)
        inventory = self._look(younger_than=LOOK_SHARED if parent not in self._services else float("inf"))
        service, rows = self._find_parents(parent, inventory, deadline)
        if parent == self._settings.service(service).parent:
            rows = leave_out_powered_off(rows)
        todo = [row for row in rows if not row.frozen and not (row.powered_on and self._vsphere.fork_running_parents)]
        with ThreadPoolExecutor(_FREEZERS, thread_name_prefix="freeze") as pool:
            for done in [pool.submit(self._freeze, row, deadline) for row in todo]:
                done.result()
        if todo:
            self._forget_look()
            rows = [self._parents.get(row.id, deadline=deadline) for row in rows]
        return self._as_parent(rows[0], service, inventory)

    def _freeze(self, row: ParentRow, deadline: Deadline) -> None:
        freeze_parent(self.session, self._stream, self._vsphere, row, deadline)
        self._parents.forget(row.id)

    # Children

    def fork(self, spec: ForkSpec, *, timeout: timedelta) -> Vm:
        """Make a running child, its network disconnected; see the contract."""
        deadline = Deadline(timeout)
        parent = self._parents.get(spec.placement.parent, deadline=deadline)
        try:
            devices = self._parents.devices(parent.id, deadline=deadline)
            taken = self._taken.read(self._look(younger_than=_TAKEN_KNOWN))
            made = self._cloner.clone(spec, parent, devices, taken, deadline)
        except NotFound:
            self._parents.forget(parent.id)
            raise
        finally:
            self._forget_look()
        vm = Vm(
            id=VmId(made.id),
            name=spec.name,
            role=Role.CHILD,
            power=Power.RUNNING,
            stamp=made.mark.stamp,
            parent=VmId(made.mark.parent),
            host=spec.placement.host,
            address=made.mark.address,
            mac=made.mac,
            created=made.mark.created,
            identified=made.identified,
        )
        self._remember(vm, found=made.found)
        return vm

    def identify(self, vm: VmId, identity: Identity, *, timeout: timedelta) -> IdentityReport:
        """Give the child its identity, then its network; see the contract."""
        deadline = Deadline(timeout)
        known = self._get_known(vm, deadline)
        check_identity(
            identity,
            name=known.name,
            fork_id=known.stamp.fork_id,
            mac=known.mac or "",
            address=known.address or "",
        )
        if known.identified:
            return self._read_report(known, deadline)
        number = len(self._parents.devices(known.parent or "", deadline=deadline).adapters)
        guest = make_guest(self.session, self._stream, vm, known.name)
        own = OwnAdapters(self._reader, vm, number)
        record = guestinfo.Record(guestinfo.render_note(known.stamp, known.address or ""), self._load_key())
        if self._vsphere.customize == "tools":
            report = GuestTools(guest, self._vsphere).identify(identity, own, record, deadline)
        else:
            with self._lock:
                since = self._asked.setdefault(vm, time.time())
            report = guest.identify(identity, own, record, since, deadline)
        self._remember(replace(known, identified=True))
        return report

    def restamp(self, vm: VmId, stamp: Stamp) -> Vm:
        """Replace the stamp; fork id and service must not change."""
        deadline = Deadline(_RESTAMP)
        known = self._get_known(vm, deadline)
        if (stamp.fork_id, stamp.service) != (known.stamp.fork_id, known.stamp.service):
            text = f"{known.name}: fork id and service of a stamp never change. Fork another child for that."
            raise PermanentError(text)
        mark = Mark(stamp, known.parent or "", known.address or "", known.created)
        note = guestinfo.render_note(stamp, mark.address)
        change = make_change({guestinfo.STAMP: guestinfo.render_mark(mark, self._load_key())}, annotation=note)
        managed = self.session.find(vim.VirtualMachine, vm)
        carry_out(
            self.session, self._stream, f"{known.name}: stamping", lambda: managed.ReconfigVM_Task(change), deadline
        )
        stamped = replace(known, stamp=stamp)
        self._remember(stamped)
        self._forget_look()
        return stamped

    def destroy(self, vm: VmId, *, timeout: timedelta) -> None:
        """Power the VM off and delete it. Absent is success; a VM that is not ours is refused."""
        deadline = Deadline(timeout)
        row = self._reader.read_vm(vm, deadline=deadline)
        if row is not None:
            check_readable(row)
            mark = row.mark
            if mark is None:
                text = (
                    f"{row.name} ({row.id}) does not carry our stamp and is not touched. Rename or remove it by hand."
                )
                raise PermanentError(text)
            remove_vm(self.session, self._stream, row, deadline)
            if mark.address:
                self._addresses.release(mark.address, owner=mark.stamp.fork_id)
        with self._lock:
            self._known.pop(vm, None)
            self._asked.pop(vm, None)
        self._forget_look()

    # Steps

    def _load_key(self) -> bytes:
        with self._lock:
            if self._key is None:
                self._key = load_fleet_key(self._settings)
            return self._key

    def _read_report(self, known: Vm, deadline: Deadline) -> IdentityReport:
        text = self._reader.read_value(known.id, guestinfo.REPORT, deadline=deadline)
        try:
            return wire.report_from_wire(wire.decode(text.encode()))
        except wire.WireError as error:
            message = f"{known.name}: its report on record cannot be read: {error}. Destroy it and fork another."
            raise VerificationFailed(message) from error

    def _choose_datastore(self) -> str | None:
        """The id of the datastore that the settings name; None: they name none; empty: it is not to be found."""
        try:
            chosen = self._places.find_datastore()
        except (NotFound, InvalidRequest) as error:
            # A fork raises this; whoever looks, or scales in, must not be kept from it.
            logger.warning("no child can be made: %s", error)
            return ""
        return moid(chosen) if chosen is not None else None

    def _count_levels(self, row: ParentRow) -> Iterator[int]:
        if self._forks_running(row):
            with suppress(NotFound):
                yield self._parents.devices(row.id).disk_levels

    def _forks_running(self, row: ParentRow) -> bool:
        return row.powered_on and not row.frozen and self._vsphere.fork_running_parents

    def _find_parents(self, asked: str, inventory: Inventory, deadline: Deadline) -> tuple[str, list[ParentRow]]:
        service = self._services.get(asked)
        if service is not None:
            return service, [self._parents.get(asked, deadline=deadline)]
        for name in self._own_services(None):
            rows = self._list_rows(name, inventory)
            if asked != self._settings.service(name).parent:
                rows = [row for row in rows if asked in {row.id, row.name}]
            if rows:
                return name, rows
        rules = ", ".join(self._settings.service(name).parent for name in self._own_services(None))
        text = (
            f"{asked}: no such parent at {self._vsphere.url}, by the rules in services.*.parent ({rules}). Mend them."
        )
        raise NotFound(text)

    def _own_services(self, service: str | None) -> list[str]:
        services = self._settings.services.items()
        return sorted(name for name, one in services if one.hypervisor == self.name and service in {None, name})

    def _list_rows(self, service: str, inventory: Inventory) -> list[ParentRow]:
        with self._lock:
            known = self._rows.get(service)
        if known is not None and known[0] is inventory:
            return known[1]
        rows = self._parents.list_parents(self._settings.service(service).parent, inventory)
        with self._lock:
            self._services.update({row.id: service for row in rows})
            self._rows[service] = (inventory, rows)
        return rows

    def _look(self, *, younger_than: float) -> Inventory:
        with self._lock:
            found, at = self._inventory, self._look_at
        if found is not None and at is not None and time.monotonic() - at < younger_than:
            return found
        at = time.monotonic()
        found = self._reader.read()
        with self._lock:
            self._inventory, self._look_at = found, at
        return found

    def _forget_look(self) -> None:
        """Somebody changed something: the next look is a new one."""
        with self._lock:
            self._look_at = None if self._look_at is None else min(self._look_at, time.monotonic() - LOOK_SHARED)

    def _remember(self, vm: Vm, *, found: bool = False) -> None:
        with self._lock:
            self._known[vm.id] = vm
            if found:
                self._asked.setdefault(vm.id, vm.created.timestamp())

    def _get_known(self, vm: str, deadline: Deadline) -> Vm:
        with self._lock:
            known = self._known.get(vm)
        if known is not None and known.mac:
            return known
        row = self._reader.read_vm(vm, deadline=deadline)
        if row is not None:
            check_readable(row)
        if row is None or row.mark is None:
            text = f"child {vm} is not there: somebody removed it. Scale again for as many as are wanted."
            raise NotFound(text)
        known = self._as_vm(row, row.mark, self._look(younger_than=_TAKEN_KNOWN))
        if known.mac is None:
            known = replace(known, mac=self._reader.read_mac(vm, deadline=deadline))
        self._remember(known, found=True)
        return known

    def _as_vm(self, row: VmRow, mark: Mark, inventory: Inventory) -> Vm:
        return Vm(
            id=VmId(row.id),
            name=row.name,
            role=Role.CHILD,
            power=Power.RUNNING if row.powered_on else Power.DEAD,
            stamp=mark.stamp,
            parent=VmId(mark.parent),
            host=inventory.host_name(row.host),
            address=mark.address,
            mac=row.mac,
            created=mark.created,
            identified=row.mac is not None,
        )

    def _as_parent(self, row: ParentRow, service: str, inventory: Inventory) -> FrozenParent:
        return FrozenParent(
            id=VmId(row.id),
            name=row.name,
            service=service,
            host=inventory.host_name(row.host),
            frozen_at=frozen_at(row),
            memory_bytes=row.memory_bytes,
            fingerprint=f"{row.uuid}/{row.request and guestinfo.read_id(row.request)}",
            children=sum(vm.mark is not None and vm.mark.parent == row.id for vm in inventory.vms),
        )
