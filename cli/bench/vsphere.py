"""
Benches of the fleet on vSphere, in a lab that is up with `forkyard lab up --hypervisor vsphere --hosts 64`.

vCenter is simulated, so what is measured is everything that is ours: how close the whole flow comes to the bare
calls, to others' clients, and to the number that was asked for when calls fail.
"""

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Self

from cli.bench import Context, Json, Run
from cli.bench.parts import SERVICE, find_excess, require_room, run_command, scale_to
from cli.bench.vsphere_plain import PlainMaker
from forkyard.errors import InvalidRequest, PermanentError, TransientError
from forkyard.hypervisors.vsphere.driver import VsphereHypervisor
from forkyard.model import ForkSpec, Placement, Stamp
from forkyard.names import make_child_name, make_fork_id, new_request_id
from forkyard.settings import Settings
from forkyard.waiting import wait_for
from forkyard.world import open_world
from lab.own_vcenter import make_vcenter
from lab.vsphere import Door, VCenter, find_vcenter, start_vcenter, stop_vcenter
from lab.vsphere_build import build_vcenter
from tasks.children import make_bare_identity
from tasks.work import PARALLEL

MANY, SOME = 1000, 200
RUN_PROCESS = "forkyard-run"
"""What a run's process is called in the process list."""
MOST_MEMORY = 600 << 20
"""Bytes that the process of a flow with a thousand children may take."""
PATIENCE = timedelta(minutes=10)
CLONE_SECONDS, SERIALIZED = 1.0, 0.2
RESTART_SECONDS = 2.0
_RATE = 0.05 / 6
"""Of each of six kinds of faults: together five in a hundred calls."""

DELAYS = [{"method": "InstantClone_Task", "host": "*", "seconds": CLONE_SECONDS, "serialized": SERIALIZED, "call": 0}]
FAULTS = [
    {"method": "InstantClone_Task", "host": "*", "fault": fault, "when": when, "rate": _RATE, "count": 0}
    for fault, when in (
        ("InsufficientMemoryResourcesFault", "task"),
        ("NoDiskSpace", "task"),
        ("HostNotConnected", "call"),
        ("Timedout", "late"),
        ("drop", "lost"),
    )
] + [{"method": "ReconfigVM_Task", "host": "*", "fault": "ConcurrentAccess", "when": "task", "rate": _RATE, "count": 0}]


def measure_thousand(context: Context) -> Sequence[Run]:
    """
    0 to 1,000 by the flow's run, over the same calls by plain pyVmomi with the same parallelism, in each run.

    Beside it stands how long the driver takes for its bare calls: what is left is the flow's, Consul's and Nginx's.

    Raises:
        PermanentError: not all serve, the spread over hosts differs by more than one, or the flow took too much memory.
    """
    require_room(context, MANY)
    door = require_vcenter(context)
    return [_thousand_once(context, door) for _ in range(context.runs)]


def measure_faults(context: Context) -> Sequence[Run]:
    """0 to 200 while calls fail and vCenter restarts once; the value is in how many ways the fleet is not as asked."""
    require_room(context, SOME)
    door = require_vcenter(context)
    return [_faults_once(context, door) for _ in range(context.runs)]


