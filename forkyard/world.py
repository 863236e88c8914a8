"""
Join one service's settings to the drivers that they name.

Drivers are imported only when they are opened: the command line must answer before a hypervisor's
library is loaded. What is opened here is closed when the context ends.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from forkyard.balancer import Balancer
from forkyard.errors import Unsupported
from forkyard.hypervisors import Hypervisor
from forkyard.registry import Registry
from forkyard.settings import ServiceSettings, Settings


@dataclass(frozen=True, slots=True)
class World:
    """One service and the three parts of the outside that make its fleet."""

    settings: Settings
    service: str
    hypervisor: Hypervisor
    registry: Registry
    balancer: Balancer

    @property
    def policy(self) -> ServiceSettings:
        """What forkyard.toml says of the service."""
        return self.settings.service(self.service)


@contextmanager
def open_world(settings: Settings, service: str) -> Iterator[World]:
    """
    Open the drivers of *service*.

    Raises:
        InvalidRequest: no such service in forkyard.toml.
        Unsupported: no such hypervisor.
    """
    settings.service(service)
    with ExitStack() as stack:
        parts = World(
            settings, service, _open_hypervisor(settings, service), _open_registry(settings), _open_balancer(settings)
        )
        for part in (parts.hypervisor, parts.registry, parts.balancer):
            close = getattr(part, "close", None)
            if close is not None:
                stack.callback(close)
        yield parts


def _open_hypervisor(settings: Settings, service: str) -> Hypervisor:
    name = settings.service(service).hypervisor
    if name == "qemu":
        from forkyard.hypervisors.qemu.driver import QemuHypervisor  # noqa: PLC0415 - only when it is used

        return QemuHypervisor(settings)
    if name == "vsphere":
        from forkyard.hypervisors.vsphere.driver import VsphereHypervisor  # noqa: PLC0415 - as above

        return VsphereHypervisor(settings)
    text = (
        f"{service}: no hypervisor is called {name!r}. "
        f"Set services.{service}.hypervisor to qemu or vsphere in forkyard.toml."
    )
    raise Unsupported(text)


def _open_registry(settings: Settings) -> Registry:
    from forkyard.registry.consul import ConsulRegistry  # noqa: PLC0415 - only when it is used

    return ConsulRegistry(settings.consul)


def _open_balancer(settings: Settings) -> Balancer:
    from forkyard.balancer.nginx import NginxBalancer  # noqa: PLC0415 - only when it is used

    return NginxBalancer(settings.nginx)
