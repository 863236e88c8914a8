"""
The bench `identity`: ten children, their 13 identity points compared with each other, and checked from outside.

Inside is what each guest proved (its report, kept by the driver); outside is what `cli.bench.witnesses` see of the
running VMs.
"""

from collections import Counter
from collections.abc import Sequence

from cli.bench import Context, Run
from cli.bench.parts import SERVICE, require_room, scale_to
from cli.bench.witnesses import KEY, RIGHT, Seen, look_from_outside
from forkyard.hypervisors.qemu.children import IDENTIFIED
from forkyard.hypervisors.qemu.records import read_record
from forkyard.model import Child
from forkyard.phases import observe_fleet
from forkyard.settings import Settings
from forkyard.wire import POINTS, report_from_wire
from forkyard.world import open_world

CHILDREN = 10

ALIKE = frozenset({"clock", "tcp_connections"})
"""Points that are proved and need not differ: the time is one, and none of the parent's connections is left."""

WITNESSES = {
    "neighbour mac": "mac",
    "consul address": "address",
    "hostname on disk": "hostname",
    "machine-id on disk": "machine_id",
    KEY: "ssh_host_keys",
    "dhcp client id on disk": "dhcp_client_id",
    "consul node id": "consul_node",
    "fork id as players meet it": "fork_uuid",
    "child as players meet it": "container_identity",
}
"""What an outside witness tells, and the point in which it must be found."""


def measure_identity(context: Context) -> Sequence[Run]:
    """Ten children; a run's value is the number of points that two of them share, or that do not agree."""
    require_room(context, CHILDREN)
    runs = []
    for _ in range(context.runs):
        scale_to(context, 0)
        scale_to(context, CHILDREN)
        with open_world(context.settings, SERVICE) as world:
            children = observe_fleet(world).serving
            upstream = world.balancer.upstream(SERVICE)
        inside = _read_reports(context.settings, children)
        outside = look_from_outside(context.settings, children, upstream.servers if upstream is not None else ())
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
    wrong = [
        f"{witness}: {child} is {value}, and its guest proved {inside[point].get(child)}"
        for witness, point in WITNESSES.items()
        for child, value in outside.get(witness, {}).items()
        if value.lower() not in _list_words(inside.get(point, {}).get(child, ""))
    ]
    clocks = outside.get("clock", {}).items()
    return wrong + [f"clock: {child} is off by {value}" for child, value in clocks if value != RIGHT]


def _list_words(proved: str) -> set[str]:
    """What a point may be met as: a name has its fork id beside it, an address its network's length."""
    return {*proved.lower().split(), proved.lower().partition("/")[0]}


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
