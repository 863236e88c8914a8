"""
A machine for the guest agent without a VM: network, UTS and mount namespaces, a Docker of its own, a Consul.

    outside (namespace)  10.79.0.1: a Consul server
        │ veth
    machine (namespace)  eth0; dockerd with its own root, socket and bridge; a Consul agent at the gate;
                         the guest agent, on a Unix socket instead of a virtio-serial port

The app is busybox's httpd with three small CGI scripts as hooks. The clock and the kernel's randomness
are this machine's real ones: the clock is only ever set to what it is.
"""

import base64
import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import struct
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import consul
import docker
from pyroute2 import NetNS, netns

from forkyard import wire
from forkyard.processes import ProcessRef, end, spawn, tail
from forkyard.settings import Settings
from forkyard.waiting import wait_for
from lab.consul import find_consul
from lab.daemons import call_inside

SERVER = "10.79.0.1"
PROJECT = Path(__file__).parents[2]
PATIENCE = timedelta(seconds=60)
PARENT_MAC = "02:00:00:00:79:01"

HEALTH = r"""#!/bin/sh
echo asked >> /tmp/asked
answer=$(cat /tmp/health 2>/dev/null || cat /tmp/once 2>/dev/null || echo 200)
rm -f /tmp/once
printf 'Status: %s\r\n\r\n' "$answer"
"""
QUIESCE = "#!/bin/sh\nprintf 'Status: 200\\r\\nContent-Type: application/json\\r\\n\\r\\n{}'\n"
REIDENTIFY = r"""#!/bin/sh
read -r body
name=$(echo "$body" | sed 's/.*"name": "\([^"]*\)".*/\1/')
fork=$(echo "$body" | sed 's/.*"fork_id": "\([^"]*\)".*/\1/')
print=$(echo "$body" | sha256sum | cut -c1-32)
[ -f /tmp/stubborn ] && name=$(cat /tmp/stubborn)
printf 'Status: 200\r\nContent-Type: application/json\r\n\r\n'
printf '{"child": "%s", "fork_id": "%s", "fingerprint": "%s"}' "$name" "$fork" "$print"
"""
SCRIPTS = {"healthz": HEALTH, "quiesce": QUIESCE, "reidentify": REIDENTIFY}
IMAGE = "forkyard-test-app"


def app_image() -> bytes:
    """A root filesystem with a static busybox and the app's hooks, as a tar archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for directory in ("bin", "tmp", "www", "www/cgi-bin", "run", "run/forkyard"):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        busybox = Path("/bin/busybox").read_bytes()
        _add(tar, "bin/busybox", busybox)
        for name in ("sh", "cat", "sed", "sha256sum", "cut", "httpd", "rm", "touch", "nc", "sleep", "wc"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name, script in SCRIPTS.items():
            _add(tar, f"www/cgi-bin/{name}", script.encode())
    return archive.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o755
    tar.addfile(info, io.BytesIO(content))


def consul_get(namespace: str, path: str, address: tuple[str, int]) -> Any:  # noqa: ANN401 - whatever Consul says
    """GET one path of Consul's API, from inside *namespace*; None while it does not answer."""
    return call_inside(namespace, lambda: _get(path, address))


