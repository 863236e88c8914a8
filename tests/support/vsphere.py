"""A world of the vSphere driver for tests: a vCenter, settings for it, drivers like those of several processes."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from forkyard.hypervisors.vsphere.api import vim
from forkyard.hypervisors.vsphere.driver import VsphereHypervisor
from forkyard.hypervisors.vsphere.session import Session
from forkyard.model import ForkSpec, Vm
from forkyard.settings import ServiceSettings, Settings, VsphereSettings
from lab.vsphere import Door
from tests.support.small_vm import PATIENCE, SERVICE, make_stamp
from tests.support.vcenter import RunningVCenter, running_vcenter

RULE = "game-parent-*"


@dataclass
class VsphereWorld:
    """A vCenter and who uses it."""

    vcenter: RunningVCenter
    settings: Settings
    opened: list[VsphereHypervisor] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the driver that clears up."""
        self.janitor = VsphereHypervisor(self.settings)

    def open(self, **vsphere: Any) -> VsphereHypervisor:  # noqa: ANN401 - any of the settings
        """Make a driver, as each process has its own, under changed settings."""
        settings = replace(self.settings, vsphere=replace(self.settings.vsphere, **vsphere))
        self.opened.append(VsphereHypervisor(settings))
        return self.opened[-1]

    def kill(self, vm: Vm) -> None:
        """Let a child's VM end as a crash of its host does: powered off, and not by us."""
        stranger = Session(self.settings.vsphere)
        stranger.call("killing", stranger.find(vim.VirtualMachine, vm.id).PowerOffVM_Task)
        stranger.close()

    def clear(self) -> None:
        """Calm vCenter, destroy all children, end the drivers."""
        self.vcenter.calm()
        hypervisor = self.janitor
        for vm in hypervisor.list_vms():
            hypervisor.destroy(vm.id, timeout=PATIENCE)
        for one in self.opened:
            one.close()
        self.opened.clear()

    def children(self) -> list[str]:
        """The names of all VMs that are no parents, as vCenter has them."""
        return sorted(name for name in self.vcenter.machines() if not name.startswith("game-parent-"))


def make_settings(door: Door, directory: Path) -> Settings:
    """Settings for a vCenter; children get addresses that no other test run has."""
    password = directory / "password"
    password.write_text(f"{door.password}\n")
    first = IPv4Address(f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.1")
    vsphere = VsphereSettings(
        url=door.url,
        user=door.user,
        password_file=password,
        thumbprint=door.thumbprint,
        network=IPv4Network("127.0.0.0/8"),
        first_address=first,
    )
    service = ServiceSettings(hypervisor="vsphere", parent=RULE, maximum=2000, step=2000)
    return Settings(
        state_dir=directory / "state", run_dir=Path("/nowhere"), vsphere=vsphere, services={"game": service}
    )


@contextmanager
def vsphere_world(directory: Path, **what: Any) -> Iterator[VsphereWorld]:  # noqa: ANN401 - VCenter's fields
    """Start a vCenter; end it, and every driver, at the end."""
    with running_vcenter(directory, **what) as vcenter:
        world = VsphereWorld(vcenter, make_settings(vcenter.door, directory))
        try:
            yield world
        finally:
            for one in (*world.opened, world.janitor):
                one.close()


def fork(hypervisor: VsphereHypervisor, name: str, fork_id: str | None = None, place: int = 0) -> Vm:
    """Fork a child onto the placement with this number."""
    spec = ForkSpec(name, make_stamp(fork_id), hypervisor.placements(SERVICE)[place])
    return hypervisor.fork(spec, timeout=PATIENCE)
