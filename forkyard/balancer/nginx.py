"""
Nginx as the balancer: one file a service, judged before it takes the old one's place, and proved to be served after.

Not here: routes and listening addresses, which are the operator's nginx.conf.
"""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from threading import RLock

from forkyard.balancer.nginx_config import UpstreamFile, check_service, parse_upstream, render_upstream
from forkyard.balancer.nginx_probe import probe_servers
from forkyard.balancer.nginx_process import NginxProcess
from forkyard.errors import ForkyardError, PermanentError
from forkyard.model import Server, Upstream
from forkyard.oserrors import translated
from forkyard.settings import NginxSettings
from forkyard.waiting import wait_for

log = logging.getLogger(__name__)

_PEN_TIMEOUT = timedelta(seconds=30)
_PEN_INTERVAL = timedelta(milliseconds=5)
_RELOAD_TIMEOUT = timedelta(seconds=15)
_SAME_GENERATION = 5
"""Answers in a row, each by whichever worker takes the connection, that prove that the old ones take none."""


class NginxBalancer:
    """The Nginx whose directory the settings name."""

    def __init__(self, settings: NginxSettings) -> None:
        """Nothing is touched before the first call."""
        self._directory = settings.directory
        self._url = settings.url
        self._nginx = NginxProcess(settings.binary, settings.directory, settings.namespace)
        self._thread_lock = RLock()
        self._depth = 0
        self._newest = 0

    def upstream(self, service: str) -> Upstream | None:
        """The upstream in force, or None when there is none for the service."""
        file = self._read(service)
        return file.upstream if file else None

    def prepare(self, service: str) -> None:
        """Write an empty upstream for a service that has none, so that an nginx that names it can start."""
        check_service(service)
        with self._writing(service), self.exclusive():
            if not self._path(service).exists():
                self._path(service).parent.mkdir(parents=True, exist_ok=True)
                file = UpstreamFile(1, Upstream(service, ()))
                _replace(self._path(service), render_upstream(file, self._directory))

    def check_running(self) -> None:
        """Raise Unavailable unless Nginx runs and answers."""
        self._nginx.check()

    def apply(self, upstream: Upstream) -> None:
        """Make *upstream* the one in force, or raise and leave the old one working; see `Balancer.apply`."""
        check_service(upstream.service)
        wanted = Upstream(upstream.service, tuple(sorted(upstream.servers)))
        with self._writing(upstream.service), self.exclusive():
            old = self._read(upstream.service)
            serving = self._nginx.generation(upstream.service)
            if old is not None and old.upstream == wanted and old.generation == serving:
                return
            # Nor one that was taken back: a slow nginx may come to serve it all the same.
            generation = self._newest = max(old.generation if old else 0, serving or 0, self._newest) + 1
            file = UpstreamFile(generation, wanted, self._left(old, wanted))
            self._put_in_force(file, render_upstream(file, self._directory))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the only pen of this directory, among threads and among processes; may be nested."""
        with self._thread_lock:
            self._depth += 1
            try:
                if self._depth > 1:
                    yield
                    return
                with _flocked(self._directory / "lock"):
                    yield
            finally:
                self._depth -= 1

    def active_connections(self, service: str) -> dict[str, int]:
        """Open connections to each server, those just taken out included, by server name."""
        file = self._read(service)
        return self._nginx.connections((*file.left, *file.upstream.servers)) if file else {}

    def probe(self, service: str, wanted: frozenset[str], *, timeout: timedelta) -> dict[str, float]:
        """Ask through the balancer, as a player does, until each of *wanted* has given a good answer."""
        return probe_servers(self._url, service, wanted, timeout=timeout)

    def _path(self, service: str) -> Path:
        return self._directory / "upstreams" / f"{service}.conf"

    def _read(self, service: str) -> UpstreamFile | None:
        check_service(service)
        path = self._path(service)
        try:
            with translated(f"{service}: reading {path}"):
                return parse_upstream(service, path.read_text())
        except FileNotFoundError:
            return None

    def _writing(self, service: str) -> AbstractContextManager[None]:
        return translated(f"{service}: writing {self._path(service)}")

    def _left(self, old: UpstreamFile | None, wanted: Upstream) -> tuple[Server, ...]:
        """Servers out of the upstream whose connections somebody may still wait for."""
        if old is None:
            return ()
        again = {(server.address, server.port) for server in wanted.servers}
        open_to = self._nginx.connections(old.left)
        left = {s for s in old.left if open_to[s.name]} | {s for s in old.upstream.servers if not s.down}
        return tuple(sorted(s for s in left if (s.address, s.port) not in again))

    def _put_in_force(self, file: UpstreamFile, text: str) -> None:
        service, path = file.upstream.service, self._path(file.upstream.service)
        self._judge(path.name, text)
        before = path.read_text() if path.exists() else None
        logged = self._nginx.log_size()
        _replace(path, text)
        try:
            self._nginx.reload()
            self._await(service, file.generation)
        except ForkyardError as error:
            if before is None:
                path.unlink()
            else:
                _replace(path, before)
            # A master that is merely slow must come back to the old file; one that is gone raises Unavailable,
            # and starts with the old file.
            self._nginx.reload()
            refusal = self._nginx.complaints(logged)
            reason = refusal or str(error)
            message = f"{service}: nginx does not serve the new upstream; the old one stays in force. {reason}"
            # Slow, on a busy machine, and not refused: the same may succeed when it is asked for again.
            kind = PermanentError if refusal else type(error)
            raise kind(message) from error
        log.info("%s: nginx serves %d servers (generation %d)", service, len(file.upstream.servers), file.generation)

    def _judge(self, name: str, text: str) -> None:
        """Show nginx the whole configuration as it would be, from a directory beside the real one."""
        with tempfile.TemporaryDirectory(dir=self._directory, prefix="candidate-") as made:
            candidate = Path(made)
            upstreams = candidate / "upstreams"
            upstreams.mkdir()
            for entry in self._directory.iterdir():
                if entry.name != "upstreams" and not entry.name.startswith("candidate-"):
                    (candidate / entry.name).symlink_to(entry)
            for other in (self._directory / "upstreams").glob("*.conf"):
                if other.name != name:
                    (upstreams / other.name).symlink_to(other)
            (upstreams / name).write_text(text)
            self._nginx.judge(candidate, upstreams / name)

    def _await(self, service: str, generation: int) -> None:
        wait_for(
            lambda: True if self._nginx.generation(service) == generation else None,
            what=f"{service}: nginx serving generation {generation}",
            timeout=_RELOAD_TIMEOUT,
            successes=_SAME_GENERATION,
            interval=timedelta(milliseconds=10),
            slowest=timedelta(milliseconds=100),
        )


def _replace(path: Path, text: str) -> None:
    """Write the file under another name, then rename: nginx never reads half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")  # not *.conf: nginx must not read it
    try:
        with fresh.open("w") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        fresh.replace(path)
    except OSError:
        # On a full disk even half a file is room that somebody needs.
        fresh.unlink(missing_ok=True)
        raise


@contextmanager
def _flocked(path: Path) -> Iterator[None]:
    with translated(f"the lock {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def locked() -> bool | None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return True

    try:
        wait_for(locked, what=f"the lock {path}", timeout=_PEN_TIMEOUT, interval=_PEN_INTERVAL)
        yield
    finally:
        os.close(handle)
