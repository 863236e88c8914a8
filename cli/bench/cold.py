"""
The bench `cold-boot`: four VMs booted from cold at once, against four forked by the real command.

Both ways end at the same line: the fourth server's first good answer through Nginx. So a VM that was booted takes
its identity, joins the network and registers itself exactly as a child does.
"""

import base64
import os
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cli.bench import Context, Json, Run
from cli.bench.apart import PATIENCE, apart
from cli.bench.fleet import measure_scale_4
from cli.bench.parts import SERVICE, Player
from cli.parent import BOOT_TIMEOUT, build_guest_image
from forkyard import wire
from forkyard.errors import NotFound, NotReady
from forkyard.hypervisors.proof import read_report
from forkyard.hypervisors.qemu.driver import QemuHypervisor
from forkyard.hypervisors.qemu.guest_channel import GuestChannel
from forkyard.hypervisors.qemu.instance import Instance, read_instance
from forkyard.hypervisors.qemu.machine import NIC
from forkyard.hypervisors.qemu.network import attach, make_mac
from forkyard.hypervisors.qemu.qmp import Qmp
from forkyard.model import VmId
from forkyard.settings import Settings
from forkyard.world import open_world

VMS = 4
_CALL = timedelta(seconds=120)
"""For one answer of a guest that shares two cores with three others that boot."""


def measure_cold_boot(context: Context) -> Sequence[Run]:
    """Booting four of the game's VMs at once from cold, over forking four through the whole flow."""
    runs = []
    for _ in range(context.runs):
        (forked,) = measure_scale_4(replace(context, runs=1))
        cold = _boot_all(context)
        details: Json = {"cold_seconds": round(cold, 3), "forked_seconds": round(forked.value, 3)}
        runs.append(Run(cold / forked.value, details))
    return runs


def _boot_all(context: Context) -> float:
    policy = context.settings.service(SERVICE)
    image = build_guest_image(context.settings, memory_mib=policy.memory_mib, again=False)
    names = [f"cold-{os.getpid()}-{number}" for number in range(1, VMS + 1)]
    with apart(context.settings) as settings, ThreadPoolExecutor(VMS) as pool:
        hypervisor = QemuHypervisor(settings)
        context.say(f"booting {VMS} cold, at the same time")
        try:
            with Player(settings.nginx.url) as player:
                for number, name in enumerate(names):
                    pool.submit(_boot, hypervisor, settings, image, name, number).add_done_callback(_tell(context))
                return player.wait_for(VMS, BOOT_TIMEOUT)
        finally:
            for name in names:
                hypervisor.remove_parent(VmId(name), timeout=PATIENCE)
            _forget(context.settings, frozenset(names))


def _tell(context: Context) -> Callable[[Future[None]], None]:
    def tell(done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            context.say(f"a cold VM did not come up: {error}")

    return tell


def _boot(hypervisor: QemuHypervisor, settings: Settings, image: Path, name: str, number: int) -> None:
    hypervisor.start_parent(image, name, SERVICE, timeout=BOOT_TIMEOUT)
    instance = read_instance(settings.run_dir, settings.state_dir / "parents" / name)
    if instance is None:
        text = f"{name} was booted and is not on record"
        raise NotFound(text)
    _join(settings, instance, _make_identity(settings, name, number))


def _join(settings: Settings, instance: Instance, identity: wire.Identity) -> None:
    with GuestChannel(instance.agent, timeout=_CALL) as guest, Qmp(instance.qmp, timeout=_CALL) as qmp:
        read_report(guest.ask("identify", identity=wire.identity_to_wire(identity)), identity)
        attach(settings.qemu, instance.tap)
        qmp.execute("set_link", {"name": NIC, "up": True}, timeout=_CALL)
        answer = guest.ask("network")
    if answer.get("ok") is not True:
        text = f"{identity.name}: its network did not come up: {answer.get('error', answer)}"
        raise NotReady(text)


def _make_identity(settings: Settings, name: str, number: int) -> wire.Identity:
    network = settings.qemu.network
    # From the network's end, where a small fleet's children are not.
    address = str(IPv4Address(int(network.broadcast_address) - 1 - number))
    return wire.Identity(
        fork_id=str(uuid.uuid4()),
        request_id=str(uuid.uuid4()),
        service=SERVICE,
        name=name,
        mac=make_mac(address),
        address=f"{address}/{network.prefixlen}",
        gateway=None,
        machine_id=uuid.uuid4().hex,
        consul_node_id=str(uuid.uuid4()),
        consul_join=settings.consul.join,
        datacenter=settings.consul.datacenter,
        wall_clock=time.time(),
        seed=base64.b64encode(os.urandom(32)).decode(),
    )


def _forget(settings: Settings, names: frozenset[str]) -> None:
    with open_world(settings, SERVICE) as world:
        for entry in world.registry.registrations(SERVICE):
            if entry.node in names:
                world.registry.deregister(entry)
