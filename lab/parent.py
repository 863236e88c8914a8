"""The lab's frozen parents: made from the guest image when they are not there or the image has changed."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from forkyard.errors import PermanentError
from forkyard.hypervisors.qemu.driver import QemuHypervisor
from forkyard.model import FrozenParent, VmId
from forkyard.settings import ServiceSettings, Settings
from guest.image.build import build_image
from guest.image.recipe import GuestImage, ImageError
from lab.consul import find_consul

BOOT_TIMEOUT = timedelta(minutes=15)
"""Without KVM a boot takes one minute on two idle cores, and several on busy ones."""
FREEZE_TIMEOUT = timedelta(minutes=5)
REMOVE_TIMEOUT = timedelta(minutes=1)
DESTROY_TIMEOUT = timedelta(seconds=30)


def ensure_parent(settings: Settings, service: str, progress: Callable[[str], None]) -> bool:
    """
    Have the service's parent frozen on disk; say whether it had to be made.

    A parent that was frozen by hand, from whatever image, is kept. One that the lab made is made anew when the image
    has changed, or when this host can no longer fork it (after an upgrade of QEMU), unless it has children.
    """
    policy = settings.service(service)
    hypervisor = QemuHypervisor(settings)
    frozen = _find(hypervisor, policy)
    image = _image(settings, policy, progress)
    if frozen is not None:
        change = _find_change(settings, hypervisor, frozen, image)
        if not change:
            # Frozen already: this only looks whether its files are whole.
            hypervisor.freeze(frozen.id, timeout=FREEZE_TIMEOUT)
            hypervisor.start_ahead(frozen.id, timeout=FREEZE_TIMEOUT)
            return False
        if frozen.children:
            progress(f"{frozen.name}: {change}, but {frozen.children} children live on the old parent: kept")
            return False
        progress(f"{frozen.name}: {change}; made anew")
        hypervisor.remove_parent(frozen.id, timeout=REMOVE_TIMEOUT)
    if slowness := hypervisor.explain_slowness():
        progress(f"{policy.parent}: {slowness}")
    progress(f"{policy.parent}: booting to the fork point; about a minute, only this time")
    parent = hypervisor.start_parent(
        image.directory, policy.parent, service, timeout=BOOT_TIMEOUT, memory_mib=policy.memory_mib
    )
    progress(f"{policy.parent}: quiescing the app and freezing the VM")
    record_parent(settings, hypervisor.freeze(parent, timeout=FREEZE_TIMEOUT), image)
    hypervisor.start_ahead(parent, timeout=FREEZE_TIMEOUT)
    return True


def parent_trouble(settings: Settings, service: str) -> str:
    """What is wrong with the service's parent; empty text when nothing is."""
    policy = settings.service(service)
    return "" if _find(QemuHypervisor(settings), policy) else f"no frozen parent is called {policy.parent}"


def remove_children(settings: Settings, service: str) -> None:
    """Destroy the service's children and half-made parent and what waits for a fork; frozen parents stay."""
    policy, hypervisor = settings.service(service), QemuHypervisor(settings)
    for vm in hypervisor.list_vms(service):
        hypervisor.destroy(vm.id, timeout=DESTROY_TIMEOUT)
    hypervisor.cool()
    if policy.parent in {parent.name for parent in hypervisor.list_unfrozen_parents()}:
        hypervisor.remove_parent(VmId(policy.parent), timeout=REMOVE_TIMEOUT)
    for stray in hypervisor.list_strays(older_than=timedelta(0)):
        hypervisor.remove_stray(stray)


def _find(hypervisor: QemuHypervisor, policy: ServiceSettings) -> FrozenParent | None:
    return next((parent for parent in hypervisor.list_parents() if parent.name == policy.parent), None)


def _image(settings: Settings, policy: ServiceSettings, progress: Callable[[str], None]) -> GuestImage:
    try:
        return build_image(
            settings.cache_dir,
            consul=find_consul(settings.cache_dir),
            progress=progress,
            memory_mib=policy.memory_mib,
        )
    except ImageError as error:
        raise PermanentError(str(error)) from error


def _find_change(settings: Settings, hypervisor: QemuHypervisor, frozen: FrozenParent, image: GuestImage) -> str:
    """Why the frozen parent is not what would be made now; empty text when it is."""
    recorded = _recorded(settings, frozen)
    if recorded is None:
        return ""  # nobody's to delete but theirs who made it; `freeze` says when it cannot be forked here
    if recorded != image.fingerprint:
        return "the image has changed"
    return "; ".join(hypervisor.find_differences(frozen.id))


def _note(settings: Settings, parent: str) -> Path:
    return settings.state_dir / "lab" / f"{parent}.json"


def _recorded(settings: Settings, frozen: FrozenParent) -> str | None:
    """The image that the lab made this very parent from; None when the lab did not make it."""
    try:
        note = json.loads(_note(settings, frozen.name).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return note["image"] if note.get("parent") == frozen.fingerprint else None


def record_parent(settings: Settings, frozen: FrozenParent, image: GuestImage) -> None:
    """Put on record that the lab made this very parent, and from which image."""
    note = _note(settings, frozen.name)
    note.parent.mkdir(parents=True, exist_ok=True)
    fresh = note.with_suffix(".new")
    fresh.write_text(json.dumps({"parent": frozen.fingerprint, "image": image.fingerprint}))
    fresh.replace(note)
