"""The modals: asking for a number without grammar, changing a plan, saying why not. Pure, but for nothing."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from bot.blocks import Block, plain
from bot.tickets import Ticket
from forkyard.moments import When, write_duration
from forkyard.requests import Request
from forkyard.words import quote

MOST_SERVICES = 100


FIELDS = ("service", "number", "reason", "at", "hold")
"""What a button holds of a command for the form, in this order."""


def write_draft(draft: Mapping[str, str]) -> str:
    """A button's value: the fields of the form that it opens."""
    return "\x1f".join(draft.get(field, "") for field in FIELDS)[:2000]


def read_draft(value: str) -> dict[str, str]:
    """The fields that a button holds."""
    return {field: text for field, text in zip(FIELDS, value.split("\x1f"), strict=False) if text}


def draft_request(request: Request) -> dict[str, str]:
    """The fields that say what a request says."""
    found = {"service": request.service, "number": str(request.target), "reason": request.reason}
    if request.start_at is not None:
        found["at"] = str(When(request.start_at, request.zone))
    if request.hold_seconds is not None:
        found["hold"] = write_duration(timedelta(seconds=request.hold_seconds))
    return found


def make_scale_form(services: Sequence[str], draft: Mapping[str, str], *, channel: str, edits: str = "") -> Block:
    """The form behind `scale`, filled in with *draft*; *edits*: the ticket of the request that it replaces."""
    options = [{"text": plain(name, 75), "value": name} for name in services[:MOST_SERVICES]]
    chosen = next((option for option in options if option["value"] == draft.get("service")), None)
    menu: Block = {"type": "static_select", "action_id": "service", "options": options}
    digits = draft.get("number", "").removeprefix("to ").strip()
    target: Block = {"type": "number_input", "action_id": "target", "is_decimal_allowed": False, "min_value": "0"}
    blocks = [
        _input("service", "Service", menu | ({"initial_option": chosen} if chosen else {})),
        _input("target", "How many servers", target | ({"initial_value": digits} if digits.isdigit() else {})),
        _input(
            "at",
            "When",
            _text("at", draft.get("at", "")),
            hint="2026-11-27T05:00, tomorrow 05:00, in 45m; empty: as soon as approved",
        ),
        _input(
            "for",
            "For how long",
            _text("for", draft.get("hold", "")),
            hint="90m or 6h, then it goes back; empty: it stays",
        ),
        _input("because", "Why", _text("because", draft.get("reason", ""))),
    ]
    title = "Change the plan" if edits else "Scale a service"
    return _modal("scale", title, "Plan it", blocks, f"{channel}\x1f{edits}")


def read_scale_form(view: Mapping[str, Any]) -> tuple[str, str, str]:
    """The command that the form says, the channel, and the ticket of what it replaces."""
    values = {block: next(iter(state.values())) for block, state in view["state"]["values"].items()}
    service = (values["service"].get("selected_option") or {}).get("value", "")
    words = [f"scale {service} to {values['target'].get('value') or ''}"]
    words += [f"{clause} {values[clause]['value']}" for clause in ("at", "for") if values[clause].get("value")]
    reason = str(values["because"].get("value") or "").replace("\n", " ").strip()
    if reason:
        words.append(f"because {quote(reason)}")
    channel, _, edits = str(view.get("private_metadata", "")).partition("\x1f")
    return " ".join(words), channel, edits


def make_deny_form(request: Request, ticket: Ticket, channel: str) -> Block:
    """Ask why not."""
    blocks = [_input("because", "Why", _text("because"), optional=False)]
    return _modal("deny", f"Deny {request.token}"[:24], "Deny", blocks, f"{channel}\x1f{ticket}")


def read_deny_form(view: Mapping[str, Any]) -> tuple[str, str, str]:
    """The reason, the channel, and the ticket."""
    reason = str(view["state"]["values"]["because"]["because"].get("value") or "").replace("\n", " ").strip()
    channel, _, ticket = str(view.get("private_metadata", "")).partition("\x1f")
    return reason, channel, ticket


def _input(block: str, label: str, element: Block, *, hint: str = "", optional: bool | None = None) -> Block:
    made: Block = {"type": "input", "block_id": block, "label": plain(label), "element": element}
    made["optional"] = block in {"at", "for", "because"} if optional is None else optional
    return made | ({"hint": plain(hint)} if hint else {})


def _text(name: str, value: str = "") -> Block:
    made: Block = {"type": "plain_text_input", "action_id": name, "max_length": 500}
    return made | ({"initial_value": value[:500]} if value else {})


def _modal(callback: str, title: str, submit: str, blocks: list[Block], metadata: str) -> Block:
    return {
        "type": "modal",
        "callback_id": callback,
        "title": plain(title, 24),
        "submit": plain(submit, 24),
        "close": plain("Close", 24),
        "private_metadata": metadata,
        "blocks": blocks,
    }
