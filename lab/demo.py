"""
The page at the end of `make demo`: what was done, who answers, what to open, how to go on and how to stop.

Asks like a player, through the load balancer; the rest is told from what `forkyard scale` and `status` answered.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from forkyard.errors import NotReady, Unavailable
from forkyard.picture import render_timeline
from forkyard.report import STAGES, report_from_json
from forkyard.settings import Settings
from forkyard.waiting import wait_for

CHILDREN = 4
"""How many servers the demo asks for: each fits a small machine, and one alone would balance nothing."""

_PATIENCE = timedelta(seconds=30)
_WIDEST = 44
"""Longest address that has words beside it; those of a longer one stand below."""
_COLUMNS = {"forked": "fork", "identified": "identify", "registered": "register", "ready": "checks", "serving": "serve"}


@dataclass(frozen=True, slots=True)
class Demo:
    """What the page tells of."""

    service: str
    wanted: int
    seconds: float | None
    """From the command to its end; None when so many were there already."""
    children: Sequence[Mapping[str, Any]]
    """As in the answer of `forkyard status --json`."""
    answers: Mapping[str, int]
    """How often each child answered through the load balancer."""
    lab: Mapping[str, Any]
    """As in the answer of `forkyard lab status --json`: the addresses to open."""
    run_url: str | None = None
    picture: Path | None = None


def ask_as_player(url: str, wanted: int) -> Counter[str]:
    """
    Ask the load balancer, each time on a connection of its own, until *wanted* different children have answered.

    Raises:
        NotReady: not so many answered in time; the message says who did.
    """
    answers: Counter[str] = Counter()

    def ask() -> Counter[str] | None:
        try:
            answer = httpx.get(url, headers={"Accept": "application/json"}, timeout=5).raise_for_status()
            answers[str(answer.json()["child"])] += 1
        except (httpx.HTTPError, ValueError, KeyError) as error:
            text = f"{url}: no answer of the game ({error})"
            raise Unavailable(text) from error
        return answers if len(answers) >= wanted else None

    try:
        return wait_for(ask, what=f"{wanted} children answering", timeout=_PATIENCE, slowest=timedelta(milliseconds=50))
    except NotReady as error:
        text = f"{error}. These did: {', '.join(sorted(answers)) or 'none'}. forkyard status tells more."
        raise NotReady(text) from error


def draw_picture(settings: Settings, service: str) -> Path | None:
    """Draw the timeline of the last request that made children; None when no record of one is there."""
    directory = settings.state_dir / "reports" / service
    for record in sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            report = report_from_json(json.loads(record.read_text()))
        except (ValueError, TypeError, KeyError):
            continue  # of another version; an older one may be readable
        if any(child.intervals for child in report.children):
            picture = settings.state_dir / "demo" / f"{service}-timeline.svg"
            picture.parent.mkdir(parents=True, exist_ok=True)
            fresh = picture.with_suffix(".new")
            fresh.write_text(render_timeline(report.children, title=f"{service}: {report.message}"))
            fresh.replace(picture)
            return picture
    return None


def render_page(demo: Demo) -> str:
    """Render the page as plain text, at most 80 columns wide."""
    took = "they were there already" if demo.seconds is None else f"{demo.seconds:.1f} s after the command"
    parts = [
        f"{demo.service}: {len(demo.answers)} children answer players, {took}",
        _render_children(demo),
        "Seconds from phase to phase. Each child goes on where the frozen parent stood:\nnone of them was booted.",
        _render_pairs(_links(demo)),
        _render_pairs(_next_steps(demo)),
    ]
    return "\n\n".join(parts) + "\n"


def _render_children(demo: Demo) -> str:
    used = [phase.value for phase in STAGES if any(phase.value in child["seconds"] for child in demo.children)]
    head = ["child", "address", *(_COLUMNS.get(phase, phase) for phase in used), "answers"]
    rows = [head]
    for child in demo.children:
        seconds = [f"{child['seconds'][phase]:.2f}" if phase in child["seconds"] else "" for phase in used]
        rows.append([child["name"], child["address"] or "", *seconds, str(demo.answers.get(child["name"], 0))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(_render_row(row, widths) for row in rows)


def _render_row(row: Sequence[str], widths: Sequence[int]) -> str:
    words, numbers = row[:2], row[2:]
    cells = [word.ljust(width) for word, width in zip(words, widths, strict=False)]
    cells += [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
    return ("  " + "  ".join(cells)).rstrip()


def _links(demo: Demo) -> list[tuple[str, str, str]]:
    links = [
        ("Open", str(demo.lab["load_balancer"]), "the game; reload: another child"),
        ("", demo.run_url or str(demo.lab["prefect"]), "Prefect: the run, its tasks, tables and picture"),
        ("", str(demo.lab["slack"]["page"]), "a small Slack: type /fleet scale game to 6"),
        ("", f"{demo.lab['consul']}/ui", "Consul"),
    ]
    return links + ([("", str(demo.picture), "the timeline picture")] if demo.picture else [])


def _next_steps(demo: Demo) -> list[tuple[str, str, str]]:
    return [
        ("Go on", f".venv/bin/forkyard scale {demo.service} --to {2 * demo.wanted}", "twice as many"),
        ("", ".venv/bin/forkyard watch", "the children, live"),
        ("Stop", "make down", "nothing keeps running"),
    ]


def _render_pairs(lines: Sequence[tuple[str, str, str]]) -> str:
    shown = [f"  {word:<7}{thing}" for word, thing, _ in lines]
    width = max(len(text) for text in shown if len(text) <= _WIDEST)
    return "\n".join(
        f"{text.ljust(width)}  {about}" if len(text) <= width else f"{text}\n{'':9}{about}"
        for text, (_, _, about) in zip(shown, lines, strict=True)
    )
