"""Start a QEMU that restores a frozen parent, and restore it."""

import functools
import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

from forkyard.errors import Unsupported
from forkyard.hypervisors.qemu.accelerator import check_silence, choose_accelerator, host_cpu
from forkyard.hypervisors.qemu.instance import Instance, explained, make_instance, start_instance
from forkyard.hypervisors.qemu.machine import (
    EMULATED_CPU,
    NIC,
    Boot,
    Machine,
    Wiring,
    differences,
    machine_type,
    render_command,
)
from forkyard.hypervisors.qemu.network import check_namespace
from forkyard.hypervisors.qemu.parents import Frozen
from forkyard.hypervisors.qemu.qmp import Qmp
from forkyard.hypervisors.qemu.timing import Deadline, Steps
from forkyard.settings import Settings

BINARY = "qemu-system-x86_64"


class Launcher:
    """Starts QEMU as the settings say."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings."""
        self._settings = settings

    def host_machine(self, memory_mib: int) -> Machine:
        """
        What a parent made here now would be.

        Raises:
            Unsupported: there is no QEMU, or the accelerator that is wanted does not work.
        """
        accelerator = choose_accelerator(self._settings.qemu.accelerator, self._settings.run_dir)
        version = qemu_version()
        return Machine(
            qemu=version,
            type=machine_type(version),
            cpu="host" if accelerator == "kvm" else EMULATED_CPU,
            accelerator=accelerator,
            host_cpu=host_cpu() if accelerator == "kvm" else "",
            memory_mib=memory_mib,
        )

    def find_differences(self, frozen: Frozen) -> tuple[str, ...]:
        """
        Why this host cannot restore the parent, a sentence each.

        Raises:
            Unsupported: it can restore none at all.
            Unavailable: the parent is KVM's, and whether KVM works could not be told just now.
        """
        if frozen.machine.accelerator == "kvm" and self._settings.qemu.accelerator != "tcg":
            check_silence(self._settings.run_dir)
        return differences(frozen.machine, self.host_machine(frozen.machine.memory_mib))

    def check_machine(self, frozen: Frozen) -> None:
        """Raise Unsupported when this host cannot restore the parent; Unavailable as `find_differences` does."""
        problems = self.find_differences(frozen)
        if problems:
            text = (
                f"parent {frozen.name} cannot be forked here: {'; '.join(problems)}. Retire its children, remove it "
                f"(`forkyard parent remove {frozen.name}`), then build and freeze it anew on this host "
                f"(`forkyard parent build {frozen.service}`)."
            )
            raise Unsupported(text)

    def check_host(self, frozen: Frozen) -> None:
        """Raise Unsupported when this host cannot restore the parent, NotFound when its network is not there."""
        self.check_machine(frozen)
        check_namespace(self._settings.qemu)

    def boot(self, instance: Instance, machine: Machine, boot: Boot, memory: Path, disks: tuple[Path, ...]) -> None:
        """Start a parent-to-be from cold; its memory is the file, shared."""
        self._spawn(instance, machine, memory=memory, share=True, disks=disks, boot=boot)

    def start(self, place: Path, frozen: Frozen) -> Instance:
        """Start a QEMU that waits for the parent's state, with a disk of its own in *place*."""
        instance = make_instance(self._settings.run_dir, place, frozen.name, frozen.fingerprint)
        # A copy of an empty overlay made once takes 0.3 ms; having qemu-img make it takes 15.
        shutil.copyfile(frozen.directory / "overlay.qcow2", instance.disk)
        disks = (instance.disk, *frozen.disks)
        self._spawn(instance, frozen.machine, memory=frozen.directory / "memory", share=False, disks=disks, boot=None)
        return instance

    def start_waiting(self, place: Path, frozen: Frozen, *, timeout: timedelta) -> Instance:
        """Do the same and wait until QEMU answers: a standby."""
        instance = self.start(place, frozen)
        with explained(instance), Qmp(instance.qmp, timeout=timeout) as qmp:
            qmp.status(timeout=timeout)
        return instance

    def restore(self, instance: Instance, frozen: Frozen, deadline: Deadline, steps: Steps) -> None:
        """Restore the parent's device state and let the child run, its NIC down."""
        with Qmp(instance.qmp, timeout=deadline.left) as qmp:
            steps.done("connect")
            qmp.restore_state(frozen.directory / "state", timeout=deadline.left)
            steps.done("restore")
            # The link was down when the parent was frozen. Said again, because it must never be up here.
            qmp.execute("set_link", {"name": NIC, "up": False}, timeout=deadline.left)
            qmp.execute("cont", timeout=deadline.left)
            steps.done("continue")

    def _spawn(
        self,
        instance: Instance,
        machine: Machine,
        *,
        memory: Path,
        share: bool,
        disks: tuple[Path, ...],
        boot: Boot | None,
    ) -> None:
        def render(qmp: int, agent: int) -> list[str]:
            wiring = Wiring(
                process_name=instance.process_name,
                pid_file=instance.run / "qemu.pid",
                tap=instance.tap,
                memory=memory,
                share=share,
                disks=disks,
                qmp=qmp,
                agent=agent,
                serial=instance.serial if boot else None,
                boot=boot,
            )
            return render_command(machine, wiring)

        start_instance(instance, render, namespace=self._settings.qemu.namespace)


def qemu_version() -> str:
    """Version of the QEMU on PATH; raises Unsupported when there is none."""
    path = shutil.which(BINARY)
    if path is None:
        text = f"there is no {BINARY} on PATH. Install QEMU (Debian, Ubuntu: qemu-system-x86)."
        raise Unsupported(text)
    binary = Path(path).stat()
    return _ask_version(path, binary.st_mtime_ns, binary.st_size)


@functools.cache
def _ask_version(path: str, modified: int, size: int) -> str:  # noqa: ARG001 - another file is another version
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"version (\d+\.\d+\.\d+)", answer.stdout)
    if version is None:
        text = f"{path} does not tell its version: {answer.stdout}{answer.stderr}"
        raise Unsupported(text)
    return version[1]
