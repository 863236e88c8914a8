"""
The timeline of a request as SVG: a bar for each child, a colour for each phase, an axis in seconds.

Pure. The colours are told apart by people with any kind of colour vision (after Okabe and Ito) and each also differs in
lightness; what failed is hatched. The picture follows the reader's light or dark setting.
"""

import base64
from collections.abc import Sequence
from html import escape
from math import ceil

from forkyard.model import Phase
from forkyard.report import STAGES, ChildReport, Interval

COLOURS = {
    Phase.FORKED: "#0072b2",
    Phase.IDENTIFIED: "#e69f00",
    Phase.REGISTERED: "#56b4e9",
    Phase.READY: "#f0e442",
    Phase.SERVING: "#009e73",
    Phase.DRAINING: "#cc79a7",
    Phase.RETIRED: "#8c8c8c",
}

WORDS = {
    Phase.FORKED: "fork",
    Phase.IDENTIFIED: "customize",
    Phase.REGISTERED: "register",
    Phase.READY: "pass checks",
    Phase.SERVING: "answer through Nginx",
    Phase.DRAINING: "drain",
    Phase.RETIRED: "destroy",
}

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 960, 150, 24, 78, 40

_STYLE = (
    ".bg{fill:#fff}.t{fill:#1b1b1b}.m{fill:#595959}.g{stroke:#d9d9d9}.h{stroke:#1b1b1b}"
    "@media(prefers-color-scheme:dark){.bg{fill:#15181d}.t{fill:#eee}.m{fill:#aab}.g{stroke:#3a3f47}.h{stroke:#eee}}"
    "text{font-family:system-ui,sans-serif;font-size:12px}.title{font-size:16px;font-weight:600}"
)


def render_timeline(children: Sequence[ChildReport], *, title: str) -> str:
    """Render the children's intervals, in their order, with *title* above."""
    shown = [child for child in children if child.intervals]
    # Bars get thinner with their number, so that 1,000 still fit on one page to scroll.
    pitch = max(2.0, min(24.0, 900 / max(1, len(shown))))
    longest = max((i.end for child in shown for i in child.intervals), default=1.0)
    step = tick_step(longest)
    span = max(step, ceil(longest / step) * step)
    height = TOP + pitch * max(1, len(shown)) + BOTTOM
    scale = (WIDTH - LEFT - RIGHT) / span
    body = "".join(_row(child, TOP + row * pitch, pitch, scale, row, len(shown)) for row, child in enumerate(shown))
    empty = "" if shown else f'<text class="m" x="{LEFT}" y="{TOP + 14}">No child was changed.</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" '
        f'role="img" aria-label="{escape(title, quote=True)}"><style>{_STYLE}</style>'
        '<defs><pattern id="x" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<line class="h" x1="0" y1="0" x2="0" y2="6" stroke-width="2"/></pattern></defs>'
        f'<rect class="bg" width="100%" height="100%"/><text class="t title" x="16" y="26">{escape(title)}</text>'
        f"{_legend(shown)}{_axis(step, span, scale, height)}{body}{empty}</svg>"
    )


def render_data_uri(svg: str) -> str:
    """Put the picture into a URI that needs no server to fetch it from."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _row(child: ChildReport, top: float, pitch: float, scale: float, row: int, rows: int) -> str:
    thick = max(1.5, pitch * 0.72)
    bars = "".join(_bar(interval, top, thick, scale) for interval in child.intervals)
    # Names stay readable: with many children only some rows have theirs.
    every = ceil(14 / pitch)
    named = row % every == 0 or row == rows - 1 == 0
    mark = "✗ " if child.error else ""
    name = escape(mark + child.name)
    text = f'<text class="t" x="{LEFT - 8}" y="{top + thick / 2 + 4:.1f}" text-anchor="end">{name}</text>'
    total = sum(i.end - i.start for i in child.intervals)
    tip = f"{child.name}: {child.phase.value}, {total:.1f} s" + (f", {child.error}" if child.error else "")
    return f"<g><title>{escape(tip)}</title>{text if named else ''}{bars}</g>"


def _bar(interval: Interval, top: float, thick: float, scale: float) -> str:
    left, width = LEFT + interval.start * scale, max(1.0, (interval.end - interval.start) * scale)
    place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{thick:.1f}"'
    plain = f'<rect {place} fill="{COLOURS.get(interval.phase, "#8c8c8c")}"/>'
    return plain if interval.ok else plain + f'<rect {place} fill="url(#x)"/>'


def _legend(children: Sequence[ChildReport]) -> str:
    used = {i.phase for child in children for i in child.intervals}
    parts: list[str] = []
    x = 16.0
    for phase in (phase for phase in STAGES if phase in used):
        parts.append(f'<rect x="{x:.0f}" y="42" width="14" height="14" fill="{COLOURS[phase]}"/>')
        parts.append(f'<text class="t" x="{x + 20:.0f}" y="54">{WORDS[phase]}</text>')
        x += 40 + 7 * len(WORDS[phase])
    if any(not i.ok for child in children for i in child.intervals):
        parts.append(f'<rect class="h" x="{x:.0f}" y="42" width="14" height="14" fill="url(#x)"/>')
        parts.append(f'<text class="t" x="{x + 20:.0f}" y="54">failed</text>')
    return "".join(parts)


def _axis(step: float, span: float, scale: float, height: float) -> str:
    lines: list[str] = []
    for number in range(round(span / step) + 1):
        x = LEFT + number * step * scale
        lines.append(f'<line class="g" x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - BOTTOM + 4:.1f}"/>')
        label = f"{number * step:g}"
        lines.append(f'<text class="m" x="{x:.1f}" y="{height - BOTTOM + 20:.1f}" text-anchor="middle">{label}</text>')
    lines.append(f'<text class="m" x="{LEFT - 8}" y="{height - BOTTOM + 20:.1f}" text-anchor="end">seconds</text>')
    return "".join(lines)


def tick_step(longest: float) -> float:
    """The least round number of seconds that makes at most ten ticks."""
    size = 0.01
    while True:
        for factor in (1, 2, 5):
            if longest / (size * factor) <= 10:  # noqa: PLR2004 - ten ticks
                return size * factor
        size *= 10
