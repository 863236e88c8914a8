"""
`forkyard bench`: the figures that the project promises, measured on this machine and held against their bars.

A bench measures several runs and gives the median. It ends with the fleet that it found when it can, and
never judges a machine by a single run. Exit code 0 when the bar holds.
"""

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path

from cli.output import emit, make_console, say
from forkyard.errors import ForkyardError, InvalidRequest
from forkyard.settings import Settings, load_settings

Json = dict[str, object]


class Holds(StrEnum):
    """On which side of its bar a value holds."""

    AT_MOST = "at most"
    AT_LEAST = "at least"


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its value, and what else was seen, for who wonders about the value."""

    value: float
    details: Json


@dataclass(frozen=True, slots=True)
class Context:
    """What a bench is given."""

    settings: Settings
    config: Path | None
    runs: int
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """One figure."""

    name: str
    title: str
    unit: str
    bar: float
    holds: Holds
    runs: int
    """How often it runs unless the person says otherwise."""
    module: str
    """Where `measure` is; imported when the bench runs."""
    function: str
    hypervisor: str = "qemu"
    """The lab must have come up with it."""

    def summarize(self, runs: Sequence[Run]) -> float:
        """One value for several runs: the median; but of what must never happen, the worst."""
        values = [run.value for run in runs]
        return max(values) if self.bar == 0 else statistics.median(values)

    def judge(self, value: float) -> bool:
        """Whether a value holds the bar."""
        return value <= self.bar if self.holds is Holds.AT_MOST else value >= self.bar

    def measure(self, context: Context) -> Sequence[Run]:
        """Make the runs."""
        function: Callable[[Context], Sequence[Run]] = getattr(import_module(self.module), self.function)
        return function(context)


def _benches(*benches: Bench) -> dict[str, Bench]:
    return {bench.name: bench for bench in benches}


_MOST, _LEAST = Holds.AT_MOST, Holds.AT_LEAST

BENCHES = _benches(
    Bench(
        "scale-4",
        "0 to 4, until the 4th child answers through Nginx",
        "s",
        15,
        _MOST,
        3,
        "cli.bench.fleet",
        "measure_scale_4",
    ),
    Bench(
        "scale-8",
        "0 to 8, until the 8th child answers through Nginx",
        "s",
        30,
        _MOST,
        3,
        "cli.bench.fleet",
        "measure_scale_8",
    ),
    Bench(
        "cold-boot",
        "booting four cold, over forking four",
        "times",
        15,
        _LEAST,
        3,
        "cli.bench.cold",
        "measure_cold_boot",
    ),
    Bench(
        "fork-100",
        "100 small forks, over starting them one by one",
        "ratio",
        0.5,
        _MOST,
        3,
        "cli.bench.driver",
        "measure_fork_100",
    ),
    Bench(
        "overhead",
        "0 to 4 as a Prefect flow, over the same calls without",
        "ratio",
        1.15,
        _MOST,
        3,
        "cli.bench.overhead",
        "measure_overhead",
    ),
    Bench(
        "memory",
        "PSS of an idle child after 60 s, over its RAM",
        "ratio",
        0.35,
        _MOST,
        3,
        "cli.bench.fleet",
        "measure_memory",
    ),
    Bench(
        "lab-up-again",
        "`forkyard lab up` with the parent on disk",
        "s",
        20,
        _MOST,
        3,
        "cli.bench.fleet",
        "measure_lab_up_again",
    ),
    Bench(
        "wrk", "failed requests while the fleet goes 2, 6, 2", "requests", 0, _MOST, 3, "cli.bench.load", "measure_wrk"
    ),
    Bench(
        "kill-reap",
        "fleets not as asked after a kill -9, a reap and the same again",
        "fleets",
        0,
        _MOST,
        10,
        "cli.bench.chaos",
        "measure_kill_reap",
    ),
    Bench(
        "slack-start",
        "from a slash command to its flow's first task, approved at once",
        "s",
        4,
        _MOST,
        3,
        "cli.bench.slack",
        "measure_slack_start",
    ),
    Bench(
        "vsphere-1000",
        "0 to 1,000 on a vCenter's hosts as a flow, over the same calls by plain pyVmomi",
        "ratio",
        1.3,
        _MOST,
        1,
        "cli.bench.vsphere",
        "measure_thousand",
        "vsphere",
    ),
    Bench(
        "vsphere-faults",
        "ways in which 200 children are not as asked after faults and a restart",
        "ways",
        0,
        _MOST,
        1,
        "cli.bench.vsphere",
        "measure_faults",
        "vsphere",
    ),
    Bench(
        "vsphere-ansible",
        "100 children by Ansible, over ours",
        "times",
        10,
        _LEAST,
        1,
        "cli.bench.vsphere_rivals",
        "measure_ansible",
        "vsphere",
    ),
    Bench(
        "vsphere-govc",
        "100 children by a parallel govc, over ours",
        "times",
        1,
        _LEAST,
        3,
        "cli.bench.vsphere_rivals",
        "measure_govc",
        "vsphere",
    ),
    Bench(
        "identity",
        "identity points that two of ten children share",
        "points",
        0,
        _MOST,
        1,
        "cli.bench.identity",
        "measure_identity",
    ),
)


def run_bench(config: Path | None, name: str | None, *, every: bool = False, runs: int | None, as_json: bool) -> int:
    """Measure one bench, or all that this lab can, or list them."""
    if name is None and not every:
        return _list(as_json=as_json)
    if name is not None and (every or name not in BENCHES):
        text = f"{name}: one bench or --all, not both." if every else f"{name}: no such bench. There are: {_names()}."
        raise InvalidRequest(text)
    settings = load_settings(config)
    if name is not None:
        return _measure(BENCHES[name], Context(settings, config, runs or BENCHES[name].runs, say), as_json=as_json)
    used = {service.hypervisor for service in settings.services.values()}
    codes = [
        _measure_among_others(bench, Context(settings, config, runs or bench.runs, say), as_json=as_json)
        for bench in BENCHES.values()
        if bench.hypervisor in used
    ]
    return max(codes, default=0)


def _measure_among_others(bench: Bench, context: Context, *, as_json: bool) -> int:
    try:
        return _measure(bench, context, as_json=as_json)
    except ForkyardError as error:
        # The others are measured all the same.
        say(f"{bench.name}: {error}")
        return 1


def _measure(bench: Bench, context: Context, *, as_json: bool) -> int:
    measured = bench.measure(context)
    value = bench.summarize(measured)
    holds = bench.judge(value)
    if as_json:
        emit(make_result(bench, measured))
    else:
        _show(bench, measured, value, holds=holds)
    return 0 if holds else 1


def _names() -> str:
    return ", ".join(BENCHES)


def make_result(bench: Bench, measured: Sequence[Run]) -> Json:
    """Make the JSON of one bench; its keys are kept stable."""
    value = bench.summarize(measured)
    return {
        "bench": bench.name,
        "title": bench.title,
        "unit": bench.unit,
        "value": round(value, 3),
        "bar": bench.bar,
        "bar_is": bench.holds.value,
        "holds": bench.judge(value),
        "runs": [{"value": round(run.value, 3), **run.details} for run in measured],
        "machine": describe_machine(),
    }


def describe_machine() -> Json:
    """What a figure depends on."""
    info = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Mem"))
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "memory_bytes": int(info["MemTotal"].split()[0]) << 10,
        "kernel": platform.release(),
        "kvm": _has_virtualization(),
        "load": os.getloadavg()[0],
    }


def _has_virtualization() -> bool:
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    return bool({"vmx", "svm"} & set(flags.split()))


def _list(*, as_json: bool) -> int:
    if as_json:
        shown = {b.name: {"title": b.title, "bar": b.bar, "bar_is": b.holds.value} for b in BENCHES.values()}
        emit({"benches": list(BENCHES), "bars": shown})
        return 0
    from cli.tables import make_table  # noqa: PLC0415 - only for people

    table = make_table("benches", "name", "what", "bar", right=("bar",))
    for bench in BENCHES.values():
        table.add_row(bench.name, bench.title, f"{bench.holds} {bench.bar:g} {bench.unit}")
    make_console().print(table)
    return 0


def _show(bench: Bench, measured: Sequence[Run], value: float, *, holds: bool) -> None:
    console = make_console()
    for number, run in enumerate(measured, start=1):
        console.print(f"  run {number}: {run.value:.3g} {bench.unit}")
    verdict = "[green]holds[/green]" if holds else "[red]does not hold[/red]"
    console.print(f"{bench.name}: {value:.3g} {bench.unit}, {bench.holds} {bench.bar:g}: {verdict}")
