"""
A child's own network adapters, and what is wrong with them.

What vCenter was asked for is looked at, never taken for done: `migrateConnect` may be missed and the fork succeeds all
the same, so whether a cable is in says only the adapter itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from forkyard.errors import NotReady
from forkyard.hypervisors.vsphere.api import Managed
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.inventory import InventoryReader
from forkyard.hypervisors.vsphere.stream import Values

FIRST_ADAPTER = 4000
"""Key of a VM's first network adapter."""
ADAPTER = f"config.hardware.device[{FIRST_ADAPTER}]"


@dataclass(frozen=True, slots=True)
class OwnAdapters:
    """The adapters of one child."""

    reader: InventoryReader
    vm: str
    number: int
    """How many its parent has, and so the child."""

    def read(self, values: Values, deadline: Deadline) -> tuple[Managed, ...]:
        """
        All of them: the one that the stream told among *values* where there is one only, else by a call.

        Raises:
            NotReady: vCenter does not tell of all of them.
        """
        told = values.get(ADAPTER)
        if told is not None and self.number == 1:
            return (told,)
        devices = self.reader.read_devices(self.vm, deadline=deadline)
        found = devices.adapters if devices is not None else ()
        if len(found) < self.number:
            text = f"{self.vm}: vCenter tells of {len(found)} network adapters, and its parent has {self.number}. "
            text += "Look in vCenter whether the VM can be reached."
            raise NotReady(text)
        return found


def mac_of(adapters: Iterable[Managed]) -> str:
    """The MAC of the first; empty when there is none."""
    return next((str(adapter.macAddress).lower() for adapter in adapters), "")


def find_connected(adapters: Iterable[Managed]) -> list[str]:
    """The names of those that are not told to be disconnected."""
    return [_name(one) for one in adapters if one.connectable is None or one.connectable.connected]


def find_wrong(adapters: Iterable[Managed], mac: str) -> list[str]:
    """What keeps these from being connected, the first with this MAC."""
    found = list(adapters)
    wrong = [
        f"{_name(one)} is not connected" for one in found if one.connectable is None or not one.connectable.connected
    ]
    if mac_of(found) != mac:
        wrong.append(f"its MAC is {mac_of(found) or 'none'}, not {mac}")
    return wrong


def _name(adapter: Managed) -> str:
    return str(getattr(adapter.deviceInfo, "label", None) or f"adapter {adapter.key}")
