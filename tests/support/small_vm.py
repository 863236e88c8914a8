"""A world of small VMs for tests: a namespace with a bridge, directories, an image, a frozen parent."""

import base64
import os
import secrets
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyroute2 import IPRoute, netns

from forkyard.hypervisors.qemu.driver import QemuHypervisor
from forkyard.hypervisors.qemu.instance import RUN, find_processes
from forkyard.model import ForkSpec, Identity, Stamp, Vm, VmId
from forkyard.processes import end, find_process
from forkyard.settings import QemuSettings, Settings
from lab.small_vm import build_small_image

CACHE = Path("/var/cache/forkyard")
SERVICE = "game"
PARENT = VmId("game")
PATIENCE = timedelta(seconds=90)
"""Long enough for a machine whose two cores boot several things at once."""


@dataclass(frozen=True, slots=True)
class SmallWorld:
    """Where small VMs live for a while."""

    settings: Settings
    image: Path

    def open(self) -> QemuHypervisor:
        """Make a driver, as each process has its own."""
        return QemuHypervisor(self.settings)

    def under(self, qemu: QemuSettings) -> "SmallWorld":
        """Make the same world under other QEMU settings."""
        return replace(self, settings=replace(self.settings, qemu=qemu))

    def start_parent(self, name: str = PARENT, *, freeze: bool = True) -> VmId:
        """Boot a parent, and freeze it."""
        hypervisor = self.open()
        parent = hypervisor.start_parent(self.image, name, SERVICE, timeout=PATIENCE)
        if freeze:
            hypervisor.freeze(parent, timeout=PATIENCE)
        return parent

    def copied(self, directory: Path) -> "SmallWorld":
        """Make a world in other directories with copies of the frozen parents, to be broken."""
        for parent in (self.settings.state_dir / "parents").iterdir():
            shutil.copytree(parent, directory / "state" / "parents" / parent.name)
        return replace(self, settings=replace(self.settings, state_dir=directory / "state", run_dir=directory / "run"))

    @property
    def parent_directory(self) -> Path:
        """Where the frozen parent's files are."""
        return self.settings.state_dir / "parents" / PARENT

    def processes(self) -> list[str]:
        """The ids of QEMU processes that run in this world."""
        return list(find_processes(self.settings.run_dir / RUN))

    def devices(self) -> dict[str, str]:
        """The children's devices in the namespace: `up` or `down` as they are on the bridge, or `alone`."""
        # In a thread that enters the namespace: `IPRoute(netns=...)` forks, and other threads may hold locks.
        with ThreadPoolExecutor(max_workers=1) as pool:
            return pool.submit(self._devices).result()

    def _devices(self) -> dict[str, str]:
        netns.setns(self.settings.qemu.namespace, flags=0)
        found = {}
        with IPRoute() as links:
            for link in links.get_links():
                name = link.get_attr("IFLA_IFNAME")
                if name.startswith("fy") and name != self.settings.qemu.bridge:
                    found[name] = link["state"] if link.get_attr("IFLA_MASTER") else "alone"
        return found

    def files(self) -> list[str]:
        """What is on disk of children and standbys, finished or not."""
        state, run = self.settings.state_dir, self.settings.run_dir
        places = (state / "vms", state / "standby", run / "q")
        return [str(entry) for place in places if place.exists() for entry in place.iterdir() if entry.is_dir()]

    def clear(self) -> None:
        """Destroy all children and standbys."""
        hypervisor = self.open()
        for vm in hypervisor.list_vms():
            hypervisor.destroy(vm.id, timeout=PATIENCE)
        hypervisor.cool()


@contextmanager
def small_world(directory: Path) -> Iterator[SmallWorld]:
    """Make the namespace and the directories; remove both, with every process in them, at the end."""
    name = f"fyq{secrets.token_hex(3)}"
    # A socket's path has at most 107 bytes, and pytest's own directories are long.
    run = Path(f"/tmp/{name}")  # noqa: S108 - a name of our own
    qemu = QemuSettings(namespace=name, bridge="fyq0", memory_reserve=256 << 20)
    settings = Settings(state_dir=directory / "state", run_dir=run, cache_dir=CACHE, qemu=qemu)
    settings.state_dir.mkdir(parents=True)
    netns.create(name)
    try:
        with IPRoute(netns=name, flags=0) as links:
            links.link("add", ifname=qemu.bridge, kind="bridge", br_stp_state=0, br_forward_delay=0)
            bridge = links.link_lookup(ifname=qemu.bridge)[0]
            links.addr("add", index=bridge, address="10.77.0.1", prefixlen=22)
            links.link("set", index=bridge, state="up")
        world = SmallWorld(settings, build_small_image(CACHE))
        try:
            yield world
        finally:
            world.clear()
            for parent in list((settings.state_dir / "parents").glob("*")):
                world.open().remove_parent(VmId(parent.name), timeout=PATIENCE)
    finally:
        netns.remove(name)
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(settings.state_dir, ignore_errors=True)


def make_stamp(fork_id: str | None = None, service: str = SERVICE) -> Stamp:
    """Make a stamp that nobody else has."""
    expires = datetime.now(UTC) + timedelta(minutes=10)
    return Stamp(service=service, fork_id=fork_id or str(uuid.uuid4()), request_id="test", expires=expires)


def make_spec(hypervisor: QemuHypervisor, name: str, stamp: Stamp | None = None) -> ForkSpec:
    """Ask for a child at the best placement."""
    return ForkSpec(name, stamp or make_stamp(), hypervisor.placements(SERVICE)[0])


def make_identity(vm: Vm) -> Identity:
    """Make the identity that belongs to a child: all but clock and seed follow from its fork, as the flows have it."""
    assert vm.mac
    assert vm.address
    return Identity(
        fork_id=vm.stamp.fork_id,
        request_id=vm.stamp.request_id,
        service=vm.stamp.service,
        name=vm.name,
        mac=vm.mac,
        address=f"{vm.address}/22",
        gateway=None,
        machine_id=uuid.uuid5(uuid.NAMESPACE_OID, f"{vm.stamp.fork_id}/machine").hex,
        consul_node_id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{vm.stamp.fork_id}/consul")),
        consul_join=(),
        datacenter="dc1",
        wall_clock=time.time(),
        seed=base64.b64encode(os.urandom(32)).decode(),
    )


def fork(hypervisor: QemuHypervisor, name: str) -> Vm:
    """Fork a child at the best placement."""
    return hypervisor.fork(make_spec(hypervisor, name), timeout=PATIENCE)


def assert_empty(world: SmallWorld) -> None:
    """Assert that nothing of children and standbys is there."""
    assert world.processes() == []
    assert world.devices() == {}
    assert world.files() == []
    assert world.open().list_strays(older_than=timedelta(0)) == []


def put_qemu_in_path(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let another `qemu-system-x86_64` be found first."""
    program = directory / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")  # noqa: TID251 - the test's own


def kill(vm: Vm) -> None:
    """Let a child's QEMU die as the kernel's out-of-memory killer has it die."""
    assert vm.pid
    kill_process(vm.pid)


def kill_process(pid: int) -> None:
    """Kill a QEMU and wait until nothing is left of it."""
    process = find_process(pid)
    assert process
    end(process, timeout=PATIENCE, first=signal.SIGKILL)
