"""
Which VMs are a service's parents: by the rule in `services.*.parent`, one on each host.

    game-parent-*              a pattern of names, as in a shell
    folder:/dc/vm/parents      every VM right in this folder
    attribute:forkyard=game    every VM with this value of a custom attribute

A child of ours is never a parent, whatever it is called.
"""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from forkyard.errors import InvalidRequest, NotFound
from forkyard.hypervisors.vsphere.api import Managed, moid, vim
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.inventory import Devices, Inventory, InventoryReader, ParentRow, show_name
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.vms import VmRow

logger = logging.getLogger(__name__)

FRESH = 60.0
"""Seconds for which a parent and its devices are believed: they change only by somebody's hand."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One of the three kinds of rules."""

    kind: str
    """`name`, `folder` or `attribute`."""
    what: str
    value: str = ""


def parse_rule(text: str) -> Rule:
    """The rule in a service's `parent`; raises InvalidRequest for one that is none."""
    kind, colon, rest = text.partition(":")
    if not colon:
        return Rule("name", text)
    attribute, equals, value = rest.partition("=")
    if kind == "folder" and rest:
        return Rule("folder", rest)
    if kind == "attribute" and attribute and equals:
        return Rule("attribute", attribute, value)
    message = f'parent = "{text}": a pattern of names is wanted, or folder:PATH, or attribute:NAME=VALUE.'
    raise InvalidRequest(message)


class ParentFinder:
    """Finds parents and remembers for a moment what is needed of them."""

    def __init__(self, session: Session, reader: InventoryReader) -> None:
        """Look through *session* and *reader*."""
        self._session = session
        self._reader = reader
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, ParentRow]] = {}
        self._devices: dict[str, tuple[float, Devices]] = {}
        self._turns: dict[str, threading.Lock] = {}

    def list_parents(self, rule: str, inventory: Inventory, *, deadline: Deadline | None = None) -> list[ParentRow]:
        """Every parent by *rule*, frozen or not, by name; as *inventory* has it, the rest as of a moment ago."""
        rows = [row for row in self.list_candidates(rule, inventory) if row.lost is None]
        with self._lock:
            now = time.monotonic()
            known = {row.id: self._known[row.id] for row in rows if row.id in self._known}
        fresh = {
            row.id: replace(parent, powered_on=row.powered_on, host=row.host)
            for row in rows
            for seen, parent in [known.get(row.id, (0.0, None))]
            # One that was frozen since, by whomever, is read anew: its disks and its last request are others.
            if parent is not None and now - seen < FRESH and parent.frozen == row.frozen
        }
        missing = self._reader.read_parents([row.id for row in rows if row.id not in fresh], deadline=deadline)
        self._remember(missing)
        return sorted([*fresh.values(), *missing], key=lambda parent: parent.name)

    def list_candidates(self, text: str, inventory: Inventory) -> list[VmRow]:
        """The VMs that are parents by this rule, and those that vCenter cannot read now."""
        rule = parse_rule(text)
        own = [vm for vm in inventory.vms if vm.mark is None]
        if rule.kind == "name":
            return [vm for vm in own if any(fnmatchcase(name, rule.what) for name in {vm.name, show_name(vm.name)})]
        members = self._in_folder(rule.what) if rule.kind == "folder" else self._with_attribute(rule)
        return [vm for vm in own if vm.id in members]

    def get(self, parent: str, *, deadline: Deadline | None = None) -> ParentRow:
        """
        The VM of that id, as it was a moment ago at the most.

        Raises:
            NotFound: no such VM.
        """
        with self._lock:
            seen, known = self._known.get(parent, (0.0, None))
            if known is not None and time.monotonic() - seen < FRESH:
                return known
            # Under the lock: of a hundred forks that begin together one asks, and the others wait for its answer.
            found = self._reader.read_parents([parent], deadline=deadline)
            if not found:
                raise _gone(parent)
            self._known[parent] = (time.monotonic(), found[0])
            return found[0]

    def devices(self, parent: str, *, deadline: Deadline | None = None) -> Devices:
        """
        The devices of the VM of that id, as they were a moment ago at the most.

        Raises:
            NotFound: no such VM.
        """
        with self._lock:
            turn = self._turns.setdefault(parent, threading.Lock())
        # Forks of one parent wait for the one that asks; those of others do not.
        with turn:
            seen, known = self._devices.get(parent, (0.0, None))
            if known is not None and time.monotonic() - seen < FRESH:
                return known
            found = self._reader.read_devices(parent, deadline=deadline)
            if found is None:
                raise _gone(parent)
            self._devices[parent] = (time.monotonic(), found)
            return found

    def forget(self, parent: str) -> None:
        """Look anew the next time."""
        with self._lock:
            self._known.pop(parent, None)
            self._devices.pop(parent, None)

    def _remember(self, parents: Iterable[ParentRow]) -> None:
        with self._lock:
            for parent in parents:
                self._known[parent.id] = (time.monotonic(), parent)
                self._devices.pop(parent.id, None)

    def _in_folder(self, path: str) -> set[str]:
        index = self._session.content.searchIndex

        def look() -> set[str]:
            folder = index.FindByInventoryPath(path.strip("/"))
            if not isinstance(folder, vim.Folder):
                text = f"{path}: there is no such folder at vCenter. Mend services.*.parent in forkyard.toml."
                raise NotFound(text)
            return {moid(child) for child in folder.childEntity if isinstance(child, vim.VirtualMachine)}

        return self._session.call(f"folder {path}", look)

    def _with_attribute(self, rule: Rule) -> set[str]:
        manager = self._session.content.customFieldsManager
        keys = self._session.call("custom attributes", lambda: _keys_of(manager, rule.what))
        if not keys:
            text = f"{rule.what}: vCenter has no custom attribute of this name. Mend services.*.parent."
            raise NotFound(text)
        return self._reader.list_by_attribute(keys, rule.value)


def leave_out_powered_off(rows: list[ParentRow]) -> list[ParentRow]:
    """The parents of a rule that run; all when none does, so that freezing them says so."""
    for row in rows:
        if not row.powered_on:
            logger.warning("%s: it does not run and is left out. Start it, and freeze the rule again.", row.name)
    return [row for row in rows if row.powered_on] or rows


def _gone(parent: str) -> NotFound:
    return NotFound(f"parent {parent}: there is no such VM any more. Look at `forkyard parent list`, and scale again.")


def _keys_of(manager: Managed, name: str) -> set[int]:
    return {int(field.key) for field in manager.field or () if field.name == name}
