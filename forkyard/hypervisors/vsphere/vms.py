"""
What is known of a VM, while vCenter can read it and while it cannot.

A VM on a host that a partition cut off, or whose datastore is away, is `inaccessible` at vCenter: its whole `config`
is unset, and with it whose it is and which address it has. It may run on all the same. So what was read of it last
holds until it can be read again: it is listed, as running, and its address stays taken.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from forkyard.errors import NotReady
from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.api import Managed, moid
from forkyard.hypervisors.vsphere.guestinfo import Mark, option_path, read_option

_STAMP, _IDENTIFIED = option_path(guestinfo.STAMP), option_path(guestinfo.IDENTIFIED)
_FROZEN = "runtime.instantCloneFrozen"
VM_PATHS = (
    *("name", "parent", "config.uuid", "runtime.powerState", "runtime.connectionState", "runtime.host", _FROZEN),
    *(_STAMP, _IDENTIFIED, "config.annotation", "config.createDate"),
)


@dataclass(frozen=True, slots=True)
class VmRow:
    """One VM of anybody's."""

    id: str
    name: str
    powered_on: bool
    frozen: bool
    host: str | None
    """vCenter's id of its host."""
    folder: str | None
    """vCenter's id of its folder."""
    bios_uuid: str
    """Empty: its configuration was never read."""
    mark: Mark | None
    """From its stamp, or from its annotation when the stamp cannot be read; None: not a child of ours."""
    mac: str | None
    """Known once it was identified."""
    lost: str | None = None
    """What vCenter calls it while it cannot read it, such as `inaccessible`; the rest is then as it was read last."""

    @property
    def unknown(self) -> bool:
        """Whether it may be anybody's, a child of ours among them."""
        return self.lost is not None and not self.bios_uuid


def make_vm_row(ref: Managed, values: Mapping[str, Any], key: bytes | None = None) -> VmRow:
    """One VM as vCenter tells it; without the *key* only its annotation can say that it is a child of ours."""
    bios_uuid = str(values.get("config.uuid") or "")
    note, created = str(values.get("config.annotation") or ""), values.get("config.createDate")
    # A guest may spoil its stamp; it can write neither of the other two, and no signature.
    stamp = guestinfo.parse_mark(read_option(values, _STAMP), bios_uuid, key)
    noted = guestinfo.parse_note(note, bios_uuid, created)
    mark = stamp or noted
    kept = noted is not None and noted.stamp.expires is None
    identified = read_option(values, _IDENTIFIED)
    host, folder = values.get("runtime.host"), values.get("parent")
    # One that is just being made has no configuration either, and is connected.
    state = str(values.get("runtime.connectionState") or "connected")
    return VmRow(
        id=moid(ref),
        name=str(values.get("name", "")),
        powered_on=values.get("runtime.powerState") == "poweredOn",
        frozen=bool(values.get(_FROZEN)),
        host=moid(host) if host is not None else None,
        folder=moid(folder) if folder is not None else None,
        bios_uuid=bios_uuid,
        mark=mark,
        mac=guestinfo.parse_identified(identified, mark.stamp.fork_id, key, kept=kept) if mark is not None else None,
        lost=state if not bios_uuid and state != "connected" else None,
    )


def check_readable(row: VmRow) -> None:
    """Raise NotReady for a VM that vCenter cannot read: nothing can be done to it, and it may run."""
    if row.lost is not None:
        text = (
            f"{row.name} ({row.id}): vCenter calls it {row.lost} and cannot read it, but it may still run. "
            f"Bring its host and its datastore back, or remove it from vCenter's inventory once it surely runs no more."
        )
        raise NotReady(text)


class LastRows:
    """What was read last of each VM. Safe to use from several threads."""

    def __init__(self) -> None:
        """Know none yet."""
        self._lock = threading.Lock()
        self._rows: dict[str, VmRow] = {}

    def complete(self, rows: Iterable[VmRow], *, all_there: bool = False) -> tuple[VmRow, ...]:
        """The rows, with what is known of those that are lost; *all_there*: what is not among them is gone."""
        found = tuple(rows)
        with self._lock:
            if all_there:
                there = {row.id for row in found}
                self._rows = {vm: row for vm, row in self._rows.items() if vm in there}
            self._rows.update({row.id: row for row in found if row.bios_uuid})
            return tuple(self._complete(row) for row in found)

    def _complete(self, row: VmRow) -> VmRow:
        if row.lost is None or row.id not in self._rows:
            return row
        # vCenter may call it powered off, which it cannot know: whoever believes that makes another in its place.
        return replace(self._rows[row.id], powered_on=True, lost=row.lost)
