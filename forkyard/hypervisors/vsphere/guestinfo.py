"""
What host and guest say to each other through vSphere: values under guestinfo.forkyard, no network and no password.

The messages are those of `forkyard.wire`, each with an `id`, because a value has no end and may be read twice: a guest
carries out each id once, and an answer repeats its request's.

    guestinfo.forkyard.stamp        host    whose VM this is; there from the VM's first moment
    guestinfo.forkyard.request      host    {"id": ..., "verb": ..., ...}
    guestinfo.forkyard.answer       guest   {"id": ..., "ok": ..., ...}
    guestinfo.forkyard.identified   host    written with the change that connects the network: fork id and MAC
    guestinfo.forkyard.report       host    the guest's proofs, for who asks again

A guest can write all of them. So the stamp counts only together with the VM's BIOS UUID, which it cannot write and
which follows from the fork id; and a guest that calls itself identified has still no network. From a child's identity
on its annotation, which no guest can write, says the same for people, and for us where the stamp cannot be read.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from forkyard import wire
from forkyard.model import Stamp

PREFIX = "guestinfo.forkyard."
STAMP = f"{PREFIX}stamp"
REQUEST = f"{PREFIX}request"
ANSWER = f"{PREFIX}answer"
IDENTIFIED = f"{PREFIX}identified"
REPORT = f"{PREFIX}report"


def option_path(key: str) -> str:
    """The property path of one value of `extraConfig`."""
    return f'config.extraConfig["{key}"]'


def read_option(values: Mapping[str, Any], path: str) -> str:
    """The text of one value of `extraConfig` among properties by their paths; empty when there is none."""
    option = values.get(path)
    return str(getattr(option, "value", option) or "")


# Among what people may have written around it.
_NOTE = re.compile(
    r"^forkyard: fork (?P<fork>\S+) of (?P<service>\S+) at (?P<address>\S+), made by request (?P<request>[^\s,]+)"
    r"(?:, until (?P<until>\S+))?$",
    re.MULTILINE,
)
_FORKS = uuid.UUID("b3c1b7a2-6f0c-4d55-8f39-2f5b1c0e7d11")


@dataclass(frozen=True, slots=True)
class Mark:
    """All that the host writes on a child: the stamp, and what was chosen for it."""

    stamp: Stamp
    parent: str
    """The parent's id in vCenter."""
    address: str
    created: datetime


def make_bios_uuid(fork_id: str) -> str:
    """The BIOS UUID of a fork's VM: the fork id itself where that is one."""
    try:
        return str(uuid.UUID(fork_id))
    except ValueError:
        return str(uuid.uuid5(_FORKS, fork_id))


def render_mark(mark: Mark) -> str:
    """The mark as the text of STAMP."""
    stamp = mark.stamp
    return _dump(
        {
            "service": stamp.service,
            "fork_id": stamp.fork_id,
            "request_id": stamp.request_id,
            "expires": stamp.expires.isoformat() if stamp.expires is not None else None,
            "parent": mark.parent,
            "address": mark.address,
            "created": mark.created.isoformat(),
        }
    )


def parse_mark(text: str, bios_uuid: str) -> Mark | None:
    """The mark in a VM's STAMP, or None when there is none of ours, or one that is not this VM's own."""
    try:
        found = cast("dict[str, Any]", json.loads(text))
        expires = found["expires"]
        stamp = Stamp(
            service=str(found["service"]),
            fork_id=str(found["fork_id"]),
            request_id=str(found["request_id"]),
            expires=datetime.fromisoformat(expires) if expires is not None else None,
        )
        mark = Mark(stamp, str(found["parent"]), str(found["address"]), datetime.fromisoformat(found["created"]))
    except (ValueError, TypeError, KeyError):
        return None
    return mark if bios_uuid.lower() == make_bios_uuid(stamp.fork_id) else None


def render_note(stamp: Stamp, address: str) -> str:
    """The VM's annotation: the stamp for people, and what is left of it when a guest has spoilt its own."""
    until = f", until {stamp.expires.isoformat()}" if stamp.expires is not None else ""
    return f"forkyard: fork {stamp.fork_id} of {stamp.service} at {address}, made by request {stamp.request_id}{until}"


def parse_note(text: str, bios_uuid: str, created: datetime | None) -> Mark | None:
    """What the annotation says of a VM that was *created* then; None when it is none of ours or not this VM's own."""
    found = _NOTE.search(text)
    if found is None or bios_uuid.lower() != make_bios_uuid(found["fork"]):
        return None
    try:
        expires = datetime.fromisoformat(found["until"]) if found["until"] else None
    except ValueError:
        return None
    stamp = Stamp(service=found["service"], fork_id=found["fork"], request_id=found["request"], expires=expires)
    return Mark(stamp, parent="", address=found["address"], created=created or datetime.fromtimestamp(0, UTC))


def render_request(request_id: str, verb: str, **fields: object) -> str:
    """A request as the text of REQUEST."""
    return _dump({"id": request_id, "verb": verb, **fields})


def parse_answer(text: str, request_id: str) -> Mapping[str, object] | None:
    """The answer to this very request; None while there is none, or none that can be read."""
    try:
        answer = wire.decode(text.encode())
    except wire.WireError:
        return None
    return answer if answer.get("id") == request_id else None


def read_id(request: str) -> str:
    """The id in the text of REQUEST; empty when there is none."""
    try:
        return str(wire.decode(request.encode()).get("id", ""))
    except wire.WireError:
        return ""


def render_identified(fork_id: str, mac: str) -> str:
    """The text of IDENTIFIED."""
    return _dump({"fork_id": fork_id, "mac": mac})


def parse_identified(text: str, fork_id: str) -> str | None:
    """The MAC of a child that was identified as this fork, or None."""
    try:
        found = wire.decode(text.encode())
    except wire.WireError:
        return None
    return str(found.get("mac", "")) if found.get("fork_id") == fork_id else None


def _dump(message: Mapping[str, object]) -> str:
    return wire.encode(dict(message)).decode().rstrip("\n")
