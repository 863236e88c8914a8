"""
Make one child by Instant Clone: check, clone, wait, and find out what an earlier attempt has made.

Whether it really came up without network is looked at; one that did not is cut off and refused.

vCenter itself keeps names apart: two that make the same child at once get one child and one `DuplicateName`, and the
second looks whether what is there is what it wanted.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from forkyard.errors import (
    ForkyardError,
    NotFound,
    NotReady,
    OutcomeUnknown,
    PermanentError,
    Unavailable,
    Unsupported,
    VerificationFailed,
)
from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.adapters import OwnAdapters, find_connected, mac_of
from forkyard.hypervisors.vsphere.addresses import AddressBook
from forkyard.hypervisors.vsphere.api import Managed, moid, vim
from forkyard.hypervisors.vsphere.customizing import POWER, make_guest
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.faults import DuplicateName, translate_fault
from forkyard.hypervisors.vsphere.guestinfo import Mark
from forkyard.hypervisors.vsphere.inventory import Devices, InventoryReader, ParentRow
from forkyard.hypervisors.vsphere.places import Places
from forkyard.hypervisors.vsphere.placing import MOST_LEVELS
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.specs import make_clone_spec
from forkyard.hypervisors.vsphere.stream import UpdateStream, Values, Watch
from forkyard.hypervisors.vsphere.vms import VmRow, check_readable
from forkyard.model import ForkSpec
from forkyard.settings import VsphereSettings
from forkyard.waiting import wait_for

CHECKED = 30.0
"""Seconds for which a parent that passed the preflight is believed: it asks about the parent, not about the child."""
_BEING_MADE = timedelta(seconds=5)
"""How long a VM of the right name that does not run may be one that vCenter is just making."""


@dataclass(frozen=True, slots=True)
class Made:
    """A child that runs."""

    id: str
    mark: Mark
    mac: str
    identified: bool = False
    found: bool = False
    """An earlier attempt made it, and may have asked its guest."""


class Cloner:
    """Makes children. Safe to use from several threads."""

    def __init__(
        self,
        session: Session,
        stream: UpdateStream,
        reader: InventoryReader,
        addresses: AddressBook,
        places: Places,
        settings: VsphereSettings,
        key: Callable[[], bytes],
    ) -> None:
        """Work through these; marks are signed with the key that *key* gives."""
        self._key = key
        self._session, self._stream, self._reader = session, stream, reader
        self._addresses, self._settings = addresses, settings
        self._places = places
        self._slots: dict[str, threading.BoundedSemaphore] = {}
        self._checked: dict[str, float] = {}
        self._checks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def clone(self, spec: ForkSpec, parent: ParentRow, devices: Devices, taken: set[str], deadline: Deadline) -> Made:
        """
        Make the child, or find the one that an earlier attempt made.

        Raises:
            NotFound: the parent is gone or not frozen.
            CapacityExhausted: no address, memory or disk; nothing was made.
            PermanentError: the name belongs to somebody else.
            VerificationFailed: it was made, and came up connected; it is disconnected, and must be destroyed.
            OutcomeUnknown: begun, and not known to be finished.
        """
        self._check_state(parent, devices)
        with self._slot(parent, deadline), self._stream.watching() as watch:
            address = self._addresses.claim(taken, owner=spec.stamp.fork_id)
            mark = Mark(spec.stamp, parent.id, address, datetime.now(UTC))
            try:
                child = self._make(watch, spec, parent, devices, mark, deadline)
            except DuplicateName:
                self._addresses.release(address, owner=spec.stamp.fork_id)
                return self._find_made(spec, parent, devices, deadline)
            except OutcomeUnknown:
                # The VM may be there under this address: the claim stays until it is seen, or forgotten.
                raise
            except ForkyardError:
                self._addresses.release(address, owner=spec.stamp.fork_id)
                raise
            # From here on the VM is there under this address: its claim stays, whatever fails.
            adapters = OwnAdapters(self._reader, moid(child), len(devices.adapters))
            return Made(moid(child), mark, self._wait_for_start(watch, child, spec.name, adapters, deadline))

    def _make(
        self, watch: Watch, spec: ForkSpec, parent: ParentRow, devices: Devices, mark: Mark, deadline: Deadline
    ) -> Managed:
        values = {
            guestinfo.STAMP: guestinfo.render_mark(mark, self._key()),
            # A child inherits its parent's values: what was said to the parent is not said to it.
            guestinfo.REQUEST: "",
            guestinfo.ANSWER: "",
            guestinfo.IDENTIFIED: "",
            guestinfo.REPORT: "",
        }
        location = self._places.location_of(parent)
        bios_uuid = guestinfo.make_bios_uuid(spec.stamp.fork_id)
        clone = make_clone_spec(spec.name, bios_uuid, values, devices.adapters, location)
        source = self._session.find(vim.VirtualMachine, parent.id)
        what = f"{spec.name}: Instant Clone of {parent.name} on {spec.placement.host}"
        self._preflight(watch, source, parent, clone, f"{what}: preflight", deadline)
        task = self._session.call(what, lambda: source.InstantClone_Task(clone), changes=True, deadline=deadline)
        watch.add(task)
        child = watch.wait_for_task(task, what=what, deadline=deadline)
        return self._session.find(vim.VirtualMachine, moid(child))

    def _wait_for_start(self, watch: Watch, vm: Managed, name: str, adapters: OwnAdapters, deadline: Deadline) -> str:
        """Wait until the child runs, and see that its cables are out; returns its MAC."""
        watch.add(vm)

        def look() -> Values | None:
            values = watch.values(vm)
            return values if values.get(POWER) == "poweredOn" else None

        values = watch.wait(look, what=f"{name}: starting", deadline=deadline)
        own = adapters.read(values, deadline)
        if connected := find_connected(own):
            raise self._cut_off(name, adapters, connected)
        return mac_of(own)

    def _cut_off(self, name: str, adapters: OwnAdapters, connected: list[str]) -> VerificationFailed:
        """Pull the cables of a guest that still believes to be its parent; returns what to raise."""
        done = make_guest(self._session, self._stream, adapters.vm, name).cut_off(adapters)
        text = (
            f"{name}: it came up with {', '.join(connected)} connected, although vCenter was asked for the opposite, "
            f"and has no identity of its own yet. {done} Fork another."
        )
        return VerificationFailed(text)

    def _find_made(self, spec: ForkSpec, parent: ParentRow, devices: Devices, deadline: Deadline) -> Made:
        folder = self._places.location_of(parent).folder
        patience = Deadline(min(_BEING_MADE, deadline.left))

        def look() -> VmRow | None:
            row = self._reader.find_by_name(folder, spec.name, deadline=deadline)
            if row is not None and row.bios_uuid and not _is_same(row, spec):
                owner = f"fork {row.mark.stamp.fork_id} of {row.mark.stamp.service}" if row.mark else "somebody else"
                text = f"{spec.name}: the name belongs to {owner} at vCenter ({row.id}). Rename or remove that by hand."
                raise PermanentError(text)
            if row is not None:
                check_readable(row)
            return row if row is not None and row.powered_on and row.mark is not None else None

        try:
            row = wait_for(look, what=f"{spec.name}: its VM, which is there, does not run", timeout=patience.left)
        except NotReady as error:
            text = f"{error}. `forkyard reap` removes it once nobody works on it."
            raise NotReady(text) from error
        assert row.mark is not None  # noqa: S101 - looked at above
        if row.mac is not None:
            return Made(row.id, row.mark, row.mac, identified=True, found=True)
        adapters = OwnAdapters(self._reader, row.id, len(devices.adapters))
        own = adapters.read({}, deadline)
        if connected := find_connected(own):
            # Who is at work on it connects it and calls it identified in one change, perhaps since the look above.
            again = self._reader.read_vm(row.id, deadline=deadline)
            if again is None or again.mac is None:
                raise self._cut_off(spec.name, adapters, connected)
            return Made(row.id, row.mark, again.mac, identified=True, found=True)
        return Made(row.id, row.mark, mac_of(own), found=True)

    def _check_state(self, parent: ParentRow, devices: Devices) -> None:
        if not parent.powered_on or not (parent.frozen or self._settings.fork_running_parents):
            state = "runs and is not frozen" if parent.powered_on else "does not run"
            text = (
                f"parent {parent.name} {state}. Freeze it with `forkyard parent freeze`, "
                f"or set vsphere.fork_running_parents."
            )
            raise NotFound(text)
        if not devices.adapters:
            text = f"{parent.name}: it has no network adapter, and a child without one serves nobody. Add one."
            raise PermanentError(text)
        if not parent.frozen and devices.disk_levels >= MOST_LEVELS:
            text = (
                f"parent {parent.name}: its disk has {devices.disk_levels} levels, and vSphere allows {MOST_LEVELS}. "
                f"Freeze it: forks of a frozen parent add none."
            )
            raise PermanentError(text)

    def _preflight(
        self, watch: Watch, source: Managed, parent: ParentRow, clone: Managed, what: str, deadline: Deadline
    ) -> None:
        """Ask whether it would work, once for all forks of a parent that begin within a while."""
        with self._lock:
            lock = self._checks.setdefault(parent.id, threading.Lock())
        with lock:
            if time.monotonic() - self._checked.get(parent.id, -CHECKED) < CHECKED:
                return
            checker = self._session.content.vmProvisioningChecker
            if checker is not None:
                try:
                    task = self._session.call(
                        what, lambda: checker.CheckInstantClone_Task(source, clone, None), deadline=deadline
                    )
                except Unsupported:
                    task = None
                if task is not None:
                    watch.add(task)
                    _judge(watch.wait_for_task(task, what=what, deadline=deadline), what)
            self._checked[parent.id] = time.monotonic()

    @contextmanager
    def _slot(self, parent: ParentRow, deadline: Deadline) -> Iterator[None]:
        """Hold one of the parent's places; more forks at once only wait inside of vCenter, where nobody sees it."""
        with self._lock:
            number = self._settings.forks_per_parent
            slots = self._slots.setdefault(parent.id, threading.BoundedSemaphore(number))
        if not slots.acquire(timeout=deadline.left.total_seconds()):
            text = (
                f"parent {parent.name}: {self._settings.forks_per_parent} forks are in flight, and none ended in time. "
                f"Look at its tasks in vCenter."
            )
            raise Unavailable(text)
        try:
            yield
        finally:
            slots.release()


def _is_same(row: VmRow, spec: ForkSpec) -> bool:
    if row.bios_uuid.lower() != guestinfo.make_bios_uuid(spec.stamp.fork_id):
        return False
    stamp = row.mark.stamp if row.mark is not None else None
    return stamp is None or (stamp.fork_id, stamp.service) == (spec.stamp.fork_id, spec.stamp.service)


def _judge(results: Managed, what: str) -> None:
    for result in results or ():
        for fault in result.error or ():
            # A name that is taken is looked into by who clones.
            if not isinstance(fault, vim.fault.DuplicateName):
                raise translate_fault(fault, what)
