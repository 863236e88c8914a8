"""
What vCenter has, read in one call: VMs with what concerns us of them, hosts and datastores.

Only the few properties that count are asked for, single values of `extraConfig` among them: whole VMs would be a
hundred times as much. The devices of a parent are read apart, and only of one that is forked.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from forkyard.errors import Unavailable
from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.api import Managed, moid, vim, vmodl
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.guestinfo import option_path, read_option
from forkyard.hypervisors.vsphere.readable import REPLACEMENT
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.specs import count_disk_levels, list_adapters
from forkyard.hypervisors.vsphere.vms import VM_PATHS, LastRows, VmRow, make_vm_row

logger = logging.getLogger(__name__)

PAGE = 500
"""Objects in one answer; a larger inventory comes in several."""

_FROZEN = "runtime.instantCloneFrozen"
_HOST_PATHS = (
    *("name", "parent", "runtime.connectionState", "runtime.inMaintenanceMode", "recentTask"),
    *("summary.hardware.memorySize", "summary.hardware.cpuMhz", "summary.hardware.numCpuCores"),
    *("summary.quickStats.overallMemoryUsage", "summary.quickStats.overallCpuUsage"),
)
_ESCAPES = re.compile("%(2f|5c|25)", re.IGNORECASE)
_TASK_PATHS = ("info.descriptionId", "info.state")
_LEAVING = "HostSystem.enterMaintenanceMode"
_DATASTORE_PATHS = (
    *("name", "summary.type", "summary.capacity", "summary.freeSpace", "summary.accessible"),
    *("summary.maintenanceMode", "overallStatus"),
)
_DEVICES = "config.hardware.device"
_PARENT_PATHS = (
    *("name", "config.uuid", "config.instanceUuid", "config.createDate", "config.hardware.memoryMB"),
    *("runtime.powerState", _FROZEN, "runtime.host", "parent", "resourcePool", "datastore"),
    option_path(guestinfo.REQUEST),
)


@dataclass(frozen=True, slots=True)
class HostRow:
    """One ESXi host."""

    id: str
    name: str
    usable: bool
    """Connected, and neither in maintenance nor on its way there."""
    memory_bytes: int
    memory_used: int
    cpu_mhz: int
    cpu_used: int
    cluster: str | None = None
    """vCenter's id of its cluster; None: it stands alone, or its cluster cannot be seen."""


@dataclass(frozen=True, slots=True)
class DatastoreRow:
    """One datastore."""

    id: str
    name: str
    capacity: int
    free: int
    usable: bool
    """Accessible, and not in maintenance."""
    alarm: bool = False
    """
    Whether its status is red. By itself that says little: vCenter's own alarm for a datastore that is 85 % full makes
    it red long before `vsphere.datastore_reserve` is touched. Of vSAN its own health says more.
    """
    vsan: bool = False
    ill: str | None = None
    """What vSAN's own health service says of it while its health is red; None while it is not, or not known."""


@dataclass(frozen=True, slots=True)
class ParentRow:
    """One parent, without its devices."""

    id: str
    name: str
    powered_on: bool
    frozen: bool
    host: str | None
    uuid: str
    created: datetime | None
    memory_bytes: int
    folder: Managed
    pool: Managed
    datastores: tuple[str, ...]
    request: str
    """The last request to its guest: a freeze's id tells when it was."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What a fork needs of a parent's devices, which are a hundred times as much to read as the rest of it."""

    adapters: tuple[Managed, ...]
    disk_levels: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """One look."""

    vms: tuple[VmRow, ...]
    hosts: Mapping[str, HostRow]
    datastores: Mapping[str, DatastoreRow]

    def host_name(self, host: str | None) -> str:
        """The host's name, or its id where it cannot be seen."""
        if host is None:
            return ""
        return self.hosts[host].name if host in self.hosts else host


