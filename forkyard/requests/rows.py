"""A request and an approval as their tables' rows, and back."""

import json
from dataclasses import fields
from typing import Any

from sqlalchemy.engine import RowMapping

from forkyard.approvals import Approval, Kind
from forkyard.requests import Need, Request, State
from forkyard.requests.plans import record_from_json, record_to_json

_COLUMNS = tuple(field.name for field in fields(Request))


def to_row(request: Request) -> dict[str, Any]:
    """The request's row."""
    row = {name: getattr(request, name) for name in _COLUMNS}
    row["state"] = request.state.value
    row["need"] = request.need.value if request.need is not None else None
    row["plan"] = record_to_json(request.plan) if request.plan is not None else None
    row["result"] = json.dumps(request.result, default=str) if request.result is not None else None
    return row


def to_approval(row: RowMapping) -> Approval:
    """The approval in a row."""
    given: dict[str, Any] = {**row, "kind": Kind(row["kind"])}
    return Approval(**given)


def from_row(row: RowMapping) -> Request:
    """The request in a row."""
    given = {name: row[name] for name in _COLUMNS}
    given["state"] = State(given["state"])
    given["need"] = Need(given["need"]) if given["need"] else None
    given["plan"] = record_from_json(given["plan"]) if given["plan"] else None
    given["result"] = json.loads(given["result"]) if given["result"] else None
    return Request(**given)


__all__ = ["from_row", "to_approval", "to_row"]
