"""
Children by plain pyVmomi, as its own examples do it: what the bench `vsphere-1000` takes for the bare lower bound.

The same changes at vCenter as a scale makes (Instant Clone, the identity, the cable, the kept stamp), by as many
threads, each waiting for its tasks with the library's own `WaitForTask`. No plan, no proof, no preflight, nobody
looks whether the children serve, and nothing is repeated.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from threading import local
from typing import Any

import pyVim.task

from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.api import Managed, vim, vmodl
from forkyard.hypervisors.vsphere.guestinfo import Mark, option_path
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.specs import Location, list_adapters, make_change, make_clone_spec
from forkyard.keys import load_fleet_key
from forkyard.model import Placement, Power, Role, Stamp, Vm, VmId
from forkyard.names import make_child_name, make_fork_id, new_request_id
from forkyard.settings import Settings
from forkyard.waiting import wait_for
from forkyard.wire import identity_to_wire
from tasks.children import make_bare_identity

_PATIENCE = timedelta(minutes=5)
_POLL = timedelta(seconds=0.05)

_task: Any = pyVim.task


class PlainMaker:
    """Makes children one call after the other, in any number of threads."""

    def __init__(self, settings: Settings, service: str, threads: int) -> None:
        """Log in once, with a connection for each thread, as the driver does."""
        self._settings, self._service, self._request = settings, service, new_request_id()
        self._session = Session(settings.vsphere)
        self._key = load_fleet_key(settings)
        self._content = self._session.content
        self._threads = threads
        self._own = local()
        self._parents: dict[str, tuple[Managed, list[Managed]]] = {}

    def close(self) -> None:
        """Log out."""
        self._session.close()

    def make(self, number: int, places: Sequence[Placement]) -> float:
        """Make so many children, spread over the places in turn; returns the seconds."""
        for place in places:
            parent = self._session.find(vim.VirtualMachine, place.parent)
            self._parents[place.parent] = (parent, list_adapters(parent.config.hardware.device))
        begun = time.monotonic()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="plain") as pool:
            for done in [pool.submit(self._make_one, n, places[n % len(places)]) for n in range(1, number + 1)]:
                done.result()
        return time.monotonic() - begun

    def _make_one(self, number: int, place: Placement) -> None:
        name = make_child_name(self._service, self._request, number)
        stamp = Stamp(self._service, make_fork_id(self._request, name), self._request, datetime.now(UTC) + _PATIENCE)
        address = str(ip_address(self._settings.vsphere.first_address) + number)
        mark = Mark(stamp, place.parent, address, datetime.now(UTC))
        parent, adapters = self._parents[place.parent]
        values = {guestinfo.STAMP: guestinfo.render_mark(mark, self._key), guestinfo.REQUEST: "", guestinfo.ANSWER: ""}
        bios_uuid = guestinfo.make_bios_uuid(stamp.fork_id)
        folder = Location(folder=parent.parent)
        child = self._finish(parent.InstantClone_Task(make_clone_spec(name, bios_uuid, values, adapters, folder)))
        (own,) = list_adapters(self._read(child, "config.hardware.device"))
        vm = Vm(
            id=VmId(child._moId),  # noqa: SLF001 - pyVmomi has no public word for it
            name=name,
            role=Role.CHILD,
            power=Power.RUNNING,
            stamp=stamp,
            parent=place.parent,
            host=place.host,
            address=address,
            mac=own.macAddress,
            created=mark.created,
        )
        identity = identity_to_wire(make_bare_identity(self._settings, vm))
        self._ask(child, guestinfo.render_request(f"{name}-1", "identify", identity=identity), f"{name}-1", [])
        self._ask(child, guestinfo.render_request(f"{name}-2", "network"), f"{name}-2", [own])
        kept = guestinfo.render_mark(replace(mark, stamp=replace(stamp, expires=None)), self._key)
        self._finish(child.ReconfigVM_Task(make_change({guestinfo.STAMP: kept})))

    def _ask(self, child: Managed, request: str, request_id: str, adapters: list[Managed]) -> None:
        change = make_change({guestinfo.REQUEST: request}, adapters=adapters, connected=bool(adapters))
        self._finish(child.ReconfigVM_Task(change))

        def look() -> bool | None:
            answer = self._read(child, option_path(guestinfo.ANSWER))
            return guestinfo.parse_answer(str(getattr(answer, "value", "") or ""), request_id) is not None or None

        wait_for(look, what=f"{request_id}: the guest's answer", timeout=_PATIENCE, interval=_POLL, slowest=_POLL)

    def _finish(self, task: Managed) -> Managed:
        _task.WaitForTask(task, pc=self._collector())
        return task.info.result

    def _collector(self) -> Managed:
        """One for each thread: the session's own would give each thread the others' updates."""
        if not hasattr(self._own, "collector"):
            self._own.collector = self._content.propertyCollector.CreatePropertyCollector()
        return self._own.collector

    def _read(self, managed: Managed, path: str) -> Any:  # noqa: ANN401 - whatever the property holds
        query = vmodl.query.PropertyCollector
        spec = query.FilterSpec(
            objectSet=[query.ObjectSpec(obj=managed)],
            propSet=[query.PropertySpec(type=type(managed), pathSet=[path])],
        )
        (found,) = self._content.propertyCollector.RetrieveContents([spec])
        return found.propSet[0].val if found.propSet else None
