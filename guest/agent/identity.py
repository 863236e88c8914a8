"""
Take a new identity: each of the 13 points of `wire.POINTS` is set, looked at again, and reported.

Fails closed: the first point that cannot be proved ends it, and all that were not reached count as not proved.
Everything may be done again with the same identity.
"""

import base64
import hashlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from forkyard import wire
from guest.agent import clock, host_keys, randomness, sockets
from guest.agent.app import App, AppIdentity
from guest.agent.consul_agent import ConsulAgent
from guest.agent.docker_events import Containers
from guest.agent.errors import AgentError, PointFailed
from guest.agent.files import read_or_empty, write_whole
from guest.agent.network import Network
from guest.agent.settings import AgentSettings

log = logging.getLogger(__name__)

IDENTITY_FILE = "identity.json"
DUID_UUID = "00:04:"
"""DUID type 4, a UUID (RFC 6355); networkd takes the type apart from the data."""
DHCP_LEASES = (
    "run/systemd/netif/leases/*",
    "var/lib/dhcp/*.leases",
    "var/lib/dhcpcd/*",
    "var/lib/NetworkManager/*.lease",
)

Outcome = tuple[str, str]
"""Value and detail of one point."""


class Identifier:
    """Makes the machine that it runs on somebody else."""

    def __init__(
        self, settings: AgentSettings, network: Network, app: App, consul: ConsulAgent, containers: Containers
    ) -> None:
        """Know all that has to change."""
        self._settings = settings
        self._network = network
        self._app = app
        self._consul = consul
        self._containers = containers
        self._step_clock = clock.step_by_rtc if settings.is_under_vsphere else clock.step
        self._answer: AppIdentity | None = None

    def take(self, identity: wire.Identity, received: float) -> wire.IdentityReport:
        """
        Take *identity*, which arrived when `time.monotonic()` was *received*.

        The device is up and has its address afterwards, but the host still withholds its carrier.
        """
        steps = self._steps(identity, received)
        reports: dict[str, wire.PointReport] = {}
        for point, step in steps.items():
            reports[point] = _report(point, step)
            if not reports[point].proved:
                break
        missing = {p: wire.PointReport(p, "", proved=False, seconds=0.0, detail="not reached") for p in wire.POINTS}
        points = tuple((missing | reports)[point] for point in wire.POINTS)
        return wire.IdentityReport(identity.fork_id, points, time.monotonic() - received)

    def rehearse(self, scratch: Path) -> None:
        """
        Take this machine's own present identity, its files below *scratch*, which is removed again.

        What runs for the first time loads, compiles and caches (OpenSSL's providers, netlink's message
        classes): before the fork that is paid for once, after it by every child.
        """
        settings = replace(self._settings, root=scratch, shared_dir=scratch)
        twin = Identifier(settings, self._network, self._app, self._consul, self._containers)
        now = _own_identity()
        randomness.reseed(now.seed)
        clock.read_rtc()
        clock.step(now.wall_clock, time.monotonic())
        twin._write_identity(now)
        twin._set_hostname(now.name)
        twin._set_machine_id(now.machine_id)
        twin._set_dhcp_client_id(now.machine_id)
        host_keys.replace_host_keys(scratch, now.name)
        self._network.rehearse()
        self._consul.render(now)
        for pid in [os.getpid(), *self._containers.pids()]:
            sockets.foreign_connections(pid, self._network.local_networks())
        points = tuple(_report(point, lambda: ("", "")) for point in wire.POINTS)
        wire.encode(wire.report_to_wire(wire.IdentityReport(now.fork_id, points, 0.0)))
        wire.identity_from_wire(wire.decode(wire.encode(wire.identity_to_wire(now))))
        shutil.rmtree(scratch)

    def _steps(self, identity: wire.Identity, received: float) -> dict[str, Callable[[], Outcome]]:
        # Randomness comes first, because keys are made of it, and the clock second, because files are
        # dated by it. The app is told when all that it could look at is true, and connections are
        # counted after the app has closed its own.
        return {
            "kernel_rng": lambda: (randomness.reseed(identity.seed), "reseeded with the host's bytes"),
            "clock": lambda: self._step_clock(identity.wall_clock, received),
            "fork_uuid": lambda: self._write_identity(identity),
            "hostname": lambda: self._set_hostname(identity.name),
            "machine_id": lambda: self._set_machine_id(identity.machine_id),
            "dhcp_client_id": lambda: self._set_dhcp_client_id(identity.machine_id),
            "ssh_host_keys": lambda: (host_keys.replace_host_keys(self._settings.root, identity.name), ""),
            "mac": lambda: (self._network.set_mac(identity.mac), self._settings.interface),
            "address": lambda: (self._network.set_address(identity.address, identity.gateway), ""),
            "consul_node": lambda: (self._consul.prepare(identity), "configured; the agent has read nothing yet"),
            "app": lambda: self._reidentify_app(identity),
            "container_identity": lambda: self._prove_container_identity(identity),
            "tcp_connections": self._drop_connections,
        }

    def _write_identity(self, identity: wire.Identity) -> Outcome:
        public = {k: v for k, v in wire.identity_to_wire(identity).items() if k != "seed"}
        path = self._settings.shared_dir / IDENTITY_FILE
        write_whole(path, json.dumps(public) + "\n")
        if json.loads(path.read_text()) != public:
            text = f"{path} does not hold what was written"
            raise PointFailed(text)
        return identity.fork_id, str(path)

    def _set_hostname(self, name: str) -> Outcome:
        etc = self._settings.root / "etc"
        old = read_or_empty(etc / "hostname").strip()
        socket.sethostname(name)
        write_whole(etc / "hostname", name + "\n")
        write_whole(etc / "hosts", rename_host(read_or_empty(etc / "hosts"), old, name))
        found = (os.uname().nodename, read_or_empty(etc / "hostname").strip())
        if found != (name, name):
            text = f"the kernel says {found[0]} and /etc/hostname {found[1]}, not {name}"
            raise PointFailed(text)
        return name, f"was {old}" if old else ""

    def _set_machine_id(self, machine_id: str) -> Outcome:
        if len(machine_id) != 32 or not set(machine_id) <= set("0123456789abcdef"):  # noqa: PLR2004 - machine-id(5)
            text = f"{machine_id!r} is not 32 lower-case hexadecimal digits"
            raise PointFailed(text)
        main = self._settings.root / "etc/machine-id"
        dbus = self._settings.root / "var/lib/dbus/machine-id"
        write_whole(main, machine_id + "\n", 0o444)
        if not dbus.is_symlink() and dbus.parent.is_dir():
            write_whole(dbus, machine_id + "\n", 0o444)
        for path in (main, dbus):
            if path.is_file() and path.read_text().strip() != machine_id:
                text = f"{path} does not hold {machine_id}"
                raise PointFailed(text)
        return machine_id, "programs that read it at boot see it after their restart"

    def _set_dhcp_client_id(self, machine_id: str) -> Outcome:
        # Hashed, because the machine-id itself should not go out on the network (machine-id(5)).
        raw = hashlib.sha256(b"forkyard dhcp client id " + machine_id.encode()).digest()[:16].hex(":")
        root = self._settings.root
        path = root / "etc/systemd/networkd.conf.d/50-forkyard.conf"
        text = "".join(f"[{s}]\nDUIDType=uuid\nDUIDRawData={raw}\n" for s in ("DHCPv4", "DHCPv6"))
        write_whole(path, text)
        leases = [lease for pattern in DHCP_LEASES for lease in root.glob(pattern)]
        for lease in leases:
            lease.unlink()
        if path.read_text() != text or any(lease.exists() for lease in leases):
            problem = f"{path} or a lease of the parent's could not be replaced"
            raise PointFailed(problem)
        return DUID_UUID + raw, f"{len(leases)} of the parent's leases forgotten"

    def _reidentify_app(self, identity: wire.Identity) -> Outcome:
        self._answer = self._app.reidentify(identity)
        return self._answer.fingerprint, self._app.settings.container

    def _prove_container_identity(self, identity: wire.Identity) -> Outcome:
        answer = self._answer
        if answer is None or (answer.child, answer.fork_id) != (identity.name, identity.fork_id):
            found = f"{answer.child} of fork {answer.fork_id}" if answer else "nobody"
            text = f"the app says that it is {found}, not {identity.name} of fork {identity.fork_id}"
            raise PointFailed(text)
        return f"{answer.child} {answer.fork_id}", "as the app itself says"

    def _drop_connections(self) -> Outcome:
        dropped = sockets.drop_foreign(self._containers.pids(), self._network.local_networks())
        return "none", f"{dropped} of the parent's were reset"


