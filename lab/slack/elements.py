"""What Slack accepts inside a block: texts, buttons, menus, inputs."""

from collections.abc import Iterator

from lab.slack.state import Json

_BUTTON, _IMAGE = "button", "image"
_INPUTS = frozenset(
    {
        *("checkboxes", "datepicker", "datetimepicker", "number_input", "plain_text_input", "radio_buttons"),
        *("static_select", "timepicker", "users_select"),
    }
)
_MENUS = frozenset({"checkboxes", "datepicker", "datetimepicker", "overflow", "radio_buttons", "static_select"})

ALLOWED = {
    "actions": _MENUS | {_BUTTON, "timepicker", "users_select"},
    "context": frozenset({_IMAGE}),
    "input": _INPUTS,
    "section": _MENUS | {_BUTTON, _IMAGE, "timepicker", "users_select"},
}

_KEYS = {
    "button": {"text", "value", "url", "style", "confirm", "accessibility_label"},
    "checkboxes": {"options", "initial_options", "confirm"},
    "datepicker": {"initial_date", "placeholder", "confirm"},
    "datetimepicker": {"initial_date_time", "confirm"},
    "image": {"image_url", "slack_file", "alt_text"},
    "number_input": {"is_decimal_allowed", "initial_value", "min_value", "max_value", "placeholder"},
    "overflow": {"options", "confirm"},
    "plain_text_input": {"initial_value", "multiline", "min_length", "max_length", "placeholder"},
    "radio_buttons": {"options", "initial_option", "confirm"},
    "static_select": {"options", "initial_option", "placeholder", "confirm"},
    "timepicker": {"initial_time", "placeholder", "timezone", "confirm"},
    "users_select": {"initial_user", "placeholder", "confirm"},
}
_COMMON = {"type", "action_id", "focus_on_load"}

_OPTIONS = {"checkboxes": 10, "overflow": 5, "radio_buttons": 10, "static_select": 100}
_LENGTHS = {"action_id": 255, "value": 2000, "url": 3000}
_CONFIRM = {"title": 100, "text": 300, "confirm": 30, "deny": 30}


def check_text(text: object, at: str, most: int, *, plain: bool = False) -> Iterator[str]:
    """Complain about a text object that Slack would not take."""
    kinds = ("plain_text",) if plain else ("plain_text", "mrkdwn")
    if not isinstance(text, dict) or text.get("type") not in kinds or not isinstance(text.get("text"), str):
        yield f"must be a {' or '.join(kinds)} object [json-pointer:{at}]"
        return
    for key in text.keys() - {"type", "text", "emoji", "verbatim"}:
        yield f"invalid additional property: {key} [json-pointer:{at}]"
    if not text["text"]:
        yield f"must be more than 0 characters [json-pointer:{at}/text]"
    if len(text["text"]) > most:
        yield f"must be less than {most + 1} characters [json-pointer:{at}/text]"


def check_element(element: object, at: str, where: str) -> Iterator[str]:
    """Complain about an element that Slack would not take in a block of the kind *where*."""
    if not isinstance(element, dict) or element.get("type") not in ALLOWED[where]:
        yield f"unsupported element [json-pointer:{at}/type]"
        return
    kind = str(element["type"])
    for key in element.keys() - _KEYS[kind] - _COMMON:
        yield f"invalid additional property: {key} [json-pointer:{at}]"
    yield from _own(element, kind, at)
    if "placeholder" in element:
        yield from check_text(element["placeholder"], f"{at}/placeholder", 150, plain=True)
    if kind in _OPTIONS:
        yield from _options(element, at, _OPTIONS[kind])
    if "confirm" in element:
        yield from _confirm(element["confirm"], f"{at}/confirm")


def _own(element: Json, kind: str, at: str) -> Iterator[str]:
    for key, most in _LENGTHS.items():
        if key in element and (not isinstance(element[key], str) or len(element[key]) > most):
            yield f"must be a text of less than {most + 1} characters [json-pointer:{at}/{key}]"
    if kind == _BUTTON:
        yield from check_text(element.get("text"), f"{at}/text", 75, plain=True)
        if element.get("style", "primary") not in {"primary", "danger"}:
            yield f"must be primary or danger [json-pointer:{at}/style]"
    if kind == _IMAGE and not element.get("alt_text"):
        yield f"missing required field: alt_text [json-pointer:{at}]"
    if kind == "number_input" and not isinstance(element.get("is_decimal_allowed"), bool):
        yield f"missing required field: is_decimal_allowed [json-pointer:{at}]"


def _options(element: Json, at: str, most: int) -> Iterator[str]:
    options = element.get("options")
    if not isinstance(options, list) or not 1 <= len(options) <= most:
        yield f"must have 1 to {most} items [json-pointer:{at}/options]"
        return
    for number, option in enumerate(options):
        place = f"{at}/options/{number}"
        if not isinstance(option, dict):
            yield f"must be an option [json-pointer:{place}]"
            continue
        yield from check_text(option.get("text"), f"{place}/text", 75)
        if not isinstance(option.get("value"), str) or not 1 <= len(option["value"]) <= 150:  # noqa: PLR2004 - Slack's number
            yield f"must be a text of 1 to 150 characters [json-pointer:{place}/value]"
    initial = element.get("initial_option")
    if initial is not None and initial not in options:
        yield f"must be one of the options [json-pointer:{at}/initial_option]"


def _confirm(confirm: object, at: str) -> Iterator[str]:
    if not isinstance(confirm, dict):
        yield f"must be a confirmation [json-pointer:{at}]"
        return
    for key, most in _CONFIRM.items():
        yield from check_text(confirm.get(key), f"{at}/{key}", most, plain=key != "text")
