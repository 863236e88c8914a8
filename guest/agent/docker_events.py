"""
The containers that run on this machine, kept in step by Docker's event stream.

Known before the fork and carried across it, so that Docker is asked nothing afterwards. When Docker
restarts, the stream ends: then all is asked anew.
"""

import logging
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Any

import docker
import requests

log = logging.getLogger(__name__)

Container = dict[str, Any]
"""What Docker's inspect says of one container."""

RETRY = 1.0
"""Seconds between two tries while Docker is away; nothing is tried while it is there."""


class Containers:
    """The running containers. Safe to use from several threads."""

    def __init__(self, base_url: str) -> None:
        """Know Docker's address; `start` begins to listen."""
        self._base_url = base_url
        self._running: dict[str, Container] = {}
        self._lock = Lock()
        self._stopped = Event()
        self._listed = Event()
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call *listener*, in our thread, whenever a container came or went."""
        self._listeners.append(listener)

    def running(self) -> list[Container]:
        """All running containers, by name."""
        with self._lock:
            return sorted(self._running.values(), key=lambda container: str(container["Name"]))

    def find(self, name: str) -> Container | None:
        """The running container of that name."""
        return next((c for c in self.running() if c["Name"].lstrip("/") == name), None)

    def pids(self) -> list[int]:
        """The first process of each running container."""
        return [int(container["State"]["Pid"]) for container in self.running()]

    def wait_until_listed(self) -> None:
        """Return once Docker has said what runs: before that, no container means nothing."""
        self._listed.wait()

    def start(self) -> None:
        """Listen to Docker in a thread of our own, for ever."""
        Thread(target=self._follow, name="docker-events", daemon=True).start()

    def stop(self) -> None:
        """Give up at the next event or failure."""
        self._stopped.set()
        self._listed.set()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                client = docker.DockerClient(base_url=self._base_url, timeout=30)
                try:
                    self._listen(client)
                finally:
                    client.close()
            except (docker.errors.DockerException, requests.RequestException, OSError) as error:
                log.info("Docker is away: %s", error)
            self._stopped.wait(RETRY)

    def _listen(self, client: docker.DockerClient) -> None:
        # The stream is opened before the list is asked for, so that nothing falls between the two.
        events = client.events(decode=True, filters={"type": "container", "event": ["start", "die"]})
        found = (_inspect(client, c["Id"]) for c in client.api.containers())
        self._replace({c["Id"]: c for c in found if c is not None})
        for event in events:
            if self._stopped.is_set():
                return
            self._apply(client, event["Action"], event["Actor"]["ID"])

    def _replace(self, running: dict[str, Container]) -> None:
        with self._lock:
            self._running = running
        self._listed.set()
        self._tell()

    def _apply(self, client: docker.DockerClient, action: str, container_id: str) -> None:
        container = _inspect(client, container_id) if action == "start" else None
        with self._lock:
            self._running.pop(container_id, None)
            if container is not None:
                self._running[container_id] = container
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _inspect(client: docker.DockerClient, container_id: str) -> Container | None:
    """What Docker says of a running container; None when it has ended meanwhile."""
    try:
        container: Container = client.api.inspect_container(container_id)
    except docker.errors.NotFound:
        return None
    return container if container["State"]["Running"] else None
