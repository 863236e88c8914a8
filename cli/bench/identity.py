"""
The bench `identity`: ten children, their 13 identity points compared with each other, and checked from outside.

Inside is what each guest proved (its report, kept by the driver); outside is what Consul's catalog, the neighbour
table of the children's network, their SSH servers and the app's own answers say of the running VMs.
"""

import json
import shutil
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta

from cli.bench import Context, Run
from cli.bench.parts import SERVICE, ask, require_room, scale_to
from forkyard.errors import NotReady
from forkyard.hypervisors.qemu.children import IDENTIFIED
from forkyard.hypervisors.qemu.records import read_record
from forkyard.model import Child
from forkyard.phases import observe_fleet
from forkyard.processes import in_namespace
from forkyard.settings import Settings
from forkyard.waiting import wait_for
from forkyard.wire import POINTS, report_from_wire
from forkyard.world import open_world

CHILDREN = 10

ALIKE = frozenset({"clock", "tcp_connections"})
"""Points that are proved and need not differ: the time is one, and none of the parent's connections is left."""

_ANSWERS = timedelta(seconds=60)
_SECONDS = 10.0

Seen = Mapping[str, Mapping[str, str]]
"""Per point (or outside witness): child and value."""


def measure_identity(context: Context) -> Sequence[Run]:
    """Ten children; a run's value is the number of points that two of them share, or that do not agree."""
    require_room(context, CHILDREN)
    runs = []
    for _ in range(context.runs):
        scale_to(context, 0)
        scale_to(context, CHILDREN)
        with open_world(context.settings, SERVICE) as world:
            children = observe_fleet(world).serving
        inside = _read_reports(context.settings, children)
        outside = _look_from_outside(context.settings, children)
        problems = [*find_shared(inside, len(children)), *find_shared(outside, len(children))]
        problems += find_contradictions(inside, outside)
        if len(children) != CHILDREN:
            problems.append(f"{len(children)} of {CHILDREN} children serve")
        runs.append(Run(float(len(problems)), {"problems": problems, "points": inside, "outside": outside}))
        scale_to(context, 0)
    return runs


def find_shared(seen: Seen, children: int) -> list[str]:
    """Say each point of which two children have the same value, or that some child does not have."""
    problems = []
    for point, values in seen.items():
        twice = [value for value, number in Counter(values.values()).items() if number > 1]
        if twice and point not in ALIKE:
            problems.append(f"{point}: {len(twice)} values belong to several children")
        if len(values) != children:
            problems.append(f"{point}: seen of {len(values)} children only")
    return problems


def find_contradictions(inside: Seen, outside: Seen) -> list[str]:
    """Say each child of which an outside witness says something else than its guest has proved."""
    same = {"neighbour mac": "mac", "app's fork id": "fork_uuid", "consul node id": "consul_node"}
    return [
        f"{witness}: {child} is {value}, and its guest proved {inside[point].get(child)}"
        for witness, point in same.items()
        for child, value in outside.get(witness, {}).items()
        if value.lower() not in inside.get(point, {}).get(child, "").lower()
    ]


def _read_reports(settings: Settings, children: Sequence[Child]) -> Seen:
    seen: dict[str, dict[str, str]] = {point: {} for point in POINTS}
    for child in children:
        record = read_record(settings.state_dir / "vms" / child.vm.name / IDENTIFIED)
        if record is None:
            continue
        for point in report_from_wire(record).points:
            if point.proved:
                seen[point.point][child.vm.name] = point.value
    return seen


def _look_from_outside(settings: Settings, children: Sequence[Child]) -> Seen:
    answers = _ask_until_all(settings.nginx.url, {child.vm.name for child in children})
    names = {child.vm.address: child.vm.name for child in children if child.vm.address is not None}
    nodes = _consul_nodes(settings)
    witnesses = {
        "app's fork id": answers,
        "consul node id": {str(n["Node"]): str(n["ID"]) for n in nodes if n["Node"] in answers},
        "consul address": {str(n["Node"]): str(n["Address"]) for n in nodes if n["Node"] in answers},
        "neighbour mac": _neighbours(settings, names),
    }
    keys = _ssh_keys(settings, names)
    return witnesses | ({"ssh host key": keys} if keys else {})


def _ask_until_all(url: str, wanted: set[str]) -> dict[str, str]:
    met: dict[str, str] = {}

    def look() -> bool | None:
        answer = ask(url)
        if answer is not None and answer.get("child"):
            met[str(answer["child"])] = str(answer["fork_id"])
        return True if met.keys() >= wanted else None

    try:
        wait_for(look, what="an answer of each child", timeout=_ANSWERS, slowest=timedelta(milliseconds=50))
    except NotReady:
        return met  # who is missing is told by `find_shared`
    return met


def _consul_nodes(settings: Settings) -> list[dict[str, object]]:
    with urllib.request.urlopen(f"{settings.consul.url}/v1/catalog/nodes", timeout=_SECONDS) as answer:  # noqa: S310 - from forkyard.toml
        nodes: list[dict[str, object]] = json.load(answer)
    return nodes


def _neighbours(settings: Settings, names: Mapping[str, str]) -> dict[str, str]:
    from lab.daemons import call_inside  # noqa: PLC0415 - this bench only

    # Nginx has just talked to all of them, so the network's own table has them all.
    namespace = settings.qemu.namespace
    found = call_inside(namespace, _list_neighbours) if namespace else _list_neighbours()
    return {names[address]: mac for address, mac in found if address in names and mac}


def _list_neighbours() -> list[tuple[str, str]]:
    from pyroute2 import IPRoute  # noqa: PLC0415 - this bench only

    with IPRoute() as links:
        return [(str(n.get_attr("NDA_DST")), str(n.get_attr("NDA_LLADDR") or "")) for n in links.get_neighbours()]


def _ssh_keys(settings: Settings, names: Mapping[str, str]) -> dict[str, str]:
    if shutil.which("ssh-keyscan") is None:
        return {}
    argv = in_namespace(["ssh-keyscan", "-T", "5", "-t", "ed25519", *names], settings.qemu.namespace)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    rows = [line.split() for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return {names[row[0]]: row[2] for row in rows if len(row) > 2 and row[0] in names}  # noqa: PLR2004 - host, type, key