def _thousand_once(context: Context, door: Door) -> Run:
    scale_to(context, 0)
    with bare_vcenter(context) as (bare, settings):
        set_rules(bare, delays=DELAYS)
        context.say(f"{MANY} children by the driver's bare calls")
        bare_seconds, bare_calls = run_bare(settings, MANY)
    with bare_vcenter(context) as (bare, settings):
        set_rules(bare, delays=DELAYS)
        context.say(f"{MANY} children by plain pyVmomi")
        plain_seconds = run_plain(bare, settings, MANY)
        plain_calls = take_calls(bare)
    with _rules(door, delays=DELAYS):
        take_calls(door)
        with MemoryWatch() as memory:
            whole = scale_to(context, MANY)
        calls = take_calls(door)
    children = _listed(whole["children"])
    hosts = Counter(str(child["host"]) for child in children if child["phase"] == "serving")
    spread = [min(hosts.values()), max(hosts.values())]
    excess = find_excess(context, MANY)
    run_seconds = float(str(whole["run_seconds"]))
    details: Json = {
        "command_seconds": float(str(whole["seconds"])),
        "run_seconds": run_seconds,
        "plain_seconds": round(plain_seconds, 3),
        "driver_seconds": round(bare_seconds, 3),
        "run_over_driver": round(run_seconds / bare_seconds, 2),
        "serving": whole["serving"],
        "children_per_host": spread,
        "calls_per_child": round(sum(calls.values()) / MANY, 2),
        "driver_calls_per_child": round(sum(bare_calls.values()) / MANY, 2),
        "plain_calls_per_child": round(sum(plain_calls.values()) / MANY, 2),
        "calls": dict(sorted(calls.items(), key=lambda one: -one[1])[:8]),
        "flow_memory_bytes": memory.most,
    }
    if excess or spread[1] - spread[0] > 1 or memory.most > MOST_MEMORY:
        text = f"the figures do not count: {'; '.join(excess) or 'spread or memory'}: {details}"
        raise PermanentError(text)
    scale_to(context, 0)
    return Run(run_seconds / plain_seconds, details)


def _faults_once(context: Context, door: Door) -> Run:
    scale_to(context, 0)
    with _rules(door, faults=FAULTS, delays=DELAYS):
        stop = Event()
        with ThreadPoolExecutor(1, thread_name_prefix="restart") as pool:
            restarted = pool.submit(_restart_in_the_middle, door, stop)
            try:
                first = _scale_until(context, SOME)
            finally:
                stop.set()
            children_then = restarted.result()
        struck = sum(int(rule["struck"]) for rule in _listed(control(door, "GET", "/rules")["faults"]))
    run_command(context, "reap", SERVICE)
    excess = find_excess(context, SOME)
    with open_world(context.settings, SERVICE) as world:
        ours = {vm.name for vm in world.hypervisor.list_vms(SERVICE)}
    there = {str(machine["name"]) for machine in _listed(control(door, "GET", "/state")["machines"])}
    orphans = sorted(name for name in there - ours if not name.startswith(f"{SERVICE}-parent-"))
    details: Json = {
        **first,
        "children_at_restart": children_then,
        "faults_struck": struck,
        "not_as_asked": excess,
        "orphans_at_vcenter": orphans,
    }
    scale_to(context, 0)
    return Run(len(excess) + len(orphans), details)


def _restart_in_the_middle(door: Door, stop: Event) -> int:
    """Restart vCenter once a quarter of the children are forked; returns how many there were."""

    def look() -> int | None:
        there = len(_listed(control(door, "GET", "/state")["machines"])) - parents
        return there if there >= SOME // 4 else None

    parents = len(_listed(control(door, "GET", "/state")["machines"]))
    children = wait_for(look, what="the forks", timeout=PATIENCE, stop=stop)
    control(door, "POST", "/restart", {"seconds": RESTART_SECONDS})
    return children


def _scale_until(context: Context, target: int) -> Json:
    """Ask for the same again while a request did not get there, as a person would: a target is absolute."""
    begun = time.monotonic()
    for attempt in range(1, 5):
        try:
            scale_to(context, target)
        except PermanentError as error:
            context.say(f"attempt {attempt}: {error}")
            continue
        return {"requests": attempt, "seconds": round(time.monotonic() - begun, 3)}
    return {"requests": attempt, "seconds": round(time.monotonic() - begun, 3)}


def run_plain(door: Door, settings: Settings, number: int) -> float:
    """Make *number* children by plain pyVmomi; returns the seconds."""
    hypervisor = VsphereHypervisor(settings)
    try:
        places = hypervisor.placements(SERVICE)
    finally:
        hypervisor.close()
    take_calls(door)
    plain = PlainMaker(settings, SERVICE, PARALLEL)
    try:
        return plain.make(number, places)
    finally:
        plain.close()


