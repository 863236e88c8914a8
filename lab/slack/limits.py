"""
What Slack accepts as blocks: which kinds where, which keys, how many, how long.

Written from Slack's reference. Every complaint names the place as a JSON pointer, as Slack's own do.
"""

from collections.abc import Callable, Iterator
from typing import Any

from lab.slack.elements import check_element, check_text
from lab.slack.errors import refuse
from lab.slack.state import Json

MESSAGE_TEXT = 40_000
MESSAGE_BLOCKS, VIEW_BLOCKS = 50, 100
CHARTS, MARKDOWN = 2, 12_000

_EVERYWHERE = frozenset({"actions", "context", "divider", "header", "image", "input", "rich_text", "section"})
SURFACES = {
    "message": _EVERYWHERE | {"data_visualization", "markdown", "plan", "table", "task_card"},
    "modal": _EVERYWHERE | {"alert"},
    "home": _EVERYWHERE | {"data_visualization", "table"},
}

_KEYS = {
    "actions": {"elements"},
    "alert": {"text", "level"},
    "context": {"elements"},
    "data_visualization": {"title", "chart"},
    "divider": set[str](),
    "header": {"text"},
    "image": {"image_url", "slack_file", "alt_text", "title"},
    "input": {"label", "element", "dispatch_action", "hint", "optional"},
    "markdown": {"text"},
    "plan": {"title", "tasks"},
    "rich_text": {"elements"},
    "section": {"text", "fields", "accessory", "expand"},
    "table": {"rows", "column_settings"},
    "task_card": {"task_id", "title", "details", "output", "sources", "status"},
}

_STATES = ("pending", "in_progress", "complete", "error")
_CHART_KINDS = ("line", "bar", "area")

Complaints = Iterator[str]


def check_blocks(blocks: object, surface: str) -> list[Json]:
    """Return the blocks, or raise the refusal that lists what is wrong with them."""
    if not isinstance(blocks, list):
        refuse("invalid_blocks_format")
    found: list[str] = []
    most = MESSAGE_BLOCKS if surface == "message" else VIEW_BLOCKS
    if len(blocks) > most:
        found.append(f"no more than {most} items allowed [json-pointer:/blocks]")
    for number, block in enumerate(blocks):
        found.extend(_check_block(block, f"/blocks/{number}", surface))
    kinds = [block.get("type") for block in blocks if isinstance(block, dict)]
    if kinds.count("data_visualization") > CHARTS:
        found.append(f"no more than {CHARTS} data_visualization blocks allowed [json-pointer:/blocks]")
    if kinds.count("table") > 1:
        found.append("no more than one table allowed [json-pointer:/blocks]")
    ids = [block["block_id"] for block in blocks if isinstance(block, dict) and block.get("block_id")]
    if len(ids) != len(set(ids)):
        found.append("block_id must be unique [json-pointer:/blocks]")
    if found:
        refuse("invalid_blocks", errors=found, response_metadata={"messages": [f"[ERROR] {e}" for e in found]})
    return blocks


def check_message_text(text: str) -> None:
    """Refuse a text that is longer than a message may be."""
    if len(text) > MESSAGE_TEXT:
        refuse("msg_too_long")


def check_view(view: object, kinds: tuple[str, ...]) -> Json:
    """Return the view, or raise the refusal."""
    if not isinstance(view, dict) or view.get("type") not in kinds:
        refuse("invalid_arguments", response_metadata={"messages": ["[ERROR] invalid view type"]})
    found = [*_lengths(view, {"callback_id": 255, "private_metadata": 3000, "external_id": 255}, "/view")]
    blocks = check_blocks(view.get("blocks"), view["type"])
    if view["type"] == "modal":
        found.extend(check_text(view.get("title"), "/view/title", 24, plain=True))
        for key in ("submit", "close"):
            if key in view:
                found.extend(check_text(view[key], f"/view/{key}", 24, plain=True))
        if any(block["type"] == "input" for block in blocks) and "submit" not in view:
            found.append("missing required field: submit [json-pointer:/view]")
    if found:
        refuse("invalid_arguments", response_metadata={"messages": [f"[ERROR] {e}" for e in found]})
    return view