class InventoryReader:
    """Reads the inventory of one vCenter; keeps one view there for it."""

    def __init__(self, session: Session, key: Callable[[], bytes]) -> None:
        """Read through *session*; whose a VM is was signed with the key that *key* gives."""
        self._session = session
        self._key = key
        self._view: Managed = None
        self._last = LastRows()
        self._odd: set[str] = set()

    def read(self, *, deadline: Deadline | None = None) -> Inventory:
        """Look at everything, in one call (and its pages)."""
        query = vmodl.query.PropertyCollector
        rows = self._collect(
            [
                query.PropertySpec(type=vim.VirtualMachine, pathSet=list(VM_PATHS)),
                query.PropertySpec(type=vim.HostSystem, pathSet=list(_HOST_PATHS)),
                query.PropertySpec(type=vim.Datastore, pathSet=list(_DATASTORE_PATHS)),
                query.PropertySpec(type=vim.Task, pathSet=list(_TASK_PATHS)),
            ],
            deadline,
        )
        by_kind: dict[Any, list[tuple[Managed, dict[str, Any]]]] = {}
        for ref, values in rows:
            by_kind.setdefault(type(ref), []).append((ref, values))
        leaving = {moid(ref) for ref, values in by_kind.get(vim.Task, ()) if _is_leaving(values)}
        hosts = (_host_row(ref, values, leaving) for ref, values in by_kind.get(vim.HostSystem, ()))
        key = self._key()
        vms = (make_vm_row(ref, values, key) for ref, values in by_kind.get(vim.VirtualMachine, ()))
        stores = (_datastore_row(ref, values) for ref, values in by_kind.get(vim.Datastore, ()))
        self._tell_of_odd(by_kind.get(vim.VirtualMachine, ()))
        return Inventory(
            vms=self._last.complete(vms, all_there=True),
            hosts={host.id: host for host in hosts},
            datastores={store.id: store for store in stores},
        )

    def read_vm(self, vm: str, *, deadline: Deadline | None = None) -> VmRow | None:
        """Look at one VM; None when it is not there."""
        rows = self._read_refs([self._session.find(vim.VirtualMachine, vm)], VM_PATHS, deadline)
        return self._last.complete([make_vm_row(*rows[0], self._key())])[0] if rows else None

    def read_value(self, vm: str, key: str, *, deadline: Deadline | None = None) -> str:
        """Read one of a VM's own values; empty when it has none."""
        path = option_path(key)
        rows = self._read_refs([self._session.find(vim.VirtualMachine, vm)], (path,), deadline)
        return read_option(rows[0][1], path) if rows else ""

    def read_parents(self, vms: Iterable[str], *, deadline: Deadline | None = None) -> list[ParentRow]:
        """Look at these parents; what is gone is left out."""
        refs = [self._session.find(vim.VirtualMachine, vm) for vm in vms]
        return [_parent_row(ref, values) for ref, values in self._read_refs(refs, _PARENT_PATHS, deadline)]

    def list_by_attribute(self, keys: Iterable[int], value: str) -> set[str]:
        """The ids of all VMs with this value of one of these custom attributes."""
        query = vmodl.query.PropertyCollector
        wanted = frozenset(keys)
        rows = self._collect([query.PropertySpec(type=vim.VirtualMachine, pathSet=["customValue"])], None)
        return {
            moid(ref)
            for ref, values in rows
            for one in values.get("customValue") or ()
            if one.key in wanted and one.value == value
        }

    def read_devices(self, vm: str, *, deadline: Deadline | None = None) -> Devices | None:
        """Look at a VM's devices; None when it is not there."""
        rows = self._read_refs([self._session.find(vim.VirtualMachine, vm)], (_DEVICES,), deadline)
        if not rows:
            return None
        devices = list(rows[0][1].get(_DEVICES) or ())
        return Devices(tuple(list_adapters(devices)), count_disk_levels(devices))

    def read_mac(self, vm: str, *, deadline: Deadline | None = None) -> str:
        """Read the MAC of a VM's first network adapter; empty when it has none."""
        devices = self.read_devices(vm, deadline=deadline)
        return str(devices.adapters[0].macAddress).lower() if devices is not None and devices.adapters else ""

    def find_by_name(self, folder: Managed, name: str, *, deadline: Deadline | None = None) -> VmRow | None:
        """Look at what has this name in a folder; None when nothing has."""
        index = self._session.content.searchIndex
        found = self._session.call(f"{name}: looking for it", lambda: index.FindChild(folder, name), deadline=deadline)
        return self.read_vm(moid(found), deadline=deadline) if found is not None else None

    def find_by_kind(self, kind: Managed, name: str) -> list[Managed]:
        """Everything of this kind and name, wherever it is."""
        query = vmodl.query.PropertyCollector
        content = self._session.content

        def look() -> list[Managed]:
            view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)  # noqa: FBT003 - deep
            try:
                members = query.TraversalSpec(name="members", path="view", skip=False, type=vim.view.ContainerView)
                spec = query.FilterSpec(
                    objectSet=[query.ObjectSpec(obj=view, skip=True, selectSet=[members])],
                    propSet=[query.PropertySpec(type=kind, pathSet=["name"])],
                )
                rows = _read_pages(content.propertyCollector, spec)
            finally:
                view.DestroyView()
            return [ref for ref, values in rows if name in {values.get("name"), show_name(values.get("name"))}]

        return self._session.call(f"looking for {name}", look)

    def _tell_of_odd(self, rows: Iterable[tuple[Managed, Mapping[str, Any]]]) -> None:
        for ref, values in rows:
            odd = any(isinstance(value, str) and REPLACEMENT in value for value in values.values())
            if odd and moid(ref) not in self._odd:
                self._odd.add(moid(ref))
                logger.warning(
                    "%s (%s): its name or annotation has characters that XML does not know; they are read as %s",
                    *(values.get("name"), moid(ref), REPLACEMENT),
                )

    def _read_refs(
        self, refs: list[Managed], paths: Iterable[str], deadline: Deadline | None
    ) -> list[tuple[Managed, dict[str, Any]]]:
        if not refs:
            return []
        query = vmodl.query.PropertyCollector
        spec = query.FilterSpec(
            objectSet=[query.ObjectSpec(obj=ref, skip=False) for ref in refs],
            propSet=[query.PropertySpec(type=vim.VirtualMachine, pathSet=list(paths))],
            reportMissingObjectsInResults=True,
        )
        return self._retrieve("reading VMs", spec, deadline)

    def _collect(self, wanted: list[Managed], deadline: Deadline | None) -> list[tuple[Managed, dict[str, Any]]]:
        query = vmodl.query.PropertyCollector
        for again in (True, False):
            view = self._view or self._make_view(deadline)
            # A host on its way into maintenance says so nowhere but in its task.
            tasks = query.TraversalSpec(name="tasks", path="recentTask", skip=False, type=vim.HostSystem)
            members = query.TraversalSpec(
                name="members", path="view", skip=False, type=vim.view.ContainerView, selectSet=[tasks]
            )
            spec = query.FilterSpec(
                objectSet=[query.ObjectSpec(obj=view, skip=True, selectSet=[members])],
                propSet=wanted,
                reportMissingObjectsInResults=True,
            )
            rows = self._retrieve("reading the inventory", spec, deadline)
            if rows or not again:
                return rows
            # A view belongs to a session: with the session it was lost, and gives nothing.
            self._view = None
        return []

    def _make_view(self, deadline: Deadline | None) -> Managed:
        content = self._session.content
        kinds = [vim.VirtualMachine, vim.HostSystem, vim.Datastore]
        self._view = self._session.call(
            "making a view of the inventory",
            lambda: content.viewManager.CreateContainerView(content.rootFolder, kinds, True),  # noqa: FBT003 - deep
            deadline=deadline,
        )
        return self._view

    def _retrieve(self, what: str, spec: Managed, deadline: Deadline | None) -> list[tuple[Managed, dict[str, Any]]]:
        collector = self._session.content.propertyCollector
        # All pages are one call: a token is good for one answer in one session, so a repeat begins at the first page.
        return self._session.call(what, lambda: _read_pages(collector, spec), deadline=deadline)


