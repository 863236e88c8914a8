"""The bench of the hypervisor alone: fork-100 with small VMs."""

import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

from cli.bench import Context, Json, Run
from cli.bench.apart import PATIENCE, apart
from cli.bench.parts import SERVICE
from forkyard.errors import PermanentError
from forkyard.hypervisors.qemu.children import ChildStore
from forkyard.hypervisors.qemu.driver import QemuHypervisor
from forkyard.hypervisors.qemu.guest_channel import GuestChannel
from forkyard.hypervisors.qemu.instance import Instance, end_instance
from forkyard.hypervisors.qemu.launcher import Launcher
from forkyard.hypervisors.qemu.parents import ParentStore
from forkyard.hypervisors.qemu.timing import Deadline, Steps
from forkyard.model import ForkSpec, Stamp, VmId
from forkyard.names import make_child_name, make_fork_id, new_request_id
from forkyard.settings import Settings

CHILDREN = 100
_PARENT = VmId("small")


def measure_fork_100(context: Context) -> Sequence[Run]:
    """100 forks by the driver, over the bare loop in the same run: start, restore, first answer, the next."""
    with _small_parent(context) as settings:
        return [_fork_once(context, settings) for _ in range(context.runs)]


def _fork_once(context: Context, settings: Settings) -> Run:
    context.say(f"{CHILDREN} small VMs by the bare loop")
    bare = _bare_loop(settings)
    context.say(f"{CHILDREN} small VMs by the driver")
    unprepared = _fork_all(settings)
    context.say(f"{CHILDREN} small VMs by the driver, their processes started ahead")
    waiting = QemuHypervisor(settings).warm(_PARENT, CHILDREN, timeout=PATIENCE)
    forked = _fork_all(settings)
    details: Json = {
        "children": CHILDREN,
        "seconds": round(forked, 3),
        "bare_loop_seconds": round(bare, 3),
        "standbys_started_ahead": waiting,
        "seconds_without_standbys": round(unprepared, 3),
    }
    return Run(forked / bare, details)


def _fork_all(settings: Settings) -> float:
    hypervisor = QemuHypervisor(settings)
    request = new_request_id()
    place = hypervisor.placements(SERVICE)[0]
    store = ChildStore(settings, place.host)

    def fork(number: int) -> None:
        name = make_child_name(SERVICE, request, number)
        expires = datetime.now(UTC) + PATIENCE
        stamp = Stamp(SERVICE, make_fork_id(request, name), request, expires)
        hypervisor.fork(ForkSpec(name, stamp, place), timeout=PATIENCE)
        instance = store.instance(name)
        if instance is None:
            text = f"{name} was forked and is not on record"
            raise PermanentError(text)
        _first_answer(instance)

    started = time.monotonic()
    try:
        # As many at a time as the driver asks for: more only take each other's processors.
        with ThreadPoolExecutor(place.at_once) as pool:
            list(pool.map(fork, range(1, CHILDREN + 1)))
        return time.monotonic() - started
    finally:
        for vm in hypervisor.list_vms(SERVICE):
            hypervisor.destroy(vm.id, timeout=PATIENCE)


def _bare_loop(settings: Settings) -> float:
    frozen = ParentStore(settings.state_dir / "parents", settings.run_dir / "verified").get(_PARENT)
    launcher = Launcher(settings)
    places = [settings.state_dir / "bare" / str(number) for number in range(CHILDREN)]
    instances: list[Instance] = []
    try:
        started = time.monotonic()
        for place in places:
            place.mkdir(parents=True)
            instance = launcher.start(place, frozen)
            instances.append(instance)
            launcher.restore(instance, frozen, Deadline(PATIENCE), Steps())
            _first_answer(instance)
        return time.monotonic() - started
    finally:
        for instance in instances:
            end_instance(instance, timeout=PATIENCE)
        shutil.rmtree(settings.state_dir / "bare", ignore_errors=True)


def _first_answer(instance: Instance) -> None:
    with GuestChannel(instance.agent, timeout=PATIENCE) as guest:
        guest.hello()


@contextmanager
def _small_parent(context: Context) -> Iterator[Settings]:
    from lab.small_vm import build_small_image  # noqa: PLC0415 - this bench only

    image = build_small_image(context.settings.cache_dir)
    with apart(context.settings) as settings:
        hypervisor = QemuHypervisor(settings)
        context.say("a small parent")
        try:
            hypervisor.start_parent(image, _PARENT, SERVICE, timeout=PATIENCE)
            hypervisor.freeze(_PARENT, timeout=PATIENCE)
            yield settings
        finally:
            hypervisor.remove_parent(_PARENT, timeout=PATIENCE)