def _check_block(block: object, at: str, surface: str) -> Complaints:
    if not isinstance(block, dict) or block.get("type") not in SURFACES[surface]:
        kind = block.get("type") if isinstance(block, dict) else block
        yield f"unsupported type: {kind} [json-pointer:{at}/type]"
        return
    kind = str(block["type"])
    for key in block.keys() - _KEYS[kind] - {"type", "block_id"}:
        yield f"invalid additional property: {key} [json-pointer:{at}]"
    yield from _lengths(block, {"block_id": 255}, at)
    if kind == "task_card" and block.get("status") == "pending":
        yield f"only a plan's task may be pending [json-pointer:{at}/status]"
    yield from _CHECKS[kind](block, at)


def _lengths(thing: Json, limits: dict[str, int], at: str) -> Complaints:
    for key, most in limits.items():
        value = thing.get(key)
        if value is not None and (not isinstance(value, str) or len(value) > most):
            yield f"must be a text of less than {most + 1} characters [json-pointer:{at}/{key}]"


def _items(value: object, at: str, least: int, most: int) -> tuple[list[Any], list[str]]:
    if not isinstance(value, list) or not least <= len(value) <= most:
        return [], [f"must have {least} to {most} items [json-pointer:{at}]"]
    return value, []


def _section(block: Json, at: str) -> Complaints:
    if "text" not in block and "fields" not in block:
        yield f"missing required field: text [json-pointer:{at}]"
    if "text" in block:
        yield from check_text(block["text"], f"{at}/text", 3000)
    if "fields" in block:
        fields, wrong = _items(block["fields"], f"{at}/fields", 1, 10)
        yield from wrong
        for number, text in enumerate(fields):
            yield from check_text(text, f"{at}/fields/{number}", 2000)
    if "accessory" in block:
        yield from check_element(block["accessory"], f"{at}/accessory", "section")


def _header(block: Json, at: str) -> Complaints:
    yield from check_text(block.get("text"), f"{at}/text", 150, plain=True)


def _context(block: Json, at: str) -> Complaints:
    elements, wrong = _items(block.get("elements"), f"{at}/elements", 1, 10)
    yield from wrong
    for number, element in enumerate(elements):
        place = f"{at}/elements/{number}"
        if isinstance(element, dict) and element.get("type") == "image":
            yield from check_element(element, place, "context")
        else:
            yield from check_text(element, place, 3000)


def _actions(block: Json, at: str) -> Complaints:
    elements, wrong = _items(block.get("elements"), f"{at}/elements", 1, 25)
    yield from wrong
    for number, element in enumerate(elements):
        yield from check_element(element, f"{at}/elements/{number}", "actions")
    ids = [element.get("action_id") for element in elements if isinstance(element, dict) and element.get("action_id")]
    if len(ids) != len(set(ids)):
        yield f"action_id must be unique [json-pointer:{at}/elements]"


def _image(block: Json, at: str) -> Complaints:
    if ("image_url" in block) == ("slack_file" in block):
        yield f"exactly one of image_url and slack_file is wanted [json-pointer:{at}]"
    if not block.get("alt_text"):
        yield f"missing required field: alt_text [json-pointer:{at}]"
    yield from _lengths(block, {"image_url": 3000, "alt_text": 2000}, at)
    if "title" in block:
        yield from check_text(block["title"], f"{at}/title", 2000, plain=True)


def _input(block: Json, at: str) -> Complaints:
    yield from check_text(block.get("label"), f"{at}/label", 2000, plain=True)
    yield from check_element(block.get("element"), f"{at}/element", "input")
    if "hint" in block:
        yield from check_text(block["hint"], f"{at}/hint", 2000, plain=True)


def _plan(block: Json, at: str) -> Complaints:
    if not isinstance(block.get("title"), str) or not block["title"]:
        yield f"must be a text [json-pointer:{at}/title]"
    tasks, wrong = _items(block.get("tasks"), f"{at}/tasks", 0, 50)
    yield from wrong
    for number, task in enumerate(tasks):
        for key in task.keys() - _KEYS["task_card"]:
            yield f"invalid additional property: {key} [json-pointer:{at}/tasks/{number}]"
        yield from _task(task, f"{at}/tasks/{number}")
    ids = [task.get("task_id") for task in tasks]
    if len(ids) != len(set(ids)):
        yield f"task_id must be unique [json-pointer:{at}/tasks]"