def _read_pages(collector: Managed, spec: Managed) -> list[tuple[Managed, dict[str, Any]]]:
    options = vmodl.query.PropertyCollector.RetrieveOptions(maxObjects=PAGE)
    rows: list[tuple[Managed, dict[str, Any]]] = []
    page = collector.RetrievePropertiesEx([spec], options)
    while page is not None:
        rows += [(one.obj, {str(prop.name): prop.val for prop in one.propSet}) for one in page.objects]
        if not page.token:
            break
        try:
            page = collector.ContinueRetrievePropertiesEx(page.token)
        except vmodl.fault.InvalidArgument as fault:
            text = "vCenter does not know the next page any more: another thread has logged in since the last one"
            raise Unavailable(text) from fault
    return rows


def show_name(name: object) -> str:
    """The name as vCenter's client shows it: in its API a slash, a backslash and a percent sign are escaped."""
    return _ESCAPES.sub(lambda found: chr(int(found[1], 16)), str(name or ""))


def _is_leaving(task: Mapping[str, Any]) -> bool:
    return task.get("info.descriptionId") == _LEAVING and task.get("info.state") in {"queued", "running"}


def _host_row(ref: Managed, values: Mapping[str, Any], leaving: Collection[str]) -> HostRow:
    away = values.get("runtime.inMaintenanceMode") or any(
        moid(task) in leaving for task in values.get("recentTask") or ()
    )
    parent = values.get("parent")
    return HostRow(
        id=moid(ref),
        name=str(values.get("name", "")),
        usable=values.get("runtime.connectionState") == "connected" and not away,
        memory_bytes=int(values.get("summary.hardware.memorySize") or 0),
        memory_used=int(values.get("summary.quickStats.overallMemoryUsage") or 0) << 20,
        cpu_mhz=int(values.get("summary.hardware.cpuMhz") or 0) * int(values.get("summary.hardware.numCpuCores") or 0),
        cpu_used=int(values.get("summary.quickStats.overallCpuUsage") or 0),
        cluster=moid(parent) if isinstance(parent, vim.ClusterComputeResource) else None,
    )


