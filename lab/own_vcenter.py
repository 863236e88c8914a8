"""
The lab under vSphere: a vCenter of its own, and the settings that make every service its customer.

What differs from forkyard.toml is written beside the lab's pid files, and every command reads it there as long as
the lab is up: `forkyard scale` is then the same command as ever. The vCenter's process is inside the lab's
namespace, where its guests have addresses of 127.0.0.0/8 that Nginx and Consul reach; its own port is the host's.
"""

from dataclasses import dataclass
from pathlib import Path

from forkyard.errors import InvalidRequest
from forkyard.hypervisors.vsphere.driver import VsphereHypervisor
from forkyard.settings import Settings, lab_file
from lab.consul_cluster import HTTP_PORT
from lab.inner import lab_home
from lab.network import lab_network
from lab.parts import Part
from lab.vsphere import (
    PASSWORD,
    USER,
    VCenter,
    find_vcenter,
    is_started,
    start_vcenter,
    stop_vcenter,
    vcenter_trouble,
)
from lab.vsphere_build import build_vcenter

NETWORK = "127.0.0.0/8"
FIRST_ADDRESS = "127.78.0.1"
_FEWEST = 1024
"""Children that each service may have at the least: a simulated one costs next to nothing."""


@dataclass(frozen=True, slots=True)
class VCenterDoor:
    """How to get into the lab's own vCenter."""

    url: str
    user: str
    password: str
    thumbprint: str
    """SHA-256 of its certificate."""


def choose_hypervisor(settings: Settings, hypervisor: str | None, hosts: int | None) -> None:
    """
    Have the lab's services run on *hypervisor* from the next start on; None: as they do.

    Raises:
        InvalidRequest: no such hypervisor, or the lab is up with another one.
    """
    now = "vsphere" if lab_file(settings).exists() else "qemu"
    if hypervisor not in {None, "qemu", "vsphere"}:
        text = f"--hypervisor {hypervisor}: the lab knows qemu and vsphere."
        raise InvalidRequest(text)
    if (hypervisor or now) == "qemu":
        if now == "vsphere":
            text = "the lab is up with vsphere. Take it down first: forkyard lab down."
            raise InvalidRequest(text)
        if hosts is not None:
            text = "--hosts: only a lab with --hypervisor vsphere has hosts."
            raise InvalidRequest(text)
        return
    running = now == "vsphere" and find_vcenter(make_vcenter(settings)) is not None
    if running and hosts not in {None, settings.lab.hosts}:
        text = f"the lab is up with {settings.lab.hosts} hosts. Take it down first: forkyard lab down."
        raise InvalidRequest(text)
    if now == "qemu" and (lab_home(settings) / "prefect-server.pid").exists():
        text = "the lab is up with qemu. Take it down first: forkyard lab down."
        raise InvalidRequest(text)
    _write_overlay(settings, hosts or settings.lab.hosts)


def make_vcenter(settings: Settings) -> VCenter:
    """The lab's vCenter."""
    network = lab_network(settings)
    return VCenter(
        directory=lab_home(settings) / "vcenter",
        hosts=settings.lab.hosts,
        namespace=network.namespace,
        port=settings.lab.vcenter_port,
        consul_url=f"http://{network.load_balancer}:{HTTP_PORT}",
        consul_datacenter=settings.consul.datacenter,
        service=next(iter(sorted(settings.services)), "game"),
    )


def make_vcenter_parts(settings: Settings) -> list[Part]:
    """The vCenter, in a lab that has one of its own."""
    if not _has_own(settings):
        return []
    vcenter = make_vcenter(settings)

    def start() -> bool:
        if not vcenter_trouble(vcenter):
            return False
        start_vcenter(vcenter, build_vcenter(settings.cache_dir))
        return True

    def trouble() -> str:
        return vcenter_trouble(vcenter) or _parents_trouble(settings)

    return [
        Part(
            "vcenter",
            start=start,
            trouble=trouble,
            stop=lambda: stop_vcenter(vcenter),
            after=("network", "consul"),
            ports=lambda: [] if is_started(vcenter) else [vcenter.port],
        )
    ]


def find_door(settings: Settings) -> VCenterDoor | None:
    """How to get into the vCenter; None when the lab has none that runs."""
    door = find_vcenter(make_vcenter(settings)) if _has_own(settings) else None
    return VCenterDoor(door.url, door.user, door.password, door.thumbprint) if door is not None else None


def _has_own(settings: Settings) -> bool:
    return lab_file(settings).exists()


def _parents_trouble(settings: Settings) -> str:
    hypervisor = VsphereHypervisor(settings)
    try:
        service = make_vcenter(settings).service
        missing = not hypervisor.list_parents(service)
    finally:
        hypervisor.close()
    return f"no frozen parent of {service}" if missing else ""


def _write_overlay(settings: Settings, hosts: int) -> None:
    home = lab_home(settings)
    home.mkdir(parents=True, exist_ok=True)
    password = home / "vcenter.password"
    password.touch(0o600)
    password.write_text(f"{PASSWORD}\n")
    lines = [
        "# What the lab changes in forkyard.toml while it is up; `forkyard lab down` takes it away.",
        f"[lab]\nhosts = {hosts}\n",
        "[vsphere]",
        f'url = "https://127.0.0.1:{settings.lab.vcenter_port}/sdk"',
        f'user = "{USER}"',
        f'password_file = "{password}"',
        f'ca_file = "{_certificate(settings)}"',
        f'network = "{NETWORK}"\nfirst_address = "{FIRST_ADDRESS}"\n',
    ]
    for name, service in sorted(settings.services.items()):
        most = max(_FEWEST, service.maximum)
        lines += [
            f"[services.{name}]",
            f'hypervisor = "vsphere"\nparent = "{name}-parent-*"\nmaximum = {most}\nstep = {max(most, service.step)}\n',
        ]
    fresh = lab_file(settings).with_suffix(".new")
    fresh.write_text("\n".join(lines))
    fresh.replace(lab_file(settings))


def _certificate(settings: Settings) -> Path:
    return make_vcenter(settings).directory / "state" / "vcenter.pem"
