"""Looking at fleets: `forkyard plan`, `status` and `watch`. They change nothing and take no lease."""

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

from cli.output import emit, make_console, say
from cli.shapes import Json, is_as_asked, plan_shape, service_shape
from forkyard.errors import ForkyardError, InvalidRequest, TransientError
from forkyard.history import Seconds, read_seconds
from forkyard.holders import is_dead
from forkyard.model import Fleet, ScaleRequest, StepKind
from forkyard.names import new_request_id
from forkyard.phases import observe_fleet
from forkyard.plan import check_request, make_plan
from forkyard.settings import Settings, load_settings
from forkyard.world import World, open_world

_PATIENCE = timedelta(seconds=2)


def select_services(settings: Settings, service: str | None) -> list[str]:
    """Name the one service, or all of them; raises InvalidRequest when there is none."""
    if service is not None:
        settings.service(service)
        return [service]
    if not settings.services:
        text = "forkyard.toml has no service. Add a table such as [services.game]."
        raise InvalidRequest(text)
    return sorted(settings.services)


def run_plan(config: Path | None, service: str, target: int, *, as_json: bool) -> int:
    """Show what a request would do, under the limits that would hold."""
    request = ScaleRequest(new_request_id(), service, target, "", datetime.now(UTC), dry_run=True)
    return show_plan(load_settings(config), request, as_json=as_json)


def show_plan(settings: Settings, request: ScaleRequest, *, as_json: bool) -> int:
    """Observe, plan, and show; nothing is changed and no lease is taken."""
    started = time.monotonic()
    check_request(request, settings.service(request.service).limits)
    with open_world(settings, request.service) as world:
        fleet = observe_fleet(world)
        connections = world.balancer.active_connections(request.service) if fleet.children else {}
        plan = make_plan(request, fleet, world.policy.limits, connections=connections)
        busy = _explain_holder(world)
    if as_json:
        seconds = round(time.monotonic() - started, 3)
        emit(plan_shape(plan, fleet) | {"held_by": busy, "seconds": seconds, "run_url": None, "dry_run": True})
        return 0
    from cli.tables import plan_table  # noqa: PLC0415 - only for people

    console = make_console()
    console.print(plan_table(plan, fleet, world.policy.maximum))
    for note in plan.notes:
        console.print(f"  {note}")
    if busy:
        console.print(f"  Somebody is at work on it: {busy}. What is unfinished now may be finished by then.")
    changes = ", ".join(f"{len(steps)} to {kind.value}" for kind in StepKind if (steps := plan.of(kind)))
    console.print(f"  {changes or 'Nothing to do: the fleet is as asked.'}")
    return 0


def run_status(config: Path | None, service: str | None, *, check: bool, as_json: bool) -> int:
    """Show what is there now."""
    settings = load_settings(config)
    looks = [_look(settings, name) for name in select_services(settings, service)]
    fleets = [fleet for fleet, _ in looks]
    seconds = [_seconds_from_anywhere(settings, fleet) for fleet in fleets]
    if as_json:
        shapes = [service_shape(fleet, s) | {"held_by": busy} for (fleet, busy), s in zip(looks, seconds, strict=True)]
        emit({"services": {fleet.service: shape for fleet, shape in zip(fleets, shapes, strict=True)}})
    else:
        from cli.tables import explain_fleet, fleet_table  # noqa: PLC0415 - only for people

        console = make_console()
        for (fleet, busy), known in zip(looks, seconds, strict=True):
            console.print(fleet_table(fleet, known))
            for line in explain_fleet(fleet, busy):
                console.print(f"  {line}", markup=False, highlight=False)
    return 1 if check and not all(is_as_asked(fleet) for fleet in fleets) else 0


def run_watch(config: Path | None, service: str | None, *, every: float, as_json: bool) -> int:
    """Follow until Ctrl-C, which is the way to leave and so no failure."""
    settings = load_settings(config)
    names = select_services(settings, service)
    looks = _look_repeatedly(settings, names, every)
    try:
        if as_json or not sys.stdout.isatty():
            _follow_changes(settings, looks, as_json=as_json)
        else:
            _follow_live(settings, looks)
    except KeyboardInterrupt:
        return 0
    return 0


def _look_repeatedly(settings: Settings, names: list[str], every: float) -> Iterator[list[Fleet]]:
    never = Event()
    while True:
        began = time.monotonic()
        try:
            yield [_observe(settings, name) for name in names]
        except TransientError as error:
            # Watching outlives a restart of Consul or Nginx; what is broken for good still ends it.
            say(f"forkyard: {error}")
        never.wait(max(0.0, every - (time.monotonic() - began)))


def _follow_changes(settings: Settings, looks: Iterator[list[Fleet]], *, as_json: bool) -> None:
    from cli.tables import summarize  # noqa: PLC0415 - after the first look is on its way

    last: object = None
    for fleets in looks:
        key = [[(child.vm.name, child.phase) for child in fleet.children] for fleet in fleets]
        if key == last:
            continue
        last = key
        if as_json:
            emit(_status(settings, fleets))
        else:
            now = datetime.now(UTC)
            sys.stdout.write("".join(f"{now:%H:%M:%S} {summarize(fleet)}\n" for fleet in fleets))
            sys.stdout.flush()


def _follow_live(settings: Settings, looks: Iterator[list[Fleet]]) -> None:
    from rich.console import Group  # noqa: PLC0415 - only for people
    from rich.live import Live  # noqa: PLC0415 - only for people

    from cli.tables import fleet_table  # noqa: PLC0415 - only for people

    with Live(console=make_console(), auto_refresh=False, screen=False) as live:
        for fleets in looks:
            tables = [fleet_table(fleet, _seconds(settings, fleet)) for fleet in fleets]
            live.update(Group(*tables), refresh=True)


def _seconds_from_anywhere(settings: Settings, fleet: Fleet) -> Seconds:
    """Ask Prefect for what is not on disk here: of runs that nobody at this machine's command line followed."""
    known = _seconds(settings, fleet)
    missing = {child.vm.name for child in fleet.children} - known.keys()
    if not missing:
        return known
    from flows.runs import Runs  # noqa: PLC0415 - seldom needed

    try:
        reports = Runs(settings.prefect.api_url, timeout=_PATIENCE).results(fleet.service)
    except ForkyardError:
        return known  # best effort: where it does not answer, these seconds are not known
    for child in (child for report in reversed(reports) for child in report["children"]):
        if child["name"] in missing and child["seconds"]:
            known[child["name"]] = child["seconds"]
    return known


def _seconds(settings: Settings, fleet: Fleet) -> Seconds:
    return read_seconds(settings, fleet.service, [child.vm.name for child in fleet.children])


def _observe(settings: Settings, service: str) -> Fleet:
    with open_world(settings, service) as world:
        return observe_fleet(world)


def _look(settings: Settings, service: str) -> tuple[Fleet, str | None]:
    with open_world(settings, service) as world:
        return observe_fleet(world), _explain_holder(world)


def _status(settings: Settings, fleets: list[Fleet]) -> Json:
    return {"services": {fleet.service: service_shape(fleet, _seconds(settings, fleet)) for fleet in fleets}}


def _explain_holder(world: World) -> str | None:
    holder = world.registry.holder(world.service)
    if holder is None or is_dead(holder):
        return None
    return f"{holder.who} ({holder.reason or holder.request_id}) since {holder.since:%H:%M:%S} UTC"
