"""`forkyard parent`: build, freeze, list, verify and remove the VMs that children are forked from."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from cli.failures import require_root
from cli.output import emit, make_console, say
from cli.shapes import Json
from forkyard.errors import InvalidRequest, NotFound, PermanentError
from forkyard.hypervisors import Hypervisor
from forkyard.hypervisors.qemu.driver import QemuHypervisor
from forkyard.hypervisors.qemu.nursery import UnfrozenParent
from forkyard.model import FrozenParent, VmId
from forkyard.settings import Settings, load_settings

T = TypeVar("T")

BOOT_TIMEOUT = timedelta(minutes=10)
"""A parent boots in about a minute under TCG on two idle cores."""
FREEZE_TIMEOUT = timedelta(minutes=3)
REMOVE_TIMEOUT = timedelta(minutes=1)


def run_build(config: Path | None, service: str, *, again: bool, as_json: bool) -> int:
    """Build the image and boot the parent to the fork point."""
    settings = load_settings(config)
    policy = settings.service(service)
    require_root("forkyard parent build")
    started = time.monotonic()
    image = build_guest_image(settings, memory_mib=policy.memory_mib, again=again)
    hypervisor = QemuHypervisor(settings)
    if slowness := hypervisor.explain_slowness():
        say(f"{policy.parent}: {slowness}")
    say(f"{policy.parent}: booting {image} to the fork point; about a minute without KVM")
    vm = hypervisor.start_parent(image, policy.parent, service, timeout=BOOT_TIMEOUT, memory_mib=policy.memory_mib)
    seconds = time.monotonic() - started
    if as_json:
        emit({"parent": vm, "service": service, "image": str(image), "seconds": round(seconds, 3), "frozen": False})
    else:
        make_console().print(f"{vm}: runs and is warm ({seconds:.0f} s). Next: forkyard parent freeze {vm}")
    return 0


def run_freeze(config: Path | None, name: str, *, as_json: bool) -> int:
    """Freeze a running parent; a frozen one is shown as it is."""
    settings = load_settings(config)
    require_root("forkyard parent freeze")
    say(f"{name}: quiescing the app and freezing the VM")
    started = time.monotonic()
    with _opened(settings) as hypervisors:
        frozen = _freeze_somewhere(hypervisors, name)
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        emit(_parent_shape(frozen) | {"seconds": seconds})
    else:
        make_console().print(f"{name}: frozen, {frozen.fingerprint[:12]} ({seconds:.1f} s)")
    return 0


def run_list(config: Path | None, *, as_json: bool) -> int:
    """List the parents: frozen, running, and half made."""
    with _opened(load_settings(config)) as hypervisors:
        parents = [parent for hypervisor in hypervisors for parent in hypervisor.list_parents()]
        # vSphere's parents that run are its own VMs, which vCenter lists.
        makers = [hypervisor for hypervisor in hypervisors if isinstance(hypervisor, QemuHypervisor)]
        unfrozen = [parent for maker in makers for parent in maker.list_unfrozen_parents()]
    if as_json:
        emit({"parents": [_parent_shape(parent) for parent in parents] + [_unfrozen_shape(one) for one in unfrozen]})
        return 0
    from cli.tables import make_table, render_size  # noqa: PLC0415 - only for people

    columns = ("parent", "service", "host", "frozen", "memory", "children", "fingerprint")
    title = ("1 frozen parent" if len(parents) == 1 else f"{len(parents)} frozen parents") + (
        f", {len(unfrozen)} not frozen" if unfrozen else ""
    )
    table = make_table(title, *columns, right=("memory", "children"))
    for parent in parents:
        moment = f"{parent.frozen_at:%Y-%m-%d %H:%M}"
        size = render_size(parent.memory_bytes)
        table.add_row(
            parent.name, parent.service, parent.host, moment, size, str(parent.children), parent.fingerprint[:12]
        )
    for one in unfrozen:
        table.add_row(one.name, one.service, "", _state(one), render_size(one.memory_bytes), "0", "")
    make_console().print(table)
    return 0


def run_verify(config: Path | None, name: str, *, as_json: bool) -> int:
    """Compare a frozen parent's files with its fingerprint; VerificationFailed names the one that is broken."""
    say(f"{name}: reading every byte again")
    QemuHypervisor(load_settings(config)).verify(VmId(name))
    if as_json:
        emit({"parent": name, "verified": True})
    else:
        make_console().print(f"{name}: every file is as it was frozen")
    return 0