def run_bare(settings: Settings, number: int) -> tuple[float, Counter[str]]:
    """
    Make *number* children by the driver alone; returns the seconds and the calls that it took.

    The same calls as the flow's: preflight, Instant Clone, identity, cable, stamp. No Prefect, Consul or Nginx, no
    plan, no journal, and nobody looks whether the children serve.
    """
    hypervisor = VsphereHypervisor(settings)
    try:
        places = hypervisor.placements(SERVICE)
        hypervisor.list_vms()
        request = new_request_id()
        before = hypervisor.session.calls.copy()
        begun = time.monotonic()
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="bare") as pool:
            work = [
                pool.submit(_make_bare, hypervisor, settings, request, n, places[n % len(places)])
                for n in range(1, number + 1)
            ]
            for one in work:
                one.result()
        return time.monotonic() - begun, hypervisor.session.calls - before
    finally:
        hypervisor.close()


def _make_bare(hypervisor: VsphereHypervisor, settings: Settings, request: str, number: int, place: Placement) -> None:
    name = make_child_name(SERVICE, request, number)
    stamp = Stamp(SERVICE, make_fork_id(request, name), request, datetime.now(UTC) + PATIENCE)
    vm = hypervisor.fork(ForkSpec(name, stamp, place), timeout=PATIENCE)
    hypervisor.identify(vm.id, make_bare_identity(settings, vm), timeout=PATIENCE)
    hypervisor.restamp(vm.id, replace(stamp, expires=None))


class MemoryWatch:
    """The most memory that the process of a flow's run took while the block ran."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.most = 0
        self._stop = Event()
        self._thread = Thread(target=self._look, name="memory-watch", daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    if (entry / "comm").read_text().strip() == RUN_PROCESS:
                        lines = (entry / "status").read_text().splitlines()
                        self.most = max(self.most, *(int(line.split()[1]) << 10 for line in lines if "VmRSS" in line))
                except (OSError, ValueError):
                    continue  # it ended while we looked


@contextmanager
def bare_vcenter(context: Context) -> Iterator[tuple[Door, Settings]]:
    """A second vCenter like the lab's, whose guests register nowhere; and settings for it."""
    with TemporaryDirectory(prefix="forkyard-bench-") as made:
        vcenter = VCenter(directory=Path(made) / "vcenter", hosts=context.settings.lab.hosts)
        door = start_vcenter(vcenter, build_vcenter(context.settings.cache_dir))
        vsphere = replace(context.settings.vsphere, url=door.url, thumbprint=door.thumbprint)
        try:
            yield door, replace(context.settings, vsphere=vsphere, state_dir=Path(made) / "state")
        finally:
            stop_vcenter(vcenter)


def require_vcenter(context: Context) -> Door:
    """How to get into the lab's own vCenter; raises InvalidRequest when it has none."""
    door = find_vcenter(make_vcenter(context.settings))
    if door is None:
        text = "this bench needs the lab's own vCenter: forkyard lab up --hypervisor vsphere --hosts 64."
        raise InvalidRequest(text)
    return door


@contextmanager
def _rules(door: Door, *, faults: Sequence[Json] = (), delays: Sequence[Json] = ()) -> Iterator[None]:
    set_rules(door, faults=faults, delays=delays)
    try:
        yield
    finally:
        set_rules(door)


def set_rules(door: Door, *, faults: Sequence[Json] = (), delays: Sequence[Json] = ()) -> None:
    """Say how the vCenter is slow and what fails."""
    control(door, "PUT", "/rules", {"seed": 1, "delays": list(delays), "faults": list(faults), "guests": []})


def take_calls(door: Door) -> dict[str, int]:
    """How often each method was called since the last time, by whomever."""
    return {str(name): int(str(number)) for name, number in control(door, "DELETE", "/calls").items()}


def control(door: Door, method: str, path: str, body: object = None) -> Json:
    """Ask the vCenter's control API; no part of vSphere."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(door.control + path, data=data, method=method)  # noqa: S310 - the lab's own
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            found: Json = json.load(answer)
            return found
    except OSError as error:
        text = f"{door.control}: {error}"
        raise TransientError(text) from error


def _listed(value: object) -> Sequence[Mapping[str, str]]:
    return value if isinstance(value, list) else []
