"""
Children on disk: vms/NAME/{stamp.json, machine/{machine.json,disk.qcow2}, forked.json, identified.json}.

The stamp is there from the child's first moment, and the address is in it: what is allotted is what the
stamps say, so nothing is leaked by a crash. `forked.json` means that the child runs on its own.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from forkyard.errors import CapacityExhausted, PermanentError, Unavailable
from forkyard.hypervisors.qemu import capacity
from forkyard.hypervisors.qemu.instance import Instance, end_instance, get_process, read_instance
from forkyard.hypervisors.qemu.network import choose_address, count_addresses, make_mac
from forkyard.hypervisors.qemu.parents import Frozen
from forkyard.hypervisors.qemu.records import (
    as_record,
    is_current,
    keep_private,
    list_names,
    locked,
    make_directory,
    make_private,
    read_record,
    remove_directory,
    write_record,
)
from forkyard.model import Power, Role, Stamp, Vm, VmId
from forkyard.processes import ProcessRef
from forkyard.settings import Settings

STAMP = "stamp.json"
FORKED = "forked.json"
IDENTIFIED = "identified.json"
MACHINE = "machine"
_LAST = "last.json"
"""The address that was given last."""

_ALLOT = timedelta(seconds=30)
"""Allotting takes milliseconds: who waits longer waits for something broken."""
_SECOND = 1_000_000_000
_PSS_AGE = 10.0
"""Seconds for which a measured PSS is told again: measuring costs the kernel a walk over all pages."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a stamp file says."""

    name: str
    parent: str
    address: str
    created: datetime
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class _Look:
    """A stamp file as it was read."""

    inode: int
    changed: int
    """Nanoseconds since 1970."""
    record: Record | None


