"""`forkyard demo`: the whole chain once, and a page of what it did."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.failures import AS_ASKED, INTERRUPTED, WENT_WRONG
from cli.lab import LabState, observe_lab
from cli.output import emit, make_console, say
from cli.progress import show_report
from cli.scale import Report, ScaleOptions, carry_out, make_request, scale_shape, settle
from forkyard.model import Phase
from forkyard.settings import Settings, load_settings

SERVICE = "game"
CHILDREN = 4
_WIDTH = 50
_MARKS: Mapping[str, tuple[str, str]] = {
    Phase.FORKED: ("█", "blue"),
    Phase.IDENTIFIED: ("▓", "magenta"),
    Phase.REGISTERED: ("▒", "yellow"),
    Phase.READY: ("░", "cyan"),
    Phase.SERVING: ("━", "green"),
}


def run_demo(config: Path | None, *, as_json: bool) -> int:
    """Start the lab, fork four servers from one warm VM, show what happened; code 0 when all four serve."""
    from lab.world import up  # noqa: PLC0415 - the lab's libraries are imported only here

    settings = load_settings(config)
    say("starting the lab: Consul, Nginx, Prefect, a warm parent VM (the first time takes minutes)")
    up(settings, say, config=config)
    say(f"forking {CHILDREN} servers from one warm VM")
    options = ScaleOptions(SERVICE, CHILDREN, dry_run=False, reason="demo", yes=True, in_process=False, as_json=as_json)
    request = make_request(options)
    started = time.monotonic()
    ending, url = carry_out(settings, request)
    report = settle(settings, request, ending)
    seconds = time.monotonic() - started
    picture = write_picture(settings, report)
    lab = observe_lab(settings)
    if as_json:
        emit(scale_shape(report, url, seconds) | {"lab": lab.load_balancer, "picture": str(picture)})
    else:
        _show_page(lab, report, url, seconds, picture)
    if ending.interrupted:
        return INTERRUPTED
    return AS_ASKED if report["ok"] else WENT_WRONG


def write_picture(settings: Settings, report: Report) -> Path | None:
    """Write the timeline as an SVG file beside the reports; None when the run left no report."""
    from forkyard.picture import render_timeline  # noqa: PLC0415 - only here
    from forkyard.report import report_from_json  # noqa: PLC0415 - only here

    if "intervals" not in next(iter(report["children"]), {}):
        return None
    children = report_from_json(report).children
    path = settings.state_dir / "reports" / f"{report['service']}.svg"
    path.write_text(render_timeline(children, title=f"{report['service']}: {report['message']}"))
    return path


def render_timeline_text(children: Sequence[Mapping[str, Any]]) -> list[str]:
    """Render each child's way as a line of characters: one kind of character, and one colour, a phase."""
    known = [child for child in children if child.get("intervals")]
    end = max((i["end"] for child in known for i in child["intervals"]), default=0.0)
    if not end:
        return []
    lines = []
    for child in known:
        cells = [" "] * _WIDTH
        for interval in child["intervals"]:
            mark, colour = _MARKS.get(interval["phase"], ("·", "white"))
            first = int(_WIDTH * interval["start"] / end)
            last = max(first + 1, round(_WIDTH * interval["end"] / end))
            for cell in range(first, min(last, _WIDTH)):
                cells[cell] = f"[{colour}]{mark}[/{colour}]"
        lines.append(f"  {child['name']:<16} {''.join(cells)}")
    legend = "  ".join(f"[{colour}]{mark}[/{colour}] {phase}" for phase, (mark, colour) in _MARKS.items())
    return [*lines, f"  {'':<16} 0 s{'':<{_WIDTH - 10}}{end:4.1f} s", f"  {legend}"]


def _show_page(lab: LabState, report: Report, url: str | None, seconds: float, picture: Path | None) -> None:
    console = make_console()
    console.print()
    show_report(report, None, seconds)
    console.print()
    for line in render_timeline_text(report["children"]):
        console.print(line, soft_wrap=True)
    links = {
        "the game": lab.load_balancer,
        "this run": url,
        "Consul": f"{lab.consul}/ui",
        "Prefect": lab.prefect,
        "picture": picture,
    }
    console.print("\n[bold]Look[/bold]")
    for name, link in links.items():
        if link is not None:
            console.print(f"  {name:<10} {link}", soft_wrap=True)
    ask = f"curl -H 'Accept: application/json' {lab.load_balancer}/"
    steps = (
        (ask, "which child answers"),
        (f"forkyard scale {SERVICE} --to 8", "more"),
        ("forkyard watch", "live"),
        (f"forkyard scale {SERVICE} --to 0", "none"),
    )
    console.print("\n[bold]Go on[/bold]")
    for step, why in steps:
        console.print(f"  {step:<58} {why}", soft_wrap=True)
    console.print("\n[bold]Stop[/bold]\n  make down")
