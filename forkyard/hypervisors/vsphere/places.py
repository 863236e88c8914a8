"""Where children go when forkyard.toml says so: folder, pool, datastore and network by their names, looked up once."""

import threading
from collections.abc import Callable
from typing import TypeVar

from forkyard.errors import NotFound
from forkyard.hypervisors.vsphere.api import Managed, vim
from forkyard.hypervisors.vsphere.inventory import ParentRow
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.specs import Location
from forkyard.settings import VsphereSettings

T = TypeVar("T")


class Places:
    """The settings' names as vCenter's objects."""

    def __init__(self, session: Session, settings: VsphereSettings) -> None:
        """Look up nothing yet."""
        self._session, self._settings = session, settings
        self._lock = threading.Lock()
        self._found: dict[str, Managed] = {}

    def location_of(self, parent: ParentRow) -> Location:
        """
        Where the parent's children go; what the settings do not name is as the parent's.

        Raises:
            NotFound: vCenter has nothing of a name in the settings; the message says which key.
        """
        settings = self._settings
        return Location(
            folder=self._once("folder", settings.folder, lambda: self._by_path(settings.folder, vim.Folder))
            or parent.folder,
            pool=self._once("pool", settings.pool, lambda: self._by_path(settings.pool, vim.ResourcePool)),
            datastore=self._once(
                "datastore", settings.datastore, lambda: self._by_name(settings.datastore, vim.Datastore)
            ),
            portgroup=self._once("portgroup", settings.portgroup, self._make_backing),
        )

    def _once(self, key: str, name: str, look: Callable[[], Managed]) -> Managed:
        if not name:
            return None
        with self._lock:
            if key not in self._found:
                found = self._session.call(f"vsphere.{key}", look)
                if found is None:
                    text = f'vsphere.{key} = "{name}": vCenter has none of this name, or vsphere.user may not see it.'
                    raise NotFound(text)
                self._found[key] = found
            return self._found[key]

    def _by_path(self, path: str, kind: Managed) -> Managed:
        found = self._session.content.searchIndex.FindByInventoryPath(path.strip("/"))
        return found if isinstance(found, kind) else None

    def _by_name(self, name: str, kind: Managed) -> Managed:
        content = self._session.content
        view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)  # noqa: FBT003 - deep
        try:
            return next((one for one in view.view if one.name == name), None)
        finally:
            view.DestroyView()

    def _make_backing(self) -> Managed:
        network = self._by_name(self._settings.portgroup, vim.Network)
        if network is None:
            return None
        card = vim.vm.device.VirtualEthernetCard
        if isinstance(network, vim.dvs.DistributedVirtualPortgroup):
            config = network.config
            port = vim.dvs.PortConnection(portgroupKey=config.key, switchUuid=config.distributedVirtualSwitch.uuid)
            return card.DistributedVirtualPortBackingInfo(port=port)
        return card.NetworkBackingInfo(deviceName=network.name, network=network)
