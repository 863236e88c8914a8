"""
Blocks as plain JSON, cut to what Slack accepts; pure.

Whatever a person typed goes through `clean` before it stands in a message: it cannot mention anybody, make a link, or
turn the direction of the text that follows.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

Block = dict[str, Any]

SECTION, HEADER, BUTTON, FIELD, CELL, LINE = 3000, 150, 75, 2000, 300, 20
"""Characters: Slack's limits, but for a cell's, which is what a reader takes in."""

MOST_BLOCKS, MOST_FIELDS, MOST_ROWS, MOST_BUTTONS, MOST_LINES = 50, 10, 100, 25, 12

# Controls, and the marks that turn or isolate the direction of text.
_UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_NAMED = re.compile(r"&lt;(@[UW][A-Z0-9]+|#[CG][A-Z0-9]+|!subteam\^S[A-Z0-9]+)&gt;")
_DID = re.compile(r"\b(by|than) ([UW][A-Z0-9]{6,})\b")
_BY_SLACK = re.compile(r"[UW][A-Z0-9]{6,}")


def clean(text: str) -> str:
    """Make a person's text harmless in mrkdwn."""
    return _UNSEEN.sub("", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def clean_refusal(error: object) -> str:
    """An error's words, harmless but for the people and places that it names; only the person refused sees them."""
    return _NAMED.sub(r"<\1>", clean_naming(str(error)))


def clean_naming(text: str) -> str:
    """Our own words about who did something, harmless, with that person as Slack shows people: `by U012AB3CD`."""
    # Only the first: what a person wrote (a reason) stands after it, and mentions nobody.
    return _DID.sub(r"\1 <@\2>", clean(text), count=1)


def shorten(text: str, most: int) -> str:
    """Cut to *most* characters, visibly; never empty, which Slack refuses."""
    text = text or " "
    return text if len(text) <= most else f"{text[: most - 1]}…"


def is_slack_id(who: str) -> bool:
    """Whether that is a person in Slack, and neither one at the command line nor the calendar."""
    return _BY_SLACK.fullmatch(who) is not None


def mention(who: str) -> str:
    """Name whoever asked or decided: a person in Slack, at the command line, or the calendar."""
    if is_slack_id(who):
        return f"<@{who}>"
    name = who.removeprefix("local:")
    return f"{clean(name)} (command line)" if name != who else clean(who) or "somebody"


def moment(at: datetime, form: str = "{date_short} {time}") -> str:
    """A moment in the reader's own zone, with UTC for those who see no more."""
    return f"<!date^{int(at.timestamp())}^{form}|{at:%Y-%m-%d %H:%M} UTC>"


def number_of(number: int, one: str, more: str = "") -> str:
    """A number of things: `1 server`, `4 servers`."""
    return f"{number} {one if number == 1 else more or f'{one}s'}"


def serving(number: int | None) -> str:
    """How many do their work: `1 serves`, `4 serve`; None: nobody could look."""
    if number is None:
        return "nobody knows how many serve"
    return f"{number} serves" if number == 1 else f"{number} serve"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - two digits are enough
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if rest else f"{minutes} min"


def plain(text: str, most: int = SECTION) -> Block:
    """A text without any markup."""
    return {"type": "plain_text", "text": shorten(_UNSEEN.sub("", text), most), "emoji": False}


def mrkdwn(text: str, most: int = SECTION) -> Block:
    """A text with Slack's markup."""
    return {"type": "mrkdwn", "text": shorten(text, most)}


def header(text: str) -> Block:
    """A large line."""
    return {"type": "header", "text": plain(text, HEADER)}


def section(text: str, *, fields: Sequence[str] = (), block_id: str = "") -> Block:
    """A paragraph, and short facts in two columns."""
    block: Block = {"type": "section", "text": mrkdwn(text)}
    if fields:
        block["fields"] = [mrkdwn(field, FIELD) for field in fields[:MOST_FIELDS]]
    return block | ({"block_id": block_id} if block_id else {})


def context(*texts: str) -> Block:
    """Small print."""
    return {"type": "context", "elements": [mrkdwn(text) for text in texts[:MOST_FIELDS]]}


def divider() -> Block:
    """A line."""
    return {"type": "divider"}


def button(text: str, action: str, value: str = "", *, style: str = "", url: str = "", confirm: str = "") -> Block:
    """A button; *confirm* is asked before the click counts."""
    made: Block = {"type": "button", "text": plain(text, BUTTON), "action_id": action}
    made |= {key: given for key, given in (("value", value), ("style", style), ("url", url)) if given}
    if confirm:
        made["confirm"] = {
            "title": plain("Are you sure?"),
            "text": mrkdwn(confirm, 300),
            "confirm": plain("Yes"),
            "deny": plain("No"),
        }
    return made


def actions(*buttons: Block) -> Block:
    """A row of buttons."""
    return {"type": "actions", "elements": list(buttons[:MOST_BUTTONS])}


def rich(text: str) -> Block:
    """A text where Slack wants it rich, without any markup."""
    piece = {"type": "text", "text": shorten(_UNSEEN.sub("", text), SECTION)}
    return {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [piece]}]}


def task(task_id: str, title: str, status: str, *, output: str = "", url: str = "", link: str = "open") -> Block:
    """One line of a plan: `pending`, `in_progress`, `complete` or `error`."""
    made: Block = {"task_id": task_id, "title": shorten(title, HEADER), "status": status}
    if output:
        made["output"] = rich(output)
    return made | ({"sources": [{"type": "url", "url": url, "text": link}]} if url else {})


def plan(title: str, tasks: Iterable[Block]) -> Block:
    """What is done and what is still to do."""
    return {"type": "plan", "title": shorten(title, HEADER), "tasks": list(tasks)[:50]}


def table(rows: Sequence[Sequence[object]]) -> Block:
    """A table; the first row is its head."""
    shown = [[{"type": "raw_text", "text": _cell(cell)} for cell in row] for row in rows[:MOST_ROWS]]
    return {"type": "table", "rows": shown}


def line_chart(title: str, categories: Sequence[str], series: Sequence[tuple[str, Sequence[float]]]) -> Block:
    """A chart with a line for each series; every one has a value for each category."""
    shown = series[:MOST_LINES]
    lines = [
        {"name": name, "data": [{"label": c, "value": v} for c, v in zip(categories, values, strict=True)]}
        for name, (_, values) in zip(_tell_apart([name for name, _ in shown], LINE), shown, strict=True)
    ]
    chart = {"type": "line", "series": lines, "axis_config": {"categories": list(categories)}}
    return {"type": "data_visualization", "title": shorten(title, 50), "chart": chart}


def _tell_apart(names: Sequence[str], most: int) -> list[str]:
    """The names cut to *most* characters; those that are then the same get numbers, for Slack wants each once."""
    short = [shorten(name, most) for name in names]
    return [
        name if short.count(name) == 1 else f"{shorten(name, most - 3)} {number}"
        for number, name in enumerate(short, start=1)
    ]


def _cell(value: object) -> str:
    return shorten(_UNSEEN.sub("", str(value)) or "-", CELL)
