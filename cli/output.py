"""
Where words go: answers to stdout, progress and errors to stderr, and JSON always as one line.

Scripts read stdout; whatever else is said must never get into their way.
"""

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

NARROWEST = 80
"""Columns that every table must fit in."""


def wants_json() -> bool:
    """Whether this command was asked for JSON; known even when its arguments could not be parsed."""
    return "--json" in sys.argv[1:]


def emit(value: object) -> None:
    """Write one JSON value as one line to stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Write one line of progress to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def make_console(*, stderr: bool = False) -> "Console":
    """Make a rich console; without a terminal it writes plain lines that are at least 80 columns wide."""
    from rich.console import Console  # noqa: PLC0415 - costs as much as all else that a quick command imports

    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=max(NARROWEST, console.width), no_color=True)
    return console