def _task(task: Json, at: str) -> Complaints:
    for key in ("task_id", "title"):
        if not isinstance(task.get(key), str) or not task[key]:
            yield f"must be a text [json-pointer:{at}/{key}]"
    if task.get("status") not in _STATES:
        yield f"must be one of {', '.join(_STATES)} [json-pointer:{at}/status]"
    for key in ("details", "output"):
        if key in task and (not isinstance(task[key], dict) or task[key].get("type") != "rich_text"):
            yield f"must be rich_text [json-pointer:{at}/{key}]"
        elif key in task:
            yield from _rich_text(task[key], f"{at}/{key}")
    for number, source in enumerate(task.get("sources", [])):
        if source.keys() != {"type", "url", "text"} or source["type"] != "url":
            yield f"must be a url with its text [json-pointer:{at}/sources/{number}]"


def _rich_text(block: Json, at: str) -> Complaints:
    elements, wrong = _items(block.get("elements"), f"{at}/elements", 1, 100)
    yield from wrong
    kinds = {"rich_text_section", "rich_text_list", "rich_text_preformatted", "rich_text_quote"}
    for number, element in enumerate(elements):
        if element.get("type") not in kinds or not isinstance(element.get("elements"), list):
            yield f"unsupported element [json-pointer:{at}/elements/{number}]"


def _chart(block: Json, at: str) -> Complaints:
    title, chart = block.get("title"), block.get("chart")
    if not isinstance(title, str) or not 1 <= len(title) <= 50:  # noqa: PLR2004 - Slack's number
        yield f"must be a text of 1 to 50 characters [json-pointer:{at}/title]"
    if not isinstance(chart, dict) or chart.get("type") not in _CHART_KINDS:
        yield f"unsupported chart [json-pointer:{at}/chart]"
        return
    axis = chart.get("axis_config")
    categories, wrong = _items(axis.get("categories") if isinstance(axis, dict) else None, f"{at}/chart/axis", 1, 20)
    yield from wrong
    if len(set(categories)) != len(categories) or any(not 1 <= len(name) <= 20 for name in categories):  # noqa: PLR2004 - Slack's number
        yield f"categories must be different texts of 1 to 20 characters [json-pointer:{at}/chart/axis_config]"
    series, wrong = _items(chart.get("series"), f"{at}/chart/series", 1, 12)
    yield from wrong
    for number, one in enumerate(series):
        labels = [point.get("label") for point in one.get("data", [])]
        if not one.get("name") or len(one["name"]) > 20 or labels != categories:  # noqa: PLR2004 - Slack's number
            yield f"one point for each category, and a name, are wanted [json-pointer:{at}/chart/series/{number}]"


def _table(block: Json, at: str) -> Complaints:
    rows, wrong = _items(block.get("rows"), f"{at}/rows", 1, 100)
    yield from wrong
    for number, row in enumerate(rows):
        cells, wrong = _items(row, f"{at}/rows/{number}", 1, 20)
        yield from wrong
        if any(cell.get("type") not in {"raw_text", "rich_text", "raw_number"} for cell in cells):
            yield f"unsupported cell [json-pointer:{at}/rows/{number}]"
        if any(cell.get("type") == "raw_text" and not cell.get("text") for cell in cells):
            yield f"a cell's text is empty [json-pointer:{at}/rows/{number}]"


def _markdown(block: Json, at: str) -> Complaints:
    if not isinstance(block.get("text"), str) or not 1 <= len(block["text"]) <= MARKDOWN:
        yield f"must be a text of 1 to {MARKDOWN} characters [json-pointer:{at}/text]"


def _alert(block: Json, at: str) -> Complaints:
    yield from check_text(block.get("text"), f"{at}/text", 200)


def _nothing(block: Json, at: str) -> Complaints:
    del block, at
    yield from ()


_CHECKS: dict[str, Callable[[Json, str], Complaints]] = {
    "actions": _actions,
    "alert": _alert,
    "context": _context,
    "data_visualization": _chart,
    "divider": _nothing,
    "header": _header,
    "image": _image,
    "input": _input,
    "markdown": _markdown,
    "plan": _plan,
    "rich_text": _rich_text,
    "section": _section,
    "table": _table,
    "task_card": _task,
}
