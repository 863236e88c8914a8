"""
Bring a parent up from an image and freeze it: from nothing to an immutable directory that is forked.

Until its manifest is written a parent is only a VM in the making; whatever stops in between is cleared
by the next `start`.
"""

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from forkyard.errors import NotFound, NotReady, PermanentError, TransientError, VerificationFailed
from forkyard.hypervisors.qemu.children import Record
from forkyard.hypervisors.qemu.guest_channel import GuestChannel
from forkyard.hypervisors.qemu.instance import (
    Instance,
    end_instance,
    explained,
    get_process,
    make_instance,
    read_instance,
)
from forkyard.hypervisors.qemu.launcher import Launcher
from forkyard.hypervisors.qemu.machine import NIC, Boot, Machine, machine_from_record, machine_to_record
from forkyard.hypervisors.qemu.network import check_namespace
from forkyard.hypervisors.qemu.parents import FILES, PARENT, Frozen, ParentStore
from forkyard.hypervisors.qemu.qmp import Qmp
from forkyard.hypervisors.qemu.records import as_record, make_directory, read_record, remove_directory, write_record
from forkyard.hypervisors.qemu.timing import Deadline, Steps
from forkyard.model import VmId
from forkyard.processes import is_alive, tail
from forkyard.settings import Settings
from forkyard.waiting import wait_for

logger = logging.getLogger(__name__)

_MACHINE = "machine"
"""Key of what runs the parent, in its record."""
_STOPPED = {"paused", "finish-migrate", "postmigrate"}
"""QEMU's words for a VM that a freeze has stopped, whose state is being saved, and is saved."""
_END = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class Image:
    """An image directory, as the recipe makes it."""

    directory: Path
    fingerprint: str
    memory_mib: int
    command_line: str


@dataclass(frozen=True, slots=True)
class UnfrozenParent:
    """A parent before it is frozen."""

    name: str
    service: str
    memory_bytes: int
    running: bool
    """False: half made; what made it was killed, and the next start clears it."""


class Nursery:
    """Starts, freezes and removes parents."""

    def __init__(self, settings: Settings, host: str, parents: ParentStore, launcher: Launcher) -> None:
        """Take what it works with."""
        self._settings = settings
        self._host = host
        self._parents = parents
        self._launcher = launcher

    def start(self, image: Path, name: str, service: str, *, timeout: timedelta, memory_mib: int | None) -> VmId:
        """Boot the image until its agent waits at the fork point; see the driver."""
        deadline = Deadline(timeout)
        source = read_image(image)
        check_namespace(self._settings.qemu)
        machine = self._launcher.host_machine(memory_mib or source.memory_mib)
        directory = self._parents.path(name)
        record: dict[str, object] = {
            "name": name,
            "service": service,
            "image": source.fingerprint,
            "memory_mib": machine.memory_mib,
        }
        make_directory(directory, PARENT, record)
        with self._parents.held(name, timeout=deadline.left, shared=False):
            self._refuse_other(name, record)
            instance = read_instance(self._settings.run_dir, directory)
            if instance is None or get_process(instance) is None:
                instance = self._boot(source, name, record, machine)
            try:
                with explained(instance):
                    _wait_for_fork_point(instance, deadline)
            except BaseException as error:
                last = tail(instance.serial)
                end_instance(instance, timeout=_END)
                remove_directory(directory)
                if isinstance(error, TransientError | VerificationFailed):
                    text = f"parent {name}: {error}. Its console said last: {last}"
                    raise type(error)(text) from error
                raise
        return VmId(name)

    def freeze(self, name: str, *, timeout: timedelta) -> Frozen:
        """Quiesce the application, stop the VM, save its state, and seal what there is."""
        deadline, steps = Deadline(timeout), Steps()
        with self._parents.held(name, timeout=deadline.left, shared=False):
            there = self._parents.find(name)
            if there is not None:
                return there
            directory = self._parents.path(name)
            record, instance = read_record(directory / PARENT), read_instance(self._settings.run_dir, directory)
            if record is None or instance is None or get_process(instance) is None:
                service = record["service"] if record else "SERVICE"
                text = (
                    f"parent {name} does not run and is not frozen. Start it again (`forkyard parent build {service}`)."
                )
                raise NotFound(text)
            machine = _read_machine(name, record)
            with explained(instance):
                self._save(instance, directory, deadline, steps)
            end_instance(instance, timeout=_END)
            _finish_files(directory)
            frozen = self._parents.seal(name, str(record["service"]), self._host, datetime.now(UTC), machine)
            steps.done("seal")
        logger.debug("%s: frozen: %s", name, steps)
        return frozen

    def list_unfrozen(self) -> list[UnfrozenParent]:
        """All parents that are not frozen, by name."""
        return [self._look(path) for path in self._parents.list_unfrozen()]

    def remove(
        self,
        name: str,
        list_children: Callable[[], Sequence[Record]],
        *,
        cool: Callable[[], object],
        timeout: timedelta,
    ) -> bool:
        """
        Remove a parent in any state, and say whether there was one; refused while it has children.

        *cool* ends what waits for its forks: not before it is certain that there will be none.
        """
        directory = self._parents.path(name)
        if not directory.exists():
            cool()
            return False
        with self._parents.held(name, timeout=timeout, shared=False):
            children = [record.name for record in list_children() if record.parent == name]
            if children:
                some = ", ".join(children[:5]) + (", ..." if children[5:] else "")
                text = f"parent {name} has {len(children)} children that share its memory ({some}). Retire them first."
                raise PermanentError(text)
            cool()
            instance = read_instance(self._settings.run_dir, directory)
            if instance is not None:
                end_instance(instance, timeout=_END)
            remove_directory(directory)
            self._parents.forget(name)
        return True

    def _look(self, directory: Path) -> UnfrozenParent:
        record, instance = read_record(directory / PARENT) or {}, read_instance(self._settings.run_dir, directory)
        running = instance is not None and get_process(instance) is not None
        memory = int(str(record.get("memory_mib", 0))) << 20
        return UnfrozenParent(directory.name, str(record.get("service", "")), memory, running)

    def _refuse_other(self, name: str, wanted: dict[str, object]) -> None:
        frozen = self._parents.find(name)
        if frozen is not None:
            self._launcher.check_machine(frozen)
            text = f"parent {name} is frozen already. Use it, or remove it first (`forkyard parent remove {name}`)."
            raise PermanentError(text)
        there = read_record(self._parents.path(name) / PARENT) or {}
        there.pop(_MACHINE, None)
        if there != wanted:
            text = f"parent {name} is being made from another image or for another service: {there}. Remove it first."
            raise PermanentError(text)

    def _boot(self, image: Image, name: str, record: dict[str, object], machine: Machine) -> Instance:
        directory = self._parents.path(name)
        for file in FILES:
            (directory / file).unlink(missing_ok=True)
        base = directory / "base.qcow2"
        _link_or_copy(image.directory / "disk.qcow2", base)
        _make_overlay(directory / "disk.qcow2", base)
        # Before it runs: when it is frozen this host may have another QEMU, and the state is this one's.
        write_record(directory / PARENT, record | {_MACHINE: machine_to_record(machine)})
        instance = make_instance(self._settings.run_dir, directory, name, "")
        boot = Boot(image.directory / "vmlinuz", image.directory / "initrd.img", image.command_line)
        self._launcher.boot(instance, machine, boot, directory / "memory", (directory / "disk.qcow2", base))
        with explained(instance), Qmp(instance.qmp, timeout=_END) as qmp:
            qmp.execute("set_link", {"name": NIC, "up": False}, timeout=_END)
        return instance

    def _save(self, instance: Instance, directory: Path, deadline: Deadline, steps: Steps) -> None:
        with (
            GuestChannel(instance.agent, timeout=deadline.left) as guest,
            Qmp(instance.qmp, timeout=deadline.left) as qmp,
        ):
            if qmp.status(timeout=deadline.left) == "running":
                answer = guest.ask("quiesce")
                if answer.get("ok") is not True:
                    text = (
                        f"parent {instance.parent}: the application did not become idle: {answer.get('error', answer)}"
                    )
                    raise NotReady(text)
                steps.done("quiesce")
                qmp.execute("stop", timeout=deadline.left)
            qmp.save_state(directory / "state", timeout=deadline.left)
            steps.done("save")
            process = get_process(instance)
            qmp.execute("quit", timeout=deadline.left)
        if process is not None:
            # By itself: only a QEMU that closed its disk has written all of it.
            wait_for(
                lambda: None if is_alive(process) else True, what=f"end of QEMU {instance.id}", timeout=deadline.left
            )
        steps.done("quit")