class ChildStore:
    """The children below settings.state_dir/vms."""

    def __init__(self, settings: Settings, host: str) -> None:
        """Look at nothing yet."""
        self._settings = settings
        self._host = host
        self._directory = settings.state_dir / "vms"
        self._known: dict[str, _Look] = {}
        self._pss: dict[ProcessRef, tuple[float, int | None]] = {}

    def path(self, name: str) -> Path:
        """Where a child of that name is, or would be."""
        return self._directory / name

    def list_records(self) -> list[Record]:
        """All children with a readable stamp, by name."""
        began, known = time.time_ns(), self._known
        found = {name: _look(self._directory, name, known.get(name)) for name in list_names(self._directory)}
        # For the next look. One that was changed just now may be changed again without showing another time.
        self._known = {n: look for n, look in found.items() if look is not None and _settled(look.changed, began)}
        return [look.record for look in found.values() if look is not None and look.record is not None]

    def find(self, name: str) -> Record | None:
        """The child's record, or None when it is not there."""
        return _read_stamp(self.path(name))

    def instance(self, name: str) -> Instance | None:
        """The child's QEMU process, or None when it never came so far."""
        return read_instance(self._settings.run_dir, self.path(name) / MACHINE)

    def is_forked(self, name: str) -> bool:
        """Whether the fork was finished."""
        return (self.path(name) / FORKED).exists()

    def mark(self, name: str, file: str, record: dict[str, object]) -> None:
        """Put on record how far the child has come; raises CapacityExhausted when the disk is full."""
        write_record(self.path(name) / file, record)

    def make_vm(self, record: Record, *, measure: bool = False) -> Vm:
        """The child as it is now."""
        instance = self.instance(record.name)
        process = get_process(instance) if instance else None
        return Vm(
            id=VmId(record.name),
            name=record.name,
            role=Role.CHILD,
            power=Power.RUNNING if process else Power.DEAD,
            stamp=record.stamp,
            parent=VmId(record.parent),
            host=self._host,
            address=record.address,
            mac=make_mac(record.address),
            created=record.created,
            pid=process.pid if process else None,
            pss_bytes=self._measure(process) if process and measure else None,
            identified=(self.path(record.name) / IDENTIFIED).exists(),
        )

    @contextmanager
    def held(self, name: str, *, timeout: timedelta) -> Iterator[None]:
        """Keep everybody else from working on the child; raises NotFound when it is not there."""
        path = self.path(name)
        keep_private(self._directory)
        with locked(path, what=f"child {name}", timeout=timeout) as descriptor:
            if not is_current(descriptor, path):
                text = f"child {name} was removed or made anew just now. Look again."
                raise Unavailable(text)
            yield

    def allot(self, name: str, parent: Frozen, stamp: Stamp) -> Record:
        """
        Give the child its stamp and its address, or find that it has them.

        Raises:
            PermanentError: the name belongs to a VM with another stamp.
            CapacityExhausted: it does not fit; nothing was made.
        """
        make_private(self._directory)
        with locked(self._directory, what="allotting addresses", timeout=_ALLOT):
            found = self.find(name)
            if found is not None:
                return _same(found, stamp)
            records = self.list_records()
            self._check_room(name, parent, records)
            last = read_record(self._directory / _LAST) or {}
            address = choose_address(self._settings.qemu, (r.address for r in records), _as_address(last))
            if address is None:
                network = self._settings.qemu.network
                text = f"child {name}: no address is left in {network}. Retire children, or widen qemu.network."
                raise CapacityExhausted(text)
            # First, because on a full disk it is this that must fail, with nothing made.
            write_record(self._directory / _LAST, {"address": address})
            record = Record(name, parent.name, address, datetime.now(UTC), stamp)
            if not make_directory(self.path(name), STAMP, _to_record(record)):
                # Ours alone, and without a stamp that can be read: nothing of it can be kept.
                self.remove(name, timeout=_ALLOT)
                make_directory(self.path(name), STAMP, _to_record(record))
        return record

    def restamp(self, record: Record, stamp: Stamp) -> Record:
        """Replace the stamp; the name keeps its fork id and service. CapacityExhausted: the disk is full."""
        _same(record, stamp)
        renewed = replace(record, stamp=stamp)
        write_record(self.path(record.name) / STAMP, _to_record(renewed))
        return renewed

    def clear(self, name: str, *, timeout: timedelta) -> None:
        """End what runs of the child and remove all but its stamp."""
        instance = self.instance(name)
        if instance is not None:
            end_instance(instance, timeout=timeout)
        for file in (FORKED, IDENTIFIED):
            (self.path(name) / file).unlink(missing_ok=True)
        remove_directory(self.path(name) / MACHINE)

    def remove(self, name: str, *, timeout: timedelta) -> None:
        """Remove the child and all it holds."""
        self.clear(name, timeout=timeout)
        remove_directory(self.path(name))

    def room(self, records: list[Record], sizes: dict[str, int], memory_bytes: int) -> tuple[int, str]:
        """How many more children of that size fit beside these, and what bounds it; *sizes* is memory by parent."""
        facts = self._worst(records, sizes)
        for record in records:
            instance = self.instance(record.name)
            if instance is None:
                continue
            process = get_process(instance)
            expected = capacity.expected_memory(self._settings.qemu, sizes.get(record.parent, 0))
            taken = capacity.private_memory(process) if process else 0
            written = capacity.allocated(instance.disk)
            facts = replace(
                facts,
                memory_promised=facts.memory_promised - min(expected, taken),
                disk_promised=facts.disk_promised - min(capacity.DISK_PER_CHILD, written),
            )
        return capacity.compute_room(self._settings.qemu, facts, memory_bytes)

    def _worst(self, records: list[Record], sizes: dict[str, int]) -> capacity.HostFacts:
        """What is left on the host, were all that these children may take still to come."""
        settings = self._settings
        return capacity.HostFacts(
            memory_available=capacity.memory_available(),
            memory_promised=sum(capacity.expected_memory(settings.qemu, sizes.get(r.parent, 0)) for r in records),
            disk_free=capacity.disk_free(settings.state_dir),
            disk_promised=capacity.DISK_PER_CHILD * len(records),
            addresses_free=count_addresses(settings.qemu) - len(records),
            children=len(records),
            processors=capacity.count_processors(),
        )

    def _check_room(self, name: str, parent: Frozen, records: list[Record]) -> None:
        sizes = dict.fromkeys((r.parent for r in records), parent.memory_bytes)
        # As if none of them had taken anything yet: no look at a hundred processes while there is plenty.
        plenty, _ = capacity.compute_room(self._settings.qemu, self._worst(records, sizes), parent.memory_bytes)
        room, limit = (plenty, "") if plenty else self.room(records, sizes, parent.memory_bytes)
        if room < 1:
            mend = "Retire children" + (", or raise qemu.children_per_processor" if limit == "processors" else "")
            text = f"child {name} of parent {parent.name} does not fit on {self._host}: no {limit} left. {mend}."
            raise CapacityExhausted(text)

    def _measure(self, process: ProcessRef) -> int | None:
        now = time.monotonic()
        measured, value = self._pss.get(process, (-_PSS_AGE, None))
        if now - measured >= _PSS_AGE:
            value = capacity.proportional_memory(process)
            self._pss[process] = (now, value)
        return value