def _own_identity() -> wire.Identity:
    """An identity that changes nothing: what this machine is called and believes now."""
    return wire.Identity(
        fork_id="rehearsal",
        request_id="",
        service="",
        name=socket.gethostname(),
        mac="",
        address="127.0.0.1/8",
        gateway=None,
        machine_id="0" * 32,
        consul_node_id="",
        consul_join=("127.0.0.1",),
        datacenter="dc1",
        wall_clock=time.time(),
        seed=base64.b64encode(os.urandom(randomness.SEED_BYTES)).decode(),
    )


def rename_host(hosts: str, old: str, new: str) -> str:
    """The text of /etc/hosts with *new* in *old*'s place, and a line for it if there was none."""
    lines = [
        " ".join(new if word == old else word for word in line.split()) if old in line.split() else line
        for line in hosts.splitlines()
    ]
    if not any(new in line.split()[1:] for line in lines):
        lines.append(f"127.0.1.1 {new}")
    return "\n".join(lines) + "\n"


def _report(point: str, step: Callable[[], Outcome]) -> wire.PointReport:
    began = time.monotonic()
    try:
        value, detail = step()
    except (AgentError, OSError) as error:
        return wire.PointReport(point, "", proved=False, seconds=time.monotonic() - began, detail=str(error))
    except Exception as error:  # whatever it was, the point is not proved and the host must hear so
        log.exception("%s", point)
        text = f"{type(error).__name__}: {error}"
        return wire.PointReport(point, "", proved=False, seconds=time.monotonic() - began, detail=text)
    return wire.PointReport(point, value, proved=True, seconds=time.monotonic() - began, detail=detail)


def read_identity(shared_dir: Path) -> wire.Identity | None:
    """The identity that this machine has, without its seed; None when it has none."""
    text = read_or_empty(shared_dir / IDENTITY_FILE)
    return wire.identity_from_wire(json.loads(text) | {"seed": ""}) if text else None
