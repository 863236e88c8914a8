"""
What host and guest say to each other through vSphere: values under guestinfo.forkyard, no network and no password.

The messages are those of `forkyard.wire`, each with an `id`, because a value has no end and may be read twice: a guest
carries out each id once, and an answer repeats its request's.

    guestinfo.forkyard.stamp        host    whose VM this is; there from the VM's first moment
    guestinfo.forkyard.request      host    {"id": ..., "verb": ..., ...}
    guestinfo.forkyard.answer       guest   {"id": ..., "ok": ..., ...}
    guestinfo.forkyard.identified   host    written with the change that connects the network: fork id and MAC
    guestinfo.forkyard.report       host    the guest's proofs, for who asks again

A guest can write all of them, also that of a VM which is none of forkyard's. So what the host says of a VM is signed
with a key that no guest has, and bound to the VM's BIOS UUID, which no guest can write: stamp and `identified` without
a good signature say nothing. From a child's identity on its annotation, which no guest can write either, says the same
for people, and for the driver where the stamp cannot be read or is of a forkyard that did not sign.
"""

import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any

from forkyard import wire
from forkyard.model import Stamp
from forkyard.names import SERVICE_NAME
from forkyard.wire import Identity, IdentityReport

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
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_NOTE_LENGTH, _TEXT_LENGTH = 8192, 256
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


def render_mark(mark: Mark, key: bytes) -> str:
    """The mark as the text of STAMP, signed with *key*."""
    fields = _fields_of(mark)
    return _dump({**fields, "signature": _sign(key, "stamp", fields, make_bios_uuid(mark.stamp.fork_id))})


def parse_mark(text: str, bios_uuid: str, key: bytes | None) -> Mark | None:
    """The mark in a VM's STAMP, or None when there is none that the holder of *key* wrote for this very VM."""
    try:
        found = dict(wire.decode(text.encode()))
        signature = found.pop("signature", None)
        mark = _mark_of(found)
    except (wire.WireError, ValueError, TypeError, KeyError, OverflowError):
        return None
    own = make_bios_uuid(mark.stamp.fork_id)
    if key is None or not isinstance(signature, str) or bios_uuid.lower() != own:
        return None
    good = hmac.compare_digest(signature.encode(), _sign(key, "stamp", _fields_of(mark), own).encode())
    return mark if good else None


def render_note(stamp: Stamp, address: str) -> str:
    """The VM's annotation: the stamp for people, and what is left of it when a guest has spoilt its own."""
    until = f", until {stamp.expires.isoformat()}" if stamp.expires is not None else ""
    return f"forkyard: fork {stamp.fork_id} of {stamp.service} at {address}, made by request {stamp.request_id}{until}"


def parse_note(text: str, bios_uuid: str, created: datetime | None) -> Mark | None:
    """What the annotation says of a VM that was *created* then; None when it is none of ours or not this VM's own."""
    found = _NOTE.search(text[:_NOTE_LENGTH])
    if found is None or bios_uuid.lower() != make_bios_uuid(found["fork"]):
        return None
    made = created if created is not None and created.tzinfo is not None else datetime.fromtimestamp(0, UTC)
    said = {
        "service": found["service"],
        "fork_id": found["fork"],
        "request_id": found["request"],
        "expires": found["until"],
        "parent": "",
        "address": found["address"],
        "created": made.isoformat(),
    }
    try:
        return _mark_of(said)
    except (ValueError, TypeError, OverflowError):
        return None


def _fields_of(mark: Mark) -> dict[str, str | None]:
    stamp = mark.stamp
    return {
        "service": stamp.service,
        "fork_id": stamp.fork_id,
        "request_id": stamp.request_id,
        "expires": stamp.expires.isoformat() if stamp.expires is not None else None,
        "parent": mark.parent,
        "address": mark.address,
        "created": mark.created.isoformat(),
    }


def _mark_of(found: Mapping[str, object]) -> Mark:
    """The mark in what a VM carries; raises ValueError, TypeError or KeyError where it is not exactly one."""
    expires, service = found["expires"], _text(found["service"])
    if not SERVICE_NAME.fullmatch(service):
        text = "no name of a service"
        raise ValueError(text)
    stamp = Stamp(
        service=service,
        fork_id=_text(found["fork_id"]),
        request_id=_text(found["request_id"]),
        expires=_moment(expires) if expires is not None else None,
    )
    address = str(IPv4Address(_text(found["address"])))
    return Mark(stamp, _text(found["parent"]), address, _moment(found["created"]))


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_LENGTH or not value.isprintable():
        text = "no text"
        raise ValueError(text)
    return value


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        text = "a moment without a zone"
        raise ValueError(text)
    return moment


def _sign(key: bytes, what: str, fields: Mapping[str, str | None], bios_uuid: str) -> str:
    # As JSON: no field can run over into the next.
    text = json.dumps([f"forkyard guestinfo {what} 1", bios_uuid, sorted(fields.items())])
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """What the host writes on a VM about its identity: the note for people, and the signed proof."""

    note: str
    key: bytes = field(repr=False)

    def render_proof(self, identity: Identity, report: IdentityReport) -> dict[str, str]:
        """Return the values that call the VM identified."""
        return {
            IDENTIFIED: render_identified(identity.fork_id, identity.mac, self.key),
            REPORT: _dump(wire.report_to_wire(report)),
        }


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


def render_identified(fork_id: str, mac: str, key: bytes) -> str:
    """The text of IDENTIFIED, signed with *key*."""
    fields = {"fork_id": fork_id, "mac": mac}
    return _dump({**fields, "signature": _sign(key, "identified", fields, make_bios_uuid(fork_id))})


def parse_identified(text: str, fork_id: str, key: bytes | None, *, kept: bool = False) -> str | None:
    """
    The MAC of a child that was identified as this fork, or None.

    *kept* says that the VM's annotation calls this fork a member of the fleet: then a text counts that an older
    forkyard wrote without a signature.
    """
    try:
        found = dict(wire.decode(text.encode()))
    except wire.WireError:
        return None
    signature, mac = found.pop("signature", None), found.get("mac")
    if found.get("fork_id") != fork_id or not isinstance(mac, str) or not _MAC.fullmatch(mac):
        return None
    if signature is None:
        return mac if kept else None
    wanted = _sign(key, "identified", {"fork_id": fork_id, "mac": mac}, make_bios_uuid(fork_id)) if key else ""
    return mac if wanted and isinstance(signature, str) and hmac.compare_digest(signature, wanted) else None


def _dump(message: Mapping[str, object]) -> str:
    return wire.encode(dict(message)).decode().rstrip("\n")