def run_remove(config: Path | None, name: str, *, yes: bool, as_json: bool) -> int:
    """Remove a parent that has no children."""
    settings = load_settings(config)
    require_root("forkyard parent remove")
    if not yes:
        confirm(f"Remove the parent {name}? It takes minutes to build again.")
    if not QemuHypervisor(settings).remove_parent(VmId(name), timeout=REMOVE_TIMEOUT):
        text = f"there is no parent {name}. `forkyard parent list` shows those there are."
        raise NotFound(text)
    if as_json:
        emit({"parent": name, "removed": True})
    else:
        make_console().print(f"{name}: removed")
    return 0


@contextmanager
def _opened(settings: Settings) -> Iterator[list[Hypervisor]]:
    """Open the hypervisors that forkyard.toml names; QEMU when it names none."""
    names = {service.hypervisor for service in settings.services.values()} or {"qemu"}
    found: list[Hypervisor] = [QemuHypervisor(settings)] if "qemu" in names else []
    with ExitStack() as stack:
        if "vsphere" in names:
            from forkyard.hypervisors.vsphere.driver import VsphereHypervisor  # noqa: PLC0415 - only when it is used

            vsphere = VsphereHypervisor(settings)
            stack.callback(vsphere.close)
            found.append(vsphere)
        yield found


def _freeze_somewhere(hypervisors: list[Hypervisor], name: str) -> FrozenParent:
    for hypervisor in hypervisors[:-1]:
        # A rule of vSphere's, such as game-parent-*, is no name of QEMU's.
        with suppress(NotFound, InvalidRequest):
            return hypervisor.freeze(VmId(name), timeout=FREEZE_TIMEOUT)
    return hypervisors[-1].freeze(VmId(name), timeout=FREEZE_TIMEOUT)


def confirm(question: str) -> None:
    """Ask on a terminal; raises InvalidRequest when the answer is no, or there is nobody to ask."""
    import sys  # noqa: PLC0415 - only here

    import typer  # noqa: PLC0415 - only here

    if not sys.stdin.isatty():
        text = f"{question} Say yes with --yes: there is no terminal to ask at."
        raise InvalidRequest(text)
    try:
        said = typer.confirm(question, err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None  # Ctrl-C at the question is Ctrl-C
    if not said:
        text = "Nothing was done."
        raise InvalidRequest(text)


def build_guest_image(settings: Settings, *, memory_mib: int, again: bool) -> Path:
    """Build the game's image, or find it in the cache; with *again* built in any case. Returns its directory."""
    from guest.image import recipe  # noqa: PLC0415 - builds only
    from guest.image.build import build_image  # noqa: PLC0415 - builds only
    from lab.consul import find_consul  # noqa: PLC0415 - builds only

    consul = find_consul(settings.cache_dir)

    def build() -> recipe.GuestImage:
        return build_image(settings.cache_dir, consul=consul, progress=say, memory_mib=memory_mib, again=again)

    return _translated(build).directory


def _translated(action: Callable[[], T]) -> T:
    from guest.image.recipe import ImageError  # noqa: PLC0415 - builds only

    try:
        return action()
    except ImageError as error:
        # The guest's code knows nothing of the core's errors.
        raise PermanentError(str(error)) from error


def _parent_shape(parent: FrozenParent) -> Json:
    return asdict(parent) | {"frozen": True, "state": "frozen"}


def _unfrozen_shape(parent: UnfrozenParent) -> Json:
    # The keys of a frozen one, so that a script may read each of them of any.
    known = {"id": parent.name, "name": parent.name, "service": parent.service, "memory_bytes": parent.memory_bytes}
    unknown = {"host": None, "frozen_at": None, "fingerprint": None}
    return known | unknown | {"children": 0, "frozen": False, "state": _state(parent)}


def _state(parent: UnfrozenParent) -> str:
    return "running" if parent.running else "half made"
