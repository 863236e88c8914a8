"""
Approvals as signed records: what a run verifies before it changes anything.

The signature is an HMAC over who said yes, when, to which request and to which plan; a workflow server's Resume button
can make none. Standard library only: the command line signs its own direct use before anything heavy is imported.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from forkyard.errors import NotPermitted
from forkyard.keys import load_key
from forkyard.settings import Settings

WARRANT_AGE = timedelta(minutes=15)
"""A direct run begins seconds after it was signed; a warrant that lies about longer is somebody else's."""

_CLOCK_SLACK = timedelta(minutes=1)


class Kind(StrEnum):
    """What an approval is."""

    REQUESTER = "requester"  # the requester's own confirmation of a small change
    OTHER = "another person"
    BREAK_GLASS = "break-glass"  # nobody else could be waited for; the reason says why
    DIRECT = "direct"  # whoever can read the key, at this machine's command line


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One yes."""

    request_id: str
    plan_hash: str
    approver: str
    at: datetime
    kind: Kind
    reason: str = ""
    signature: str = ""


def find_key_file(settings: Settings) -> Path:
    """Where the key is."""
    return settings.requests.key_file or settings.state_dir / "approvals.key"


def sign(key: bytes, approval: Approval) -> Approval:
    """Sign it."""
    return replace(approval, signature=_mac(key, approval))


def verify(key: bytes, approval: Approval, *, request_id: str, plan_hash: str) -> None:
    """
    Raise NotPermitted unless *approval* is genuine and for exactly this plan of this request.

    The caller still judges whether its kind and its approver are enough.
    """
    if not hmac.compare_digest(approval.signature.encode(), _mac(key, approval).encode()):
        message = f"{request_id}: its approval was not signed here, or was changed since. Have it approved again."
        raise NotPermitted(message)
    if (approval.request_id, approval.plan_hash) != (request_id, plan_hash):
        message = f"{request_id}: its approval is for another plan. Have this one approved."
        raise NotPermitted(message)


def hash_direct(service: str, target: int) -> str:
    """What a direct run's warrant is for, in place of a plan's hash: it plans when it runs."""
    return hashlib.sha256(f"direct {service} to {target}".encode()).hexdigest()[:32]


def make_warrant(settings: Settings, request_id: str, service: str, target: int, who: str) -> str:
    """
    Sign a direct run at this machine; the text goes along with the run.

    Raises:
        NotPermitted: the key may not be read by who asks, or direct runs are switched off.
    """
    if not settings.requests.direct:
        message = (
            f"{service}: direct runs are switched off (requests.direct in forkyard.toml). "
            f"Ask with `forkyard scale {service} --to {target} --ask`, and have somebody approve it."
        )
        raise NotPermitted(message)
    key = load_key(find_key_file(settings))
    approval = Approval(
        request_id=request_id,
        plan_hash=hash_direct(service, target),
        approver=who,
        at=datetime.now(UTC),
        kind=Kind.DIRECT,
    )
    return json.dumps(approval_to_json(sign(key, approval)))


def check_warrant(settings: Settings, warrant: str, *, request_id: str, service: str, target: int) -> Approval:
    """
    Read a direct run's warrant; raises NotPermitted unless it is genuine, fresh and for exactly this run.

    A fresh one can be used twice: the target is absolute and the request's id the same, so that does nothing more.
    """
    try:
        approval = approval_from_json(json.loads(warrant))
    except (ValueError, KeyError, TypeError) as error:
        message = f"{service}: the run's warrant cannot be read. Start it with `forkyard scale`, or from Slack."
        raise NotPermitted(message) from error
    verify(
        load_key(find_key_file(settings)),
        approval,
        request_id=request_id,
        plan_hash=hash_direct(service, target),
    )
    now = datetime.now(UTC)
    if approval.kind is not Kind.DIRECT or not settings.requests.direct:
        message = f"{service}: direct runs are not permitted here. Ask for it from Slack, or with --ask."
        raise NotPermitted(message)
    if not now - WARRANT_AGE <= approval.at <= now + _CLOCK_SLACK:
        message = (
            f"{service}: the run's warrant is of {approval.at:%Y-%m-%d %H:%M:%S} UTC and no longer good. Ask again."
        )
        raise NotPermitted(message)
    return approval


def approval_to_json(approval: Approval) -> dict[str, str]:
    """The approval as a JSON object."""
    return {**asdict(approval), "at": approval.at.isoformat()}


def approval_from_json(fields: Mapping[str, Any]) -> Approval:
    """The approval in a JSON object; raises KeyError, TypeError or ValueError for what is none."""
    given: dict[str, Any] = {**fields, "at": datetime.fromisoformat(fields["at"]), "kind": Kind(fields["kind"])}
    return Approval(**given)


def _mac(key: bytes, approval: Approval) -> str:
    fields = [
        "forkyard approval 1",
        approval.request_id,
        approval.plan_hash,
        approval.approver,
        approval.at.astimezone(UTC).isoformat(timespec="microseconds"),
        approval.kind.value,
        approval.reason,
    ]
    # As JSON: no field can run over into the next.
    return hmac.new(key, json.dumps(fields).encode(), hashlib.sha256).hexdigest()