def _datastore_row(ref: Managed, values: Mapping[str, Any]) -> DatastoreRow:
    normal = str(values.get("summary.maintenanceMode") or "normal") == "normal"
    return DatastoreRow(
        id=moid(ref),
        name=str(values.get("name", "")),
        capacity=int(values.get("summary.capacity") or 0),
        free=int(values.get("summary.freeSpace") or 0),
        usable=bool(values.get("summary.accessible")) and normal,
        alarm=values.get("overallStatus") == "red",
        vsan=str(values.get("summary.type") or "").lower() == "vsan",
    )


def _parent_row(ref: Managed, values: Mapping[str, Any]) -> ParentRow:
    host = values.get("runtime.host")
    return ParentRow(
        id=moid(ref),
        name=str(values.get("name", "")),
        powered_on=values.get("runtime.powerState") == "poweredOn",
        frozen=bool(values.get(_FROZEN)),
        host=moid(host) if host is not None else None,
        uuid=str(values.get("config.instanceUuid") or values.get("config.uuid") or moid(ref)),
        created=values.get("config.createDate"),
        memory_bytes=int(values.get("config.hardware.memoryMB") or 0) << 20,
        folder=values.get("parent"),
        pool=values.get("resourcePool"),
        datastores=tuple(moid(store) for store in values.get("datastore") or ()),
        request=read_option(values, option_path(guestinfo.REQUEST)),
    )
