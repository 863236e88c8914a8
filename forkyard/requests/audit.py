"""
The audit log: append-only, each entry's hash over the one before, so that nothing can be changed or taken out unseen.

The hashes are keyed with the approvals' key: whoever can write to the database and cannot read that file can neither
make an entry nor mend the chain. The head is signed too, or the newest entries could be cut off. What is not proved:
that nobody who has the key rewrote all of it; for that, note the head that `verify` prints somewhere else.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, or_, select, text
from sqlalchemy.engine import RowMapping

from forkyard.requests import Entry
from forkyard.requests.tables import audit, audit_head

FIRST = "0" * 64
"""What stands for the entry before the first."""


@dataclass(frozen=True, slots=True)
class Logged:
    """One entry as it is in the log."""

    seq: int
    at: datetime
    entry: Entry
    hash: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the log is whole."""

    whole: bool
    entries: int
    head: str
    """The last entry's number and hash; note it elsewhere to prove later that nothing before it was rewritten."""
    problem: str = ""


def append(connection: Connection, key: bytes, entry: Entry, at: datetime) -> None:
    """Add an entry, inside the transaction that does what it tells of."""
    if connection.dialect.name == "postgresql":
        # Writers one after the other: two that saw the same last entry would fork the chain.
        connection.execute(text("LOCK TABLE audit_head IN EXCLUSIVE MODE"))
    head = connection.execute(select(audit_head)).mappings().first()
    seq, previous = (head["seq"] + 1, head["hash"]) if head is not None else (1, FIRST)
    fields = {"seq": seq, "at": at, **asdict(entry)}
    digest = _digest(key, fields, previous)
    connection.execute(audit.insert().values(**fields, previous=previous, hash=digest))
    values = {"seq": seq, "hash": digest, "signature": _sign_head(key, seq, digest)}
    if head is None:
        connection.execute(audit_head.insert().values(id=1, **values))
    else:
        connection.execute(audit_head.update().values(**values))


def read(
    connection: Connection,
    *,
    request_id: str | None = None,
    about: str | None = None,
    since: datetime | None = None,
    limit: int = 50,
) -> list[Logged]:
    """
    The newest entries, oldest first: of one request, which an index finds, or *about* what a person would type.

    That is a service, a request's id or its beginning, or a person's id, for which the whole log is looked through.
    """
    query = select(audit).order_by(audit.c.seq.desc()).limit(limit)
    if request_id is not None:
        query = query.where(audit.c.request_id == request_id)
    if about is not None:
        name = about.removeprefix("@")
        starts = audit.c.request_id.startswith(name, autoescape=True)
        query = query.where(or_(audit.c.service == name, audit.c.who == name, starts))
    if since is not None:
        query = query.where(audit.c.at >= since)
    rows = connection.execute(query).mappings().all()
    return [_logged(row) for row in reversed(rows)]


def verify(connection: Connection, key: bytes, *, expected: str | None = None) -> Verdict:
    """Read the whole log and say whether it is whole; *expected* is a head that was noted before."""
    previous, count, seen = FIRST, 0, expected is None
    for row in connection.execute(select(audit).order_by(audit.c.seq)).mappings():
        count += 1
        problem = _judge(key, row, count, previous)
        if problem:
            return Verdict(whole=False, entries=count, head=f"{count - 1}:{previous}", problem=problem)
        previous = row["hash"]
        seen = seen or f"{count}:{previous}" == expected
    head = f"{count}:{previous}"
    problem = _judge_head(connection, key, count, previous)
    if not problem and not seen:
        problem = f"the head {expected} is not in it: the log was rewritten, or is another one"
    return Verdict(whole=not problem, entries=count, head=head, problem=problem)


def _judge(key: bytes, row: RowMapping, seq: int, previous: str) -> str:
    if row["seq"] != seq:
        return f"entry {seq} is missing: the next one is {row['seq']}"
    if row["previous"] != previous:
        return f"entry {seq} does not follow the one before it"
    fields = {name: row[name] for name in row if name not in {"previous", "hash"}}
    if not hmac.compare_digest(row["hash"], _digest(key, fields, previous)):
        return f"entry {seq} was changed, or was not written by forkyard"
    return ""


def _judge_head(connection: Connection, key: bytes, seq: int, digest: str) -> str:
    head = connection.execute(select(audit_head)).mappings().first()
    if head is None:
        return "the head is missing: entries may have been cut off" if seq else ""
    if not hmac.compare_digest(head["signature"], _sign_head(key, head["seq"], head["hash"])):
        return "the head was changed: entries may have been cut off"
    if (head["seq"], head["hash"]) != (seq, digest):
        return f"the head says {head['seq']} entries and {seq} are there: the newest were cut off"
    return ""


def _digest(key: bytes, fields: Mapping[str, Any], previous: str) -> str:
    at = fields["at"]
    plain = {**fields, "at": at.timestamp(), "previous": previous}
    data = json.dumps(plain, sort_keys=True, ensure_ascii=True).encode()
    return hmac.new(key, b"forkyard audit 1\n" + data, hashlib.sha256).hexdigest()


def _sign_head(key: bytes, seq: int, digest: str) -> str:
    return hmac.new(key, f"forkyard audit head 1\n{seq}:{digest}".encode(), hashlib.sha256).hexdigest()


def _logged(row: RowMapping) -> Logged:
    own = {name: row[name] for name in Entry.__dataclass_fields__}
    return Logged(row["seq"], row["at"], Entry(**own), row["hash"])


def render(entries: Sequence[Logged]) -> list[str]:
    """One line an entry, for a person."""
    return [_line(logged) for logged in entries]


def _line(logged: Logged) -> str:
    entry = logged.entry
    parts = [
        f"{logged.at:%Y-%m-%d %H:%M:%S}Z",
        entry.who,
        entry.action,
        entry.service or "",
        (entry.request_id or "")[:6],
        entry.decision,
        entry.detail or (f"({entry.raw})" if entry.raw else ""),
    ]
    return " ".join(part for part in parts if part)