def _wait_for_fork_point(instance: Instance, deadline: Deadline) -> None:
    """Wait until the guest's agent waits, or is known to have: a VM that a freeze has stopped can answer nothing."""
    with Qmp(instance.qmp, timeout=deadline.left) as qmp:
        if qmp.status(timeout=deadline.left) in _STOPPED:
            return
    with GuestChannel(instance.agent, timeout=deadline.left) as guest:
        guest.wait_for_state("waiting", "quiesced")


def _read_machine(name: str, record: dict[str, object]) -> Machine:
    """What the parent runs on; raises PermanentError when nobody put it on record."""
    machine = as_record(record.get(_MACHINE))
    if machine is None:
        text = (
            f"parent {name} was started by an older forkyard, which did not record its machine. Remove it "
            f"(`forkyard parent remove {name}`) and build it again (`forkyard parent build {record['service']}`)."
        )
        raise PermanentError(text)
    return machine_from_record(machine)


def read_image(directory: Path) -> Image:
    """What an image directory says of itself; raises NotFound naming what is missing or broken."""
    missing = [
        file for file in ("vmlinuz", "initrd.img", "disk.qcow2", "image.json") if not (directory / file).is_file()
    ]
    if missing:
        text = f"{directory} is no image: {', '.join(missing)} is missing. Build one (`forkyard parent build`)."
        raise NotFound(text)
    try:
        said = json.loads((directory / "image.json").read_bytes())
        return Image(directory, str(said["fingerprint"]), int(said["memory_mib"]), str(said["kernel_cmdline"]))
    except (ValueError, KeyError, TypeError) as error:
        text = f"{directory / 'image.json'} is broken: {error!r}. Build the image again (`forkyard parent build`)."
        raise NotFound(text) from error


def _finish_files(directory: Path) -> None:
    """Make the overlay that children copy, and have all files on the disk itself."""
    overlay = directory / "overlay.qcow2"
    overlay.unlink(missing_ok=True)
    _make_overlay(overlay, directory / "disk.qcow2")
    for file in FILES:
        descriptor = os.open(directory / file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make_overlay(overlay: Path, backing: Path) -> None:
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(backing.resolve()), "-F", "qcow2", str(overlay)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        text = f"{overlay} could not be made: {made.stderr.strip()}"
        raise PermanentError(text)


def _link_or_copy(source: Path, target: Path) -> None:
    # The image may be built again under its name (the cache is only a cache): a link keeps this one.
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
