"""`forkyard lab`: the small world on one machine, up, down, and how it is."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.failures import require_root
from cli.output import emit, make_console, say
from cli.shapes import Json
from forkyard.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class PartState:
    """One part of the lab."""

    running: bool
    detail: str
    on_disk: bool = False
    """Whether it is nothing but files: `running` says then that they are whole."""


@dataclass(frozen=True, slots=True)
class LabState:
    """What runs, and where to look."""

    load_balancer: str
    consul: str
    prefect: str
    slack: dict[str, object]
    """`page`, `api`, and `users` with `name` and `role`."""
    parts: dict[str, PartState]
    vcenter: dict[str, str] | None = None
    """Of a lab with a vCenter of its own: `url`, `user`, `password`, `thumbprint`."""

    @property
    def running(self) -> list[str]:
        """Names of the parts that run; what is only kept on disk is none of them."""
        return [name for name, part in self.parts.items() if part.running and not part.on_disk]

    @property
    def up(self) -> bool:
        """Whether every part runs."""
        return all(part.running for part in self.parts.values())


def observe_lab(settings: Settings) -> LabState:
    """Look at the lab's parts."""
    from lab.world import status  # noqa: PLC0415 - the lab's libraries are imported only here

    found = status(settings)
    parts = {part.name: PartState(part.healthy, part.detail, part.on_disk) for part in found.parts}
    vcenter = asdict(found.vcenter) if found.vcenter is not None else None
    return LabState(found.load_balancer, found.consul, found.prefect, asdict(found.slack), parts, vcenter)


def lab_shape(state: LabState) -> Json:
    """The JSON of the lab; `load_balancer`, `consul`, `prefect`, `slack` and `vcenter` are kept stable."""
    shape = asdict(state) | {"up": state.up}
    if state.vcenter is None:
        del shape["vcenter"]
    return shape


def run_up(config: Path | None, *, hypervisor: str | None, hosts: int | None, as_json: bool) -> int:
    """Start what is not running; *hypervisor* and *hosts*: what the lab has instead of what forkyard.toml says."""
    from lab.own_vcenter import choose_hypervisor  # noqa: PLC0415 - as above
    from lab.world import up  # noqa: PLC0415 - as above

    require_root("forkyard lab up")
    choose_hypervisor(load_settings(config), hypervisor, hosts)
    settings = load_settings(config)
    started = time.monotonic()
    up(settings, say, config=config)
    state = observe_lab(settings)
    seconds = time.monotonic() - started
    if as_json:
        emit(lab_shape(state) | {"seconds": round(seconds, 3)})
    else:
        _show(state, f"the lab is up ({seconds:.1f} s)" if state.up else "the lab is not whole")
    return 0 if state.up else 1


def run_down(config: Path | None, *, as_json: bool) -> int:
    """Stop all of it, and what was left by benches that were killed."""
    from cli.bench.apart import clear_abandoned  # noqa: PLC0415 - as above
    from lab.world import down  # noqa: PLC0415 - as above

    settings = load_settings(config)
    require_root("forkyard lab down")
    down(settings, say)
    benches = [str(path) for path in clear_abandoned(settings)]
    for left in benches:
        say(f"{left}: removed what was left by a bench that was killed")
    if as_json:
        emit({"up": False, "benches": benches})
    else:
        make_console().print("the lab is down; frozen parents stay on disk")
    return 0


def run_status(config: Path | None, *, as_json: bool) -> int:
    """Say what runs; code 0 when all of it does."""
    state = observe_lab(load_settings(config))
    if as_json:
        emit(lab_shape(state))
    else:
        programs = [part for part in state.parts.values() if not part.on_disk]
        _show(state, f"{len(state.running)} of {len(programs)} parts run")
    return 0 if state.up else 1


def _show(state: LabState, title: str) -> None:
    from cli.tables import make_table  # noqa: PLC0415 - only for people

    console = make_console()
    table = make_table(title, "part", "state", "detail")
    for name, part in state.parts.items():
        fine, not_fine = ("on disk", "not ready") if part.on_disk else ("runs", "does not run")
        shown = f"[green]{fine}[/green]" if part.running else f"[red]{not_fine}[/red]"
        table.add_row(name, shown, part.detail.replace("[", "\\["))
    console.print(table)
    console.print(f"\n  load balancer  {state.load_balancer}")
    console.print(f"  Consul         {state.consul}/ui")
    console.print(f"  Prefect        {state.prefect}")
    console.print(f"  Slack          {state.slack['page']}")
    if state.vcenter is not None:
        console.print(f"  vCenter        {state.vcenter['url']} (user and password: --json)")
