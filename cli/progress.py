"""
How far a run is: bars on a terminal, plain lines elsewhere; and at the end the table of its children.

Everything here is written to stderr but the final table, which is the command's answer.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cli.output import make_console, say
from flows.runs import Progress
from forkyard.model import Phase, ScaleRequest
from forkyard.report import STAGES
from forkyard.stages import read_stages

Show = Callable[[Progress], None]

_WIDTH = 30
_GOING = (Phase.DRAINING, Phase.RETIRED)


@contextmanager
def showing(request: ScaleRequest) -> Iterator[Show]:
    """Give a function that shows progress, live where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield _lines(request)
        return
    from rich.live import Live  # noqa: PLC0415 - only on a terminal

    with Live(console=make_console(stderr=True), auto_refresh=False, transient=True) as live:

        def show(progress: Progress) -> None:
            live.update(render_bars(request, progress), refresh=True)

        yield show


def render_bars(request: ScaleRequest, progress: Progress) -> str:
    """Render one bar per phase, as far as children have come to it."""
    lines = [f"[bold]{request.service} to {request.target}[/bold]  {progress.state.lower()}"]
    for stage in read_stages(progress.text):
        filled = round(_WIDTH * stage.done / stage.total) if stage.total else _WIDTH
        bar = "[green]" + "━" * filled + "[/green][dim]" + "━" * (_WIDTH - filled) + "[/dim]"
        took = f" in {stage.seconds:.1f} s" if stage.seconds is not None else ""
        failed = f", [red]{stage.failed} failed[/red]" if stage.failed else ""
        lines.append(f"  {stage.phase.value:<11}{bar} {stage.done} of {stage.total}{took}{failed}")
    if len(lines) == 1:
        lines.append(f"  {progress.text or 'waiting for the run to begin'}")
    return "\n".join(lines)


def _lines(request: ScaleRequest) -> Show:
    last = ""

    def show(progress: Progress) -> None:
        nonlocal last
        text = progress.text or progress.state.lower()
        if text != last:
            last = text
            say(f"{request.service}: {text}")

    return show


def show_report(report: Mapping[str, Any], url: str | None, seconds: float) -> None:
    """Show what the run did: its children with seconds per phase, its notes, where to look."""
    from cli.tables import make_table, render_size  # noqa: PLC0415 - only for people

    console = make_console()
    children = report["children"]
    columns = _choose_columns(children)
    message, service = str(report["message"]), f"{report['service']}: "
    # An error that stopped the run names the service itself.
    title = f"{service}{message.removeprefix(service)} ({seconds:.1f} s)"
    # A report of an earlier version, or of a hypervisor that cannot tell, has no memory.
    # The unit is the heading: five phases leave no more of 80 columns.
    memory = ["MiB"] if any(child.get("pss_bytes") is not None for child in children) else []
    table = make_table("", "child", "phase", *columns, *memory, right=[*columns, *memory])
    for child in children:
        times = [f"{child['seconds'][c]:.1f}" if c in child["seconds"] else "" for c in columns]
        sizes = [render_size(child.get("pss_bytes")).removesuffix(" MiB") for _ in memory]
        table.add_row(child["name"], str(child["phase"]), *times, *sizes)
    # A title of the table would be wrapped to its width, which may be a few columns.
    if children or report["ok"]:
        console.print(title, markup=False, style="bold")
    if children:
        console.print(table)
    for child in children:
        if child.get("error"):
            console.print(f"  {child['error']}", markup=False)
    for note in report.get("notes", ()):
        console.print(f"  {note}", markup=False)
    if url:
        console.print(f"  {url}", markup=False, soft_wrap=True)


def _choose_columns(children: Sequence[Mapping[str, Any]]) -> list[str]:
    """The phases that took time; both kinds do not fit 80 columns, so those of going are left to --json."""
    used = [phase for phase in STAGES if any(phase.value in child["seconds"] for child in children)]
    coming = [phase for phase in used if phase not in _GOING]
    return [phase.value for phase in coming or used]
