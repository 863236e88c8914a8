"""Tables for people: they fit 80 columns, and colour says nothing that a word does not say too."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from rich.table import Table

from cli.shapes import count_phases
from forkyard.model import Child, Fleet, Phase, Placement, Power, ScalePlan, StepKind
from forkyard.reap import ReapReport

_COLOURS = {
    Phase.SERVING: "green",
    Phase.READY: "cyan",
    Phase.DRAINING: "yellow",
    Phase.FAILED: "red",
}
_COMING = (Phase.FORKED, Phase.IDENTIFIED, Phase.REGISTERED, Phase.READY, Phase.SERVING)
_MIB = 1 << 20


def make_table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """Make an empty table in the one style that all commands use."""
    numbers = frozenset(right)
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def render_size(size: int | None) -> str:
    """Bytes for a table's cell."""
    return "" if size is None else f"{size / _MIB:,.0f} MiB"


def render_age(moment: datetime, now: datetime | None = None) -> str:
    """How long ago, in the one unit that tells the most."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def summarize(fleet: Fleet) -> str:
    """Say one fleet in one line."""
    wanted = fleet.intent.wanted if fleet.intent is not None else 0
    others = ", ".join(f"{n} {phase.value}" for phase, n in count_phases(fleet).items() if phase is not Phase.SERVING)
    strays = f", {len(fleet.strays)} stray registrations" if fleet.strays else ""
    return f"{fleet.service}: {len(fleet.serving)} of {wanted} serving" + (f", {others}" if others else "") + strays


def explain_fleet(fleet: Fleet, busy: str | None) -> list[str]:
    """Say why a fleet is not as asked, and the next command unless somebody is at work; nothing of one that is."""
    lines = [f"Nobody is served: {fleet.unserved}"] if fleet.unserved else []
    broken = [child for child in fleet.children if child.phase is Phase.FAILED]
    dead = sum(child.vm.power is Power.DEAD for child in broken)
    if dead:
        lines.append(f"{dead} failed: the VM's process is gone.")
    if len(broken) > dead:
        lines.append(f"{len(broken) - dead} failed: the VM runs, and Consul has not seen it well.")
    if busy:
        lines.append(f"Somebody is at work on it: {busy}")
    elif fleet.intent is not None and (broken or len(fleet.children) != fleet.intent.wanted):
        lines.append(f"Next: forkyard scale {fleet.service} --to {fleet.intent.wanted}")
    return lines


def fleet_table(fleet: Fleet, seconds: Mapping[str, Mapping[str, float]]) -> Table:
    """The children of one service."""
    columns = ("child", "phase", "address", "parent", "pid", "memory", "ready in", "age")
    table = make_table(summarize(fleet), *columns, right=("pid", "memory", "ready in", "age"))
    for child in fleet.children:
        known = seconds.get(child.vm.name, child.seconds)
        took = sum(known.get(phase, 0.0) for phase in _COMING)
        table.add_row(
            child.vm.name,
            _phase(child),
            child.vm.address or "",
            child.vm.parent or "",
            str(child.vm.pid or ""),
            render_size(child.vm.pss_bytes),
            f"{took:.1f} s" if took else "",
            render_age(child.vm.created, fleet.observed_at),
        )
    return table


def plan_table(plan: ScalePlan, fleet: Fleet, maximum: int) -> Table:
    """What each parent and host has now, gets and loses; *maximum*: most children that the service may have."""
    title = f"{plan.request.service}: {plan.current} now, {plan.target} wanted, {maximum} allowed"
    table = make_table(
        title, "parent", "host", "now", "change", "then", "room", "room then", right=("now", "change", "then")
    )
    places: dict[tuple[str | None, str], Placement] = {(p.parent, p.host): p for p in fleet.placements}
    here = {(child.vm.parent, child.vm.host) for child in fleet.children}
    homes = {child.vm.name: (child.vm.parent, child.vm.host) for child in fleet.children}
    for key in [*places, *sorted(here - set(places), key=str)]:
        now = sum(home == key for home in homes.values())
        made = sum(1 for s in plan.of(StepKind.FORK) if s.placement and (s.placement.parent, s.placement.host) == key)
        made -= sum(1 for s in plan.of(StepKind.FORK) if homes.get(s.name) == key)
        gone = sum(1 for s in plan.steps if s.kind is not StepKind.FORK and homes.get(s.name) == key)
        place = places.get(key)
        room = str(place.room) if place else "?"
        left = f"{place.room - made + gone}" + (f" ({place.limited_by})" if place.limited_by else "") if place else "?"
        table.add_row(key[0] or "?", key[1], str(now), f"{made - gone:+d}", str(now + made - gone), room, left)
    return table


def reap_table(report: ReapReport) -> Table:
    """What was found and what became of it."""
    table = make_table(f"{report.service}: {len(report.removals)} found", "what", "name", "why", "outcome")
    for removal in report.removals:
        done = "would be removed" if report.dry_run else "removed"
        table.add_row(removal.orphan.kind.value, removal.orphan.name, removal.orphan.why, removal.error or done)
    for orphan in report.seen_once:
        table.add_row(orphan.kind.value, orphan.name, orphan.why, "seen once: left alone")
    return table


def _phase(child: Child) -> str:
    colour = _COLOURS.get(child.phase)
    return f"[{colour}]{child.phase.value}[/{colour}]" if colour else child.phase.value
