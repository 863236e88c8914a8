"""Where children go when forkyard.toml says so: folder, pool, datastore and network by their names, looked up once."""

import threading
from collections.abc import Callable
from typing import TypeVar

from forkyard.errors import InvalidRequest, NotFound
from forkyard.hypervisors.vsphere.api import Managed, moid, vim
from forkyard.hypervisors.vsphere.inventory import InventoryReader, ParentRow
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.specs import Location
from forkyard.settings import VsphereSettings

T = TypeVar("T")


class Places:
    """The settings' names as vCenter's objects."""

    def __init__(self, session: Session, reader: InventoryReader, settings: VsphereSettings) -> None:
        """Look up nothing yet."""
        self._session, self._reader, self._settings = session, reader, settings
        self._lock = threading.Lock()
        self._found: dict[str, Managed] = {}

    def location_of(self, parent: ParentRow) -> Location:
        """
        Where the parent's children go; what the settings do not name is as the parent's.

        Raises:
            NotFound: vCenter has nothing of a name in the settings; the message says which key.
            InvalidRequest: it has several.
        """
        settings = self._settings
        return Location(
            folder=self._find_folder() or parent.folder,
            pool=self._once("pool", settings.pool, lambda: self._by_path(settings.pool, vim.ResourcePool)),
            datastore=self.find_datastore(),
            portgroup=self._once("portgroup", settings.portgroup, self._make_backing),
        )

    def find_folder(self) -> str | None:
        """The id of the folder that the settings name for all children; None: they name none. Raises as above."""
        folder = self._find_folder()
        return moid(folder) if folder is not None else None

    def find_datastore(self) -> Managed:
        """The datastore that the settings name for all children, None when they name none; raises as `location_of`."""
        return self._once("datastore", self._settings.datastore, lambda: self._by_name("datastore", vim.Datastore))

    def _find_folder(self) -> Managed:
        path = self._settings.folder
        return self._once("folder", path, lambda: self._by_path(path, vim.Folder))

    def _once(self, key: str, name: str, look: Callable[[], Managed]) -> Managed:
        if not name:
            return None
        with self._lock:
            if key not in self._found:
                found = self._session.call(f"vsphere.{key}", look)
                if found is None:
                    text = (
                        f'vsphere.{key} = "{name}": vCenter has none of this name, or vsphere.user may not see it. '
                        f"Mend it in forkyard.toml, or let the user see it."
                    )
                    raise NotFound(text)
                self._found[key] = found
            return self._found[key]

    def _by_path(self, path: str, kind: Managed) -> Managed:
        found = self._session.content.searchIndex.FindByInventoryPath(path.strip("/"))
        return found if isinstance(found, kind) else None

    def _by_name(self, key: str, kind: Managed) -> Managed:
        name = str(getattr(self._settings, key))
        if name.startswith("/"):
            return self._by_path(name, kind)
        found = self._reader.find_by_kind(kind, name)
        if len(found) > 1:
            folder = "network" if kind is vim.Network else "datastore"
            text = (
                f'vsphere.{key} = "{name}": vCenter has {len(found)} of this name ({", ".join(map(moid, found))}). '
                f"Give the inventory path of the right one, such as /DATACENTER/{folder}/{name}."
            )
            raise InvalidRequest(text)
        return found[0] if found else None

    def _make_backing(self) -> Managed:
        network = self._by_name("portgroup", vim.Network)
        if network is None:
            return None
        card = vim.vm.device.VirtualEthernetCard
        if isinstance(network, vim.dvs.DistributedVirtualPortgroup):
            config = network.config
            port = vim.dvs.PortConnection(portgroupKey=config.key, switchUuid=config.distributedVirtualSwitch.uuid)
            return card.DistributedVirtualPortBackingInfo(port=port)
        return card.NetworkBackingInfo(deviceName=network.name, network=network)