def _get(path: str, address: tuple[str, int]) -> Any:  # noqa: ANN401 - whatever Consul says
    connection = http.client.HTTPConnection(*address, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return json.loads(answer.read()) if answer.status == http.HTTPStatus.OK else None
    except OSError:
        return None
    finally:
        connection.close()


@dataclass
class AgentMachine:
    """One pretended VM."""

    directory: Path
    name: str
    processes: dict[str, ProcessRef] = field(default_factory=dict)
    identity: wire.Identity | None = None
    """The one that a test gave it."""

    @property
    def namespace(self) -> str:
        """The machine's own network."""
        return f"{self.name}-vm"

    @property
    def outside(self) -> str:
        """The network that the Consul server is in."""
        return f"{self.name}-out"

    @property
    def consul(self) -> Path:
        """Consul's program."""
        return find_consul(Settings().cache_dir)

    @property
    def docker_url(self) -> str:
        """Where the machine's Docker listens."""
        return f"unix://{self.directory}/docker.sock"

    def docker(self) -> docker.DockerClient:
        """A client of the machine's Docker; the caller closes it."""
        return docker.DockerClient(base_url=self.docker_url, timeout=30)

    def start(self, name: str, argv: list[str], *, namespace: str | None, env: dict[str, str] | None = None) -> None:
        """Start one of the machine's processes."""
        log = self.directory / f"{name}.log"
        self.processes[name] = spawn(argv, log=log, namespace=namespace, env={**os.environ, **(env or {})})  # noqa: TID251 - inherit PATH

    def end(self, name: str) -> None:
        """End one of them; a Consul agent that stands at the gate hears no SIGTERM."""
        at_gate = name == "consul" and (self.directory / "consul/gate.hcl").is_fifo()
        first = signal.SIGKILL if at_gate else signal.SIGTERM
        end(self.processes.pop(name), timeout=timedelta(seconds=20), first=first)

    def make_network(self) -> None:
        """Two namespaces and a cable between them; the machine's end is up and has the parent's MAC and address."""
        for namespace in (self.outside, self.namespace):
            netns.create(namespace)
        with NetNS(self.outside) as outside:
            outside.link("add", ifname="out0", kind="veth", peer={"ifname": "eth0", "net_ns_fd": self.namespace})
            outside.link("set", index=outside.link_lookup(ifname="lo")[0], state="up")
            index = outside.link_lookup(ifname="out0")[0]
            outside.addr("add", index=index, address=SERVER, prefixlen=24)
            outside.link("set", index=index, state="up")
        with NetNS(self.namespace) as machine:
            machine.link("set", index=machine.link_lookup(ifname="lo")[0], state="up")
            index = machine.link_lookup(ifname="eth0")[0]
            machine.link("set", index=index, address=PARENT_MAC)
            machine.addr("add", index=index, address="10.79.0.9", prefixlen=24)
            machine.link("set", index=index, state="up")

    def start_docker(self) -> None:
        """A Docker of the machine's own; its containers survive its restart as those of a real one do not."""
        at = self.directory
        argv = ["dockerd", f"--host={self.docker_url}", f"--data-root={at}/docker", f"--exec-root={at}/exec"]
        argv += [f"--pidfile={at}/docker.pid", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        argv += ["--storage-driver=vfs", "--exec-opt=native.cgroupdriver=cgroupfs", f"--config-file={at}/daemon.json"]
        (at / "daemon.json").write_text("{}")
        self.start("dockerd", argv, namespace=self.namespace)
        wait_for(self._docker_answers, what=f"dockerd: {tail(at / 'dockerd.log')}", timeout=PATIENCE)

    def _docker_answers(self) -> bool | None:
        try:
            client = self.docker()
        except docker.errors.DockerException:
            return None
        client.close()
        return True

    def start_server(self) -> None:
        """A Consul server outside."""
        argv = [str(self.consul), "agent", "-dev", "-node=server", f"-bind={SERVER}", f"-client={SERVER}"]
        self.start("server", [*argv, "-log-level=warn"], namespace=self.outside)
        look = lambda: consul_get(self.outside, "/v1/catalog/service/consul", (SERVER, 8500)) or None  # noqa: E731
        wait_for(look, what="Consul server", timeout=PATIENCE)

    def start_consul(self) -> None:
        """What forkyard-consul.service runs."""
        at = self.directory / "consul"
        wait_for(lambda: (at / "gate.hcl").exists() or None, what="gate", timeout=PATIENCE)
        argv = [str(self.consul), "agent", f"-config-file={at}/gate.hcl", f"-config-file={at}/consul.json"]
        self.start("consul", argv, namespace=self.namespace)

    def start_agent(self, module: str = "guest.agent") -> None:
        """What forkyard-agent.service runs, with a host name of its own to change."""
        self.write_config()
        argv = ["unshare", "--uts", sys.executable, "-m", module, str(self.directory / "agent.toml")]
        self.start("agent", argv, namespace=self.namespace, env={"PYTHONPATH": str(PROJECT)})

    def write_config(self) -> None:
        """agent.toml of this machine."""
        at = self.directory
        for name in ("root/etc/ssh", "root/var/lib/dbus", "shared"):
            (at / name).mkdir(parents=True, exist_ok=True)
        (at / "agent.toml").write_text(
            f'channel = "unix:{at}/channel"\ndocker = "{self.docker_url}"\nshared_dir = "{at}/shared"\n'
            f'private_dir = "{at}/private"\nroot = "{at}/root"\n'
            '[app]\ncontainer = "app"\nport = 8080\nhealth = "/cgi-bin/healthz"\nquiesce = "/cgi-bin/quiesce"\n'
            'reidentify = "/cgi-bin/reidentify"\n'
            f'[consul]\ndirectory = "{at}/consul"\nbinary = "{self.consul}"\n'
            # Else each agent that leaves waits five seconds for requests that nobody sends.
            '[consul.settings.performance]\nleave_drain_time = "0s"\n'
        )

    def run_container(
        self, name: str, *, port: int, labels: dict[str, str] | None = None, restart: bool = False
    ) -> None:
        """Start a container of the app's image that publishes its port 8080 as *port*."""
        with contextlib.closing(self.docker()) as client:
            client.containers.run(
                IMAGE,
                ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"],
                name=name,
                detach=True,
                ports={"8080/tcp": port},
                labels=labels or {},
                restart_policy={"Name": "always"} if restart else None,
            )

    def remove_container(self, name: str) -> None:
        """End a container and take it away."""
        with contextlib.closing(self.docker()) as client:
            client.containers.get(name).remove(force=True)

    def in_container(self, name: str, script: str) -> str:
        """Run a few shell words in a container; what they said."""
        with contextlib.closing(self.docker()) as client:
            code, output = client.containers.get(name).exec_run(["/bin/busybox", "sh", "-c", script])
        assert code == 0, output
        assert isinstance(output, bytes)
        return output.decode()

    def restore_app(self) -> None:
        """Put the app's hooks back."""
        with contextlib.closing(self.docker()) as client:
            client.containers.get("app").put_archive("/", app_image())

    def own_services(self) -> dict[str, Any] | None:
        """What the machine's Consul agent has; None while there is none."""
        found: dict[str, Any] | None = consul_get(self.namespace, "/v1/agent/services", ("127.0.0.1", 8500))
        return found

    def register_by_hand(self, name: str) -> None:
        """Register a service with the machine's Consul agent that is none of ours."""
        call_inside(self.namespace, lambda: consul.Consul().agent.service.register(name))

    @contextlib.contextmanager
    def connection_outside(self) -> Iterator[Callable[[], bool]]:
        """A TCP connection from the machine to the outside; says whether it is open."""
        with (
            call_inside(self.outside, lambda: socket.create_server((SERVER, 9999))) as server,
            call_inside(self.namespace, lambda: socket.create_connection((SERVER, 9999), 10)) as connection,
        ):
            server.accept()[0].detach()
            # Closed, it is gone at once, with nothing left in FIN_WAIT2.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.setblocking(False)  # noqa: FBT003 - the socket's own way
            yield lambda: _is_open(connection)

    def reset_network(self) -> None:
        """Give the device the parent's MAC and address again."""
        with NetNS(self.namespace) as machine:
            index = machine.link_lookup(ifname="eth0")[0]
            machine.link("set", index=index, state="down")
            machine.flush_addr(index=index)
            machine.link("set", index=index, address=PARENT_MAC)
            machine.addr("add", index=index, address="10.79.0.9", prefixlen=24)
            machine.link("set", index=index, state="up")

    def forget(self) -> None:
        """Take away what an identity has left, here and at the Consul server."""
        for name in ("private", "consul", "shared"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        nodes = consul_get(self.outside, "/v1/catalog/nodes", (SERVER, 8500)) or []
        for node in nodes:
            if node["Node"] != "server":
                call_inside(self.outside, partial(_take_from_catalog, node["Node"]))
        self.identity = None

    def ask(self, **message: object) -> dict[str, Any]:
        """One request to the guest agent, as the host makes it."""
        return self.ask_line(wire.encode(message))

    def ask_line(self, line: bytes) -> dict[str, Any]:
        """One line to the guest agent, whatever it says."""
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(60)
            channel.connect(str(self.directory / "channel"))
            channel.sendall(line)
            with channel.makefile("rb") as lines:
                return wire.decode(lines.readline())

    def state(self) -> str | None:
        """What the agent says that it is; None while it does not answer."""
        try:
            return str(self.ask(verb="hello")["state"])
        except (OSError, wire.WireError):
            return None

    def wait_until(self, state: str) -> None:
        """Return once the agent is in *state*."""
        what = f"agent {state}"
        wait_for(lambda: True if self.state() == state else None, what=what, timeout=PATIENCE)

    def log(self, name: str) -> str:
        """All that a process has said."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        """End everything, and take the namespaces away."""
        with contextlib.suppress(docker.errors.DockerException):
            client = self.docker()
            for container in client.containers.list(all=True):
                container.remove(force=True)
            client.close()
        for name in ("agent", "consul", "dockerd", "server"):
            if name in self.processes:
                self.end(name)
        for namespace in (self.namespace, self.outside):
            netns.remove(namespace)


def _take_from_catalog(node: str) -> None:
    server = consul.Consul(SERVER)
    server.agent.force_leave(node)
    server.catalog.deregister(node)


def _is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def agent_machine(directory: Path) -> Iterator[AgentMachine]:
    """A machine with a network, a Docker that has the app's image, and a Consul server outside; all gone afterwards."""
    machine = AgentMachine(directory, f"fya{os.getpid()}")
    with contextlib.ExitStack() as stack:
        stack.callback(machine.close)
        machine.make_network()
        machine.start_docker()
        machine.start_server()
        with contextlib.closing(machine.docker()) as client:
            client.api.import_image_from_data(app_image(), repository=IMAGE)
        yield machine


def make_identity(ordinal: int = 1) -> wire.Identity:
    """An identity as the host would choose it now."""
    return wire.Identity(
        fork_id=str(uuid.uuid4()),
        request_id=str(uuid.uuid4()),
        service="game",
        name=f"game-test-{ordinal}",
        mac=f"02:00:00:00:80:{ordinal:02x}",
        address=f"10.79.0.{20 + ordinal}/24",
        gateway=None,
        machine_id=uuid.uuid4().hex,
        consul_node_id=str(uuid.uuid4()),
        consul_join=(SERVER,),
        datacenter="dc1",
        wall_clock=time.time(),
        seed=base64.b64encode(os.urandom(32)).decode(),
    )