def _same(record: Record, stamp: Stamp) -> Record:
    if (record.stamp.service, record.stamp.fork_id) != (stamp.service, stamp.fork_id):
        text = (
            f"child {record.name} belongs to another fork: its stamp says {record.stamp.service} and "
            f"{record.stamp.fork_id}, not {stamp.service} and {stamp.fork_id}. Destroy it, or choose another name."
        )
        raise PermanentError(text)
    return record


def _to_record(record: Record) -> dict[str, object]:
    expires = record.stamp.expires
    stamp = asdict(record.stamp) | {"expires": expires.isoformat() if expires else None}
    return {
        "format": 1,
        "name": record.name,
        "parent": record.parent,
        "address": record.address,
        "created": record.created.isoformat(),
        "stamp": stamp,
    }


def _as_address(last: dict[str, object]) -> str | None:
    """The address in the record; None when there is none."""
    try:
        return str(IPv4Address(str(last["address"])))
    except (KeyError, ValueError):
        return None


def _look(directory: Path, name: str, known: _Look | None) -> _Look | None:
    """Read the child's stamp unless its file is the one that is known; None when there is no file."""
    try:
        stat = os.stat(f"{directory}/{name}/{STAMP}")  # noqa: PTH116 - of a thousand children at each fork
    except (FileNotFoundError, NotADirectoryError):
        return None
    # Replaced by rename: another stamp is another file, at least for as long as the old one is there.
    if known is not None and (known.inode, known.changed) == (stat.st_ino, stat.st_mtime_ns):
        return known
    return _Look(stat.st_ino, stat.st_mtime_ns, _read_stamp(directory / name))


def _settled(changed: int, now: int) -> bool:
    """Whether a file that changes again after *now* shows another time than *changed*; both in nanoseconds."""
    # File systems tell the kernel's ticks, of at most 10 ms, or whole seconds.
    whole = changed % _SECOND == 0
    return now - changed > (2 * _SECOND if whole else _SECOND // 20)


def _read_stamp(path: Path) -> Record | None:
    found = read_record(path / STAMP) or {}
    stamp = as_record(found.get("stamp"))
    if stamp is None:
        return None
    try:
        expires = stamp["expires"]
        return Record(
            name=path.name,
            parent=str(found["parent"]),
            address=str(found["address"]),
            created=datetime.fromisoformat(str(found["created"])),
            stamp=Stamp(
                service=str(stamp["service"]),
                fork_id=str(stamp["fork_id"]),
                request_id=str(stamp["request_id"]),
                expires=datetime.fromisoformat(str(expires)) if expires else None,
            ),
        )
    except (KeyError, ValueError):
        # Not one of ours as it stands: `list_strays` shows it, `destroy` removes it.
        return None
