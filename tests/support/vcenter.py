"""
A running vCenter for tests: N hosts, a frozen parent on each, guests that live, and a hand on what goes wrong.

    with running_vcenter(directory, hosts=4) as vcenter:
        vcenter.door.url, .user, .password, .thumbprint, .certificate
        vcenter.delay("InstantClone_Task", seconds=1.0, serialized=0.2)
        vcenter.fail("InstantClone_Task", "NoDiskSpace", when="task", rate=0.05)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from forkyard.settings import Settings
from forkyard.waiting import wait_for
from lab.vsphere import Door, VCenter, start_vcenter, stop_vcenter
from lab.vsphere_build import build_govc, build_vcenter

HOSTS = 4


@dataclass
class RunningVCenter:
    """The vCenter and what a test may do to it."""

    vcenter: VCenter
    door: Door
    _client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30, trust_env=False))
    _delays: list[dict[str, Any]] = field(default_factory=list)
    _faults: list[dict[str, Any]] = field(default_factory=list)
    _guests: list[dict[str, Any]] = field(default_factory=list)

    def delay(
        self, method: str, *, host: str = "*", seconds: float = 0, serialized: float = 0, call: float = 0
    ) -> None:
        """
        Let a method take time from now on.

        In its task *seconds*, of which *serialized* once at a time per parent; *call* before it answers at all.
        `freeze` and `guest` are no methods, and can be delayed too.
        """
        rule = {"method": method, "host": host, "seconds": seconds, "serialized": serialized, "call": call}
        self._delays.insert(0, rule)
        self._send()

    def fail(
        self, method: str, fault: str, *, when: str = "task", host: str = "*", rate: float = 1.0, count: int = 0
    ) -> None:
        """
        Let a method fail from now on, at most *count* times unless that is 0.

        *fault* is its name in the API, such as NoDiskSpace, or `drop`: the connection breaks. *when* is `call` (at
        once), `task` (in the task), `late` (in the task, but its work is done) or `lost` (done, but no answer comes).
        """
        self._faults.append(
            {"method": method, "host": host, "fault": fault, "when": when, "rate": rate, "count": count, "struck": 0}
        )
        self._send()

    def trouble(self, kind: str, *, point: str = "", host: str = "*", rate: float = 1.0, count: int = 0) -> None:
        """
        Let the next guests misbehave.

        `silent`, `sick`, `unfreezable`, `stopped` (its clock), `plugged` (the fork leaves the last adapter connected),
        `engineless` (VMware's tools cannot customize it), or `unproved` with the identity's *point*.
        """
        self._guests.append({"kind": kind, "point": point, "host": host, "rate": rate, "count": count, "struck": 0})
        self._send()

    def calm(self) -> None:
        """No delays, no faults, every host and datastore as in the beginning."""
        self._delays, self._faults, self._guests = [], [], []
        self._send()
        self.set_host("*", maintenance=False, entering_maintenance=False, connected=True, memory_bytes=512 << 30)
        self.set_datastore(free_bytes=20 << 40, accessible=True, vsan_health="green")
        self.set_readable("*", readable=True)

    def struck(self) -> int:
        """How many faults struck so far."""
        rules = self._ask("GET", "/rules")
        return sum(rule["struck"] for rule in [*(rules["faults"] or ()), *(rules["guests"] or ())])

    def set_host(self, name: str, **what: bool | int) -> None:
        """Set `maintenance`, `entering_maintenance`, `connected` or `memory_bytes` of the hosts whose names match."""
        self._ask("PUT", f"/hosts/{name}", what)

    def set_forks(self, name: str, number: int) -> None:
        """Give the running VMs whose names match disks with as many levels as that many forks make."""
        self._ask("PUT", f"/machines/{name}", {"forks": number})

    def set_readable(self, name: str, *, readable: bool) -> None:
        """Take away the configuration of the VMs whose names match, as a partition does, or give it back."""
        self._ask("PUT", f"/machines/{name}", {"readable": readable})

    def set_datastore(self, **what: bool | int | str) -> None:
        """
        Set `free_bytes`, `accessible` or `vsan_health`.

        That is `green`, `yellow` or `red`, or `absent` (nobody serves it), or `garbled` (no client can read it).
        """
        self._ask("PUT", "/datastore", what)

    def add_person(self, name: str, password: str, *, lacks: tuple[str, ...] = ()) -> None:
        """Somebody who may log in, and whose role lacks these privileges."""
        self._ask("PUT", "/people", {"name": name, "password": password, "lacks": list(lacks)})

    def restart(self, seconds: float) -> None:
        """
        Let vCenter be away and come again, and return when it has.

        Connections break, sessions and tasks are forgotten; hosts, VMs and guests live on.
        """
        self.begin_restart(seconds)
        wait_for(
            lambda: self.state()["mode"] == "serving" or None,
            what="vCenter's restart",
            timeout=timedelta(seconds=seconds + 10),
        )

    def begin_restart(self, seconds: float) -> None:
        """Let vCenter go away; it comes again after *seconds*."""
        self._ask("POST", "/restart", {"seconds": seconds})

    def expire_sessions(self) -> None:
        """Log everybody out."""
        self._ask("POST", "/sessions/expire")

    def state(self) -> Any:  # noqa: ANN401 - the control API's own JSON
        """Its mode, and every machine: id, name, host, uuid, power, frozen, connected, network."""
        return self._ask("GET", "/state")

    def machines(self) -> dict[str, Any]:
        """Every machine by its name."""
        return {machine["name"]: machine for machine in self.state()["machines"]}

    def calls(self, *, reset: bool = False) -> dict[str, int]:
        """How often each method was called since the beginning, or since the last reset."""
        counted: dict[str, int] = self._ask("DELETE" if reset else "GET", "/calls")
        return counted

    def close(self) -> None:
        """Close the connection to the control API."""
        self._client.close()

    def _send(self) -> None:
        self._ask("PUT", "/rules", {"seed": 1, "delays": self._delays, "faults": self._faults, "guests": self._guests})

    def _ask(self, method: str, path: str, body: Any = None) -> Any:  # noqa: ANN401 - the control API's own JSON
        answer = self._client.request(method, self.door.control + path, json=body)
        assert answer.is_success, answer.text
        return answer.json()


@contextmanager
def running_vcenter(directory: Path, **what: Any) -> Iterator[RunningVCenter]:  # noqa: ANN401 - VCenter's fields
    """Start one with its state below *directory*; end it whatever happens."""
    vcenter = replace(VCenter(directory=directory / "vcenter", hosts=HOSTS), **what)
    binary = build_vcenter(Settings().cache_dir)
    try:
        running = RunningVCenter(vcenter, start_vcenter(vcenter, binary))
        yield running
        running.close()
    finally:
        stop_vcenter(vcenter)


def find_govc() -> Path:
    """The command-line client that others use."""
    return build_govc(Settings().cache_dir)


def play(address: str, port: int) -> Any:  # noqa: ANN401 - the game's own JSON
    """One answer of the game that a guest serves at *address*."""
    url = f"http://{address}:{port}/"
    answer = httpx.get(url, headers={"Accept": "application/json"}, timeout=5, trust_env=False)
    answer.raise_for_status()
    return answer.json()


def is_refused(address: str, port: int) -> bool:
    """Whether nobody listens there."""
    try:
        play(address, port)
    except httpx.ConnectError:
        return True
    return False
