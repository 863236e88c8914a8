"""
The lab's vCenter: a process of ours with a cluster of simulated hosts, and guests that live in it.

Guests listen at addresses of 127.0.0.0/8. In a namespace these are the namespace's own, so the process is started in
there, with its two listening sockets opened here before: what a person reaches is 127.0.0.1 of the host.
"""

import json
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from forkyard.errors import NotReady
from forkyard.processes import ProcessRef, end, is_alive, tail
from forkyard.waiting import wait_for
from lab.daemons import read_ref, start_daemon
from lab.ports import listen

START_TIMEOUT = timedelta(seconds=60)
STOP_TIMEOUT = timedelta(seconds=10)
USER = "administrator@vsphere.local"
PASSWORD = "forkyard"  # noqa: S105 - of a simulator that listens on loopback
GUEST_USER = "root"
GUEST_PASSWORD = "guest"  # noqa: S105 - as above

DATACENTER = "yard"
CLUSTER = "yard-cluster"
FOLDER = "game"
POOL = "game"
NETWORK = "game-net"
DATASTORE = "vsanDatastore"


@dataclass(frozen=True, slots=True)
class VCenter:
    """What is to run."""

    directory: Path
    """Certificate, datastore, log, pid; gone when it is stopped."""
    hosts: int = 4
    namespace: str | None = None
    """Network namespace of its guests; None: the host's own."""
    port: int = 0
    """Of the vSphere API at 127.0.0.1; 0: any."""
    control_port: int = 0
    consul_url: str = ""
    """HTTP API as seen from the namespace; empty: guests register nowhere."""
    consul_datacenter: str = "dc1"
    service: str = "game"
    guest_port: int = 8080
    frozen: bool = True
    """Whether the parents are frozen when it starts."""
    esx: bool = False
    """A single ESXi host instead of a vCenter."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where a running one is."""

    url: str
    """Such as https://127.0.0.1:8989/sdk."""
    user: str
    password: str
    thumbprint: str
    """SHA-256 of the certificate, as pyVmomi takes it."""
    thumbprint_sha1: str
    certificate: Path
    """PEM file that a client may take as its authority."""
    control: str
    """URL of what a test may set; no part of vSphere."""
    guest_user: str
    guest_password: str
    pid: int

    @property
    def port(self) -> int:
        """Of the vSphere API at 127.0.0.1."""
        return int(self.url.rpartition(":")[2].partition("/")[0])


def start_vcenter(vcenter: VCenter, binary: Path) -> Door:
    """
    Start it unless it runs; return when it answers.

    Raises:
        CapacityExhausted: a port is in use.
        NotReady: it did not start; its last words are in the message.
    """
    running = find_vcenter(vcenter)
    if running is not None:
        return running
    # One that is still starting, because whoever started it was killed: nobody would find it any more.
    stop_vcenter(vcenter)
    vcenter.directory.mkdir(parents=True)
    log = vcenter.directory / "log"
    with ExitStack() as stack:
        sdk = stack.enter_context(listen("vcenter", vcenter.port))
        control = stack.enter_context(listen("vcenter's control", vcenter.control_port))
        descriptors = (sdk.fileno(), control.fileno())
        ref = start_daemon(
            _pid(vcenter),
            [str(binary), *_arguments(vcenter, *descriptors)],
            log=log,
            namespace=vcenter.namespace,
            pass_fds=descriptors,
        )
    try:
        return wait_for(lambda: _read_door(vcenter, ref), what="the vCenter", timeout=START_TIMEOUT)
    except NotReady as error:
        text = f"{error}: {tail(log)}"
        raise NotReady(text) from error


def find_vcenter(vcenter: VCenter) -> Door | None:
    """The running one, None when it does not run."""
    ref = read_ref(_pid(vcenter))
    return _read_door(vcenter, ref) if ref is not None else None


def is_started(vcenter: VCenter) -> bool:
    """Whether its process runs, even when it does not answer yet."""
    return read_ref(_pid(vcenter)) is not None


def vcenter_trouble(vcenter: VCenter) -> str:
    """What is wrong with it; empty text when nothing is."""
    return "" if find_vcenter(vcenter) else f"the vCenter does not run: {tail(vcenter.directory / 'log', 2)}"


def stop_vcenter(vcenter: VCenter) -> None:
    """End it and all its guests, and remove what it kept; absent is success."""
    ref = read_ref(_pid(vcenter))
    if ref is not None:
        end(ref, timeout=STOP_TIMEOUT)
    shutil.rmtree(vcenter.directory, ignore_errors=True)


def _arguments(vcenter: VCenter, sdk: int, control: int) -> list[str]:
    return [
        f"-listen-fd={sdk}",
        f"-control-fd={control}",
        f"-hosts={vcenter.hosts}",
        f"-state={vcenter.directory / 'state'}",
        f"-ready={vcenter.directory / 'ready.json'}",
        f"-consul={vcenter.consul_url}",
        f"-datacenter={vcenter.consul_datacenter}",
        f"-service={vcenter.service}",
        f"-port={vcenter.guest_port}",
        f"-frozen={str(vcenter.frozen).lower()}",
        f"-esx={str(vcenter.esx).lower()}",
    ]


def _read_door(vcenter: VCenter, ref: ProcessRef) -> Door | None:
    if not is_alive(ref):
        text = f"the vCenter ended: {tail(vcenter.directory / 'log')}"
        raise NotReady(text)
    try:
        said = json.loads((vcenter.directory / "ready.json").read_text())
    except FileNotFoundError:
        return None
    secrets = {"password": PASSWORD, "guest_password": GUEST_PASSWORD}
    return Door(**{**said, **secrets, "certificate": Path(said["certificate"])})


def _pid(vcenter: VCenter) -> Path:
    return vcenter.directory / "pid"
