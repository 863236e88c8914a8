"""The running Nginx: its master process, the generation that its workers serve, its connections."""

import http.client
import os
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from forkyard.errors import NotFound, PermanentError, Unavailable
from forkyard.model import Server
from forkyard.processes import find_process, in_namespace

_CONTROL_SECONDS = 2.0
_TEST_SECONDS = 30.0
# From linux/tcp_states.h: established, being opened, and closed by the server but not yet by us, which is
# an answer that a slow client still reads.
_OPEN_STATES = {"01", "02", "08"}


class NginxProcess:
    """One Nginx, found by the pid file in its directory and known by its command line, which names the directory."""

    def __init__(self, binary: str, directory: Path, namespace: str | None) -> None:
        """Nothing is touched before the first call."""
        self._binary = binary
        self._directory = directory
        self._namespace = namespace

    def master(self) -> int:
        """Process id of the master; raises Unavailable when none runs that was started for this directory."""
        path = self._directory / "nginx.pid"
        try:
            pid = int(path.read_text())
            # A zombie still has a name.
            alive = find_process(pid) is not None
            name = Path(f"/proc/{pid}/comm").read_text().strip() if alive else "dead"
            title = Path(f"/proc/{pid}/cmdline").read_text(errors="replace") if alive else ""
        except (FileNotFoundError, ProcessLookupError, ValueError) as error:
            text = f"no nginx runs: {path} names none ({error}). Start nginx, or the lab with `forkyard lab up`."
            raise Unavailable(text) from error
        if name != Path(self._binary).name:
            text = (
                f"no nginx runs: process {pid} of {path} is {name}, not {Path(self._binary).name}. "
                "Start nginx, or the lab with `forkyard lab up`."
            )
            raise Unavailable(text)
        # The file outlives a reboot, after which the number may be that of the host's own nginx.
        if not self._started_here(title.replace("\0", " ")):
            text = (
                f"no nginx runs for {self._directory}: process {pid} of {path} is another nginx. "
                f"Start ours with `-p {self._directory}/ -c {self._directory}/nginx.conf`, or the lab with "
                "`forkyard lab up`."
            )
            raise Unavailable(text)
        return pid

    def _started_here(self, title: str) -> bool:
        home = re.escape(str(self._directory))
        return re.search(rf"\s-(p\s*{home}/?|c\s*{home}/nginx\.conf)(\s|$)", title) is not None

    def check(self) -> None:
        """Raise Unavailable unless a master runs and a worker answers: workers outlive a master that was killed."""
        self.master()
        self.generation("any")

    def reload(self) -> None:
        """Ask the master to read its configuration again."""
        pid = self.master()
        try:
            os.kill(pid, signal.SIGHUP)
        except ProcessLookupError as error:
            text = f"nginx (process {pid}) ended just now"
            raise Unavailable(text) from error

    def generation(self, service: str) -> int | None:
        """The generation that the worker who answers serves; None when it knows none of the service."""
        connection = _UnixConnection(str(self._directory / "control.sock"))
        try:
            connection.request("GET", "/generation", headers={"Host": service})
            answer = connection.getresponse()
            body = answer.read()
        except FileNotFoundError:
            self.master()
            return None  # it runs, and no file of ours was there when it started
        except (OSError, http.client.HTTPException) as error:
            text = f"no nginx answers on {self._directory}/control.sock ({error})"
            raise Unavailable(text) from error
        finally:
            connection.close()
        # A service that it does not know is answered for by the first one that it does.
        name, _, number = body.decode(errors="replace").partition(" ")
        return int(number) if name == service and number.isdigit() else None

    def judge(self, candidate: Path, must_include: Path) -> None:
        """
        Have nginx judge the configuration in the directory *candidate*.

        Raises:
            PermanentError: it refuses it, or never reads *must_include*.
            Unavailable: it did not finish in time.
        """
        argv = [self._binary, "-T", "-p", f"{self._directory}/", "-c", str(candidate / "nginx.conf")]
        try:
            done = subprocess.run(
                in_namespace(argv, self._namespace),
                capture_output=True,
                text=True,
                timeout=_TEST_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError as error:
            text = f"{self._binary} cannot be run: {error}. Install nginx, or set nginx.binary in forkyard.toml."
            raise NotFound(text) from error
        except subprocess.TimeoutExpired as error:
            text = f"nginx took more than {_TEST_SECONDS:g} s to judge its configuration"
            raise Unavailable(text) from error
        if done.returncode != 0:
            text = f"nginx refuses the configuration: {_complaints(done.stderr)}"
            raise PermanentError(text)
        if f"# configuration file {must_include}:" not in done.stdout:
            text = (
                f"{self._directory}/nginx.conf does not read the upstreams. Put `include upstreams/*.conf;`, with "
                "exactly this relative path, inside its http block."
            )
            raise PermanentError(text)

    def log_size(self) -> int:
        """How long the error log is now; for `complaints`."""
        log = self._directory / "error.log"
        return log.stat().st_size if log.exists() else 0

    def complaints(self, since: int) -> str:
        """What nginx has written of failures to its log after its first *since* bytes; empty when nothing."""
        log = self._directory / "error.log"
        if not log.exists():
            return ""
        with log.open("rb") as handle:
            handle.seek(since)
            lines = handle.read().decode(errors="replace").splitlines()
        return " / ".join(line for line in lines if "[emerg]" in line)

    def connections(self, servers: Iterable[Server]) -> dict[str, int]:
        """Open connections to each of *servers*, by name."""
        table = Path(f"/proc/{self.master()}/net/tcp")
        try:
            lines = table.read_text().splitlines()[1:]
        except (FileNotFoundError, ProcessLookupError, OSError) as error:
            text = f"{table} cannot be read ({error})"
            raise Unavailable(text) from error
        found = Counter(fields[2] for line in lines if (fields := line.split())[3] in _OPEN_STATES)
        return {server.name: found[_kernel_form(server)] for server in servers}


def nginx_version(binary: str) -> tuple[int, int, int]:
    """The version that the binary says it has; raises NotFound when there is no such binary."""
    try:
        done = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=_TEST_SECONDS, check=False)
    except FileNotFoundError as error:
        text = f"{binary} is not there. Install nginx, or set nginx.binary in forkyard.toml."
        raise NotFound(text) from error
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", done.stderr)
    if found is None:
        text = f"{binary} -v says no version: {done.stderr.strip()!r}"
        raise NotFound(text)
    return int(found[1]), int(found[2]), int(found[3])


def _kernel_form(server: Server) -> str:
    """Address and port as /proc/net/tcp has them: the address in this machine's byte order."""
    return f"{int.from_bytes(socket.inet_aton(server.address), 'little'):08X}:{server.port:04X}"


def _complaints(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if "[emerg]" in line or "[alert]" in line or "[crit]" in line]
    return " / ".join(lines or stderr.splitlines()[-3:])


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_CONTROL_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
