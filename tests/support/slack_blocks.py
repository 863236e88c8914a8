"""Our JSON as slackblocks' objects: what can be built there, and reads the same, is what Slack's reference allows."""

from collections.abc import Callable
from typing import Any

import slackblocks as s
from slackblocks.rich_text.elements import RichText
from slackblocks.rich_text.objects import RichTextSection

Json = dict[str, Any]


def judge(blocks: list[Json]) -> None:
    """Raise slackblocks' InvalidUsageError, or AssertionError, for what Slack would not take in a message."""
    built = [_BUILD[block["type"]](block) for block in blocks]
    shown = s.Message(channel="C012AB3CD", text="x", blocks=built).to_dict()["blocks"]
    assert _bare(shown) == _bare(blocks)


def judge_view(view: Json) -> None:
    """Raise the same for what Slack would not take as a modal or a home tab."""
    built = [_BUILD[block["type"]](block) for block in view["blocks"]]
    if view["type"] == "home":
        shown = s.HomeTabView(built).to_dict()
        assert _bare(shown["blocks"]) == _bare(view["blocks"])
        return
    shown = s.ModalView(
        _text(view["title"]),
        built,
        close=_text(view["close"]),
        submit=_text(view["submit"]),
        private_metadata=view["private_metadata"],
        callback_id=view["callback_id"],
    ).to_dict()
    assert {key: _bare(shown[key]) for key in view} == _bare(view)


def _bare(thing: Any) -> Any:  # noqa: ANN401 - JSON
    """Without what slackblocks adds (ids) or leaves out (a false `emoji` or `optional`)."""
    if isinstance(thing, dict):
        kept = {key: value for key, value in thing.items() if key not in {"block_id", "emoji"}}
        return {key: _bare(value) for key, value in kept.items() if (key, value) != ("optional", False)}
    return [_bare(one) for one in thing] if isinstance(thing, list) else thing


def _text(text: Json) -> s.Text:
    kind = s.TextType.PLAINTEXT if text["type"] == "plain_text" else s.TextType.MARKDOWN
    return s.Text(text["text"], type_=kind, emoji=bool(text.get("emoji")))


def _header(block: Json) -> s.Block:
    return s.HeaderBlock(_text(block["text"]))


def _section(block: Json) -> s.Block:
    fields: list[str | s.Text] = [_text(field) for field in block.get("fields", [])]
    return s.SectionBlock(text=_text(block["text"]), fields=fields or None, block_id=block.get("block_id"))


def _context(block: Json) -> s.Block:
    return s.ContextBlock([_text(element) for element in block["elements"]])


def _actions(block: Json) -> s.Block:
    return s.ActionsBlock([_button(element) for element in block["elements"]])


def _button(button: Json) -> s.Button:
    confirm = button.get("confirm")
    asked = None
    if confirm:
        title, text, yes, no = (_text(confirm[key]) for key in ("title", "text", "confirm", "deny"))
        asked = s.ConfirmationDialogue(title=title, text=text, confirm=yes, deny=no)
    rest = {key: button.get(key) for key in ("action_id", "url", "value", "style")}
    return s.Button(text=_text(button["text"]), confirm=asked, **rest)


def _input(block: Json) -> s.Block:
    hint = _text(block["hint"]) if "hint" in block else None
    element = _FIELDS[block["element"]["type"]](block["element"])
    return s.InputBlock(_text(block["label"]), element, hint=hint, optional=block["optional"])


def _menu(element: Json) -> s.Element:
    options = [s.Option(_text(option["text"]), option["value"]) for option in element["options"]]
    initial = next((o for o in options if o.value == element.get("initial_option", {}).get("value")), None)
    return s.StaticSelectMenu(element["action_id"], options, initial_option=initial)


def _field(kind: Callable[..., s.Element]) -> Callable[[Json], s.Element]:
    return lambda element: kind(**{key: value for key, value in element.items() if key != "type"})


_FIELDS: dict[str, Callable[[Json], s.Element]] = {
    "number_input": _field(s.NumberInput),
    "plain_text_input": _field(s.PlainTextInput),
    "static_select": _menu,
}


def _rich(block: Json) -> s.RichTextBlock:
    return s.RichTextBlock(
        [RichTextSection([RichText(e["text"]) for e in part["elements"]]) for part in block["elements"]]
    )


def _plan(block: Json) -> s.Block:
    tasks = [
        s.TaskCardBlock(
            task["task_id"],
            task["title"],
            output=_rich(task["output"]) if "output" in task else None,
            sources=[s.URLSource(url=one["url"], text=one["text"]) for one in task.get("sources", [])] or None,
            status=task["status"],
        )
        for task in block["tasks"]
    ]
    return s.PlanBlock(block["title"], tasks)


def _table(block: Json) -> s.Block:
    return s.TableBlock([[s.RawText(cell["text"]) for cell in row] for row in block["rows"]])


def _chart(block: Json) -> s.Block:
    chart = block["chart"]
    series = [s.DataSeries(one["name"], [s.DataPoint(**point) for point in one["data"]]) for one in chart["series"]]
    return s.DataVisualizationBlock(
        block["title"], s.LineChart(series, s.AxisConfig(chart["axis_config"]["categories"]))
    )


_BUILD: dict[str, Callable[[Json], s.Block]] = {
    "actions": _actions,
    "context": _context,
    "data_visualization": _chart,
    "divider": lambda _: s.DividerBlock(),
    "header": _header,
    "input": _input,
    "plan": _plan,
    "section": _section,
    "table": _table,
}
