"""
The requests' store: rows that only move by compare-and-swap, each move with its entry in the audit log.

One transaction a call: either all of it happened, entry included, or nothing. Safe between threads and processes. The
database's errors are translated here and nowhere else.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from forkyard.approvals import Approval, find_key_file
from forkyard.errors import InvalidRequest, NotFound, Unavailable
from forkyard.keys import load_key
from forkyard.names import make_token
from forkyard.requests import STANDING, Entry, Notice, Request, ServiceLock, State, StateChanged, check_move
from forkyard.requests import audit as log
from forkyard.requests import tables as t
from forkyard.requests.plans import PlanRecord
from forkyard.requests.rows import from_row, to_approval, to_row
from forkyard.settings import Settings


def read_clock() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


REMEMBERED = timedelta(days=7)
"""How long it is known that a notice was told."""


class Store:
    """All requests, approvals, locks and the audit log."""

    def __init__(self, engine: Engine, key: bytes, *, clock: Callable[[], datetime] = read_clock) -> None:
        """Use *engine*; makes the tables that are not there. What happens to requests happens by *clock*."""
        self._engine, self._key, self._clock = engine, key, clock
        # SQLite's writers poll for each other; threads of one process can simply queue.
        self._turn = Lock()
        with self._write() as connection:
            t.create_tables(connection)

    @property
    def key(self) -> bytes:
        """Signs approvals."""
        return self._key

    def now(self) -> datetime:
        """The moment, for everybody who decides about requests: one clock, which tests drive."""
        return self._clock()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def announce(self, notice: Notice) -> bool:
        """Keep a notice until it is told; False: it is kept, or was told, already."""
        try:
            with self._write() as connection:
                self._announce(connection, notice)
        except IntegrityError:
            return False
        return True

    def is_announced(self, key: str) -> bool:
        """Whether there was a notice of this key."""
        with self._read() as connection:
            return connection.execute(select(t.notices.c.key).where(t.notices.c.key == key)).first() is not None

    def list_notices(self) -> list[Notice]:
        """What nobody was told yet, in its order."""
        query = select(t.notices).where(t.notices.c.told == 0).order_by(t.notices.c.at, t.notices.c.key)
        with self._read() as connection:
            rows = connection.execute(query).mappings().all()
            return [Notice(self._get(connection, row["request_id"]), row["text"], row["key"]) for row in rows]

    def mark_told(self, key: str) -> None:
        """Note that a notice was told."""
        with self._write() as connection:
            connection.execute(update(t.notices).where(t.notices.c.key == key).values(told=1))

    def add(self, request: Request, entry: Entry) -> tuple[Request, bool]:
        """Put a request on record; one whose delivery or event is known already is given back as it is (False)."""
        try:
            with self._write() as connection:
                self._insert(connection, request, entry)
        except IntegrityError:
            return self._twin(request), False
        return self.get(request.id), True

    def _twin(self, request: Request) -> Request:
        with self._read() as connection:
            for column, value in (
                (t.requests.c.delivery, request.delivery),
                (t.requests.c.event, request.event),
                (t.requests.c.id, request.id),
            ):
                query = select(t.requests).where(column == value)
                row = connection.execute(query).mappings().first() if value is not None else None
                if row is not None:
                    return from_row(row)
        text = f"{request.token}: could not be put on record: it contradicts what is there."
        raise InvalidRequest(text)

    def get(self, request_id: str) -> Request:
        """The request; raises NotFound."""
        with self._read() as connection:
            return self._get(connection, request_id)

    def find(self, prefix: str) -> Request:
        """The one request whose id begins so; raises NotFound, or InvalidRequest for none or several."""
        start = prefix.strip().lower()
        if not start:
            text = "Which request? Give the beginning of its ID; list what there is with: log"
            raise InvalidRequest(text)
        with self._read() as connection:
            query = select(t.requests).where(t.requests.c.id.startswith(start, autoescape=True)).limit(3)
            rows = connection.execute(query).mappings().all()
        if not rows:
            text = f"{prefix}: there is no such request. List what there is with: log"
            raise NotFound(text)
        if len(rows) > 1:
            shown = ", ".join(row["id"][:10] for row in rows)
            text = f"{prefix}: several requests begin so: {shown}. Give more of the ID."
            raise InvalidRequest(text)
        return from_row(rows[0])

    def list_requests(
        self,
        *,
        states: Collection[State] | None = None,
        service: str | None = None,
        parent: str | None = None,
        origin: str | None = None,
        timed: bool = False,
        limit: int = 100,
    ) -> list[Request]:
        """Requests, newest first; *timed*: only those with a moment to begin at."""
        query = select(t.requests).order_by(t.requests.c.requested_at.desc(), t.requests.c.id).limit(limit)
        if states is not None:
            query = query.where(t.requests.c.state.in_([state.value for state in states]))
        if timed:
            query = query.where(t.requests.c.start_at.is_not(None))
        for column, value in (
            (t.requests.c.service, service),
            (t.requests.c.parent, parent),
            (t.requests.c.origin, origin),
        ):
            if value is not None:
                query = query.where(column == value)
        with self._read() as connection:
            return [from_row(row) for row in connection.execute(query).mappings()]

    def move(
        self,
        request: Request,
        to: State,
        entry: Entry,
        *,
        telling: str = "",
        **changes: Any,  # noqa: ANN401 - columns
    ) -> Request:
        """
        Move *request*, as it was read, to a state; *changes* are other fields.

        Its later steps go with it where it stands no more, and a notice of *telling* is kept: whoever dies right after
        the move leaves no step behind, and nobody untold.

        Raises:
            StateChanged: it moved meanwhile, or *to* may not follow.
        """
        check_move(request, to)
        with self._write() as connection:
            steps = [] if to in STANDING else self._hold_steps(connection, request)
            moved = self._swap(connection, request, entry, {**changes, "state": to})
            self._drop(connection, steps, entry)
            if telling:
                self._announce(connection, Notice(moved, telling))
        return moved

    def amend(self, request: Request, entry: Entry | None = None, **changes: Any) -> Request:  # noqa: ANN401 - columns
        """Change fields (its run) and not its state; raises StateChanged as `move`."""
        with self._write() as connection:
            return self._swap(connection, request, entry, changes)

    def approve(
        self,
        request: Request,
        plan: PlanRecord,
        approval: Approval,
        entry: Entry,
        *,
        scheduled: Entry | None = None,
        steps: Collection[tuple[Request, Entry]] = (),
        instead_of: Iterable[Request] = (),
    ) -> Request:
        """
        Keep a signed approval of *plan* and move the request to approved, or on to *scheduled*; with its later *steps*.

        They come *instead of* those of other requests.

        Raises StateChanged as `move`; then nothing of it happened.
        """
        check_move(request, State.APPROVED)
        with self._write() as connection:
            replaced = self._hold_steps(connection, *instead_of)
            moved = self._swap(connection, request, entry, {"state": State.APPROVED, "plan": plan})
            self._drop(connection, replaced, entry)
            self._keep(connection, approval)
            if scheduled is not None:
                moved = self._swap(connection, moved, scheduled, {"state": State.SCHEDULED})
            for step, said in steps:
                self._insert(connection, step, said)
        return moved

    def keep(self, approval: Approval) -> None:
        """Keep a signed approval; the same one again is the same."""
        with self._write() as connection:
            self._keep(connection, approval)

    def approvals(self, request_id: str) -> list[Approval]:
        """The request's approvals as they are kept; whoever uses one verifies it."""
        query = select(t.approvals).where(t.approvals.c.request_id == request_id).order_by(t.approvals.c.at)
        with self._read() as connection:
            rows = connection.execute(query).mappings().all()
        return [to_approval(row) for row in rows]

    def note(self, entry: Entry) -> None:
        """Write to the audit log what changed no row."""
        with self._write() as connection:
            self._log(connection, entry)

    def read_log(
        self,
        *,
        request_id: str | None = None,
        about: str | None = None,
        since: datetime | None = None,
        limit: int = 50,
    ) -> list[log.Logged]:
        """The audit log's newest entries, oldest first (`forkyard.requests.audit.read`)."""
        with self._read() as connection:
            return log.read(connection, request_id=request_id, about=about, since=since, limit=limit)

    def verify_log(self, *, expected: str | None = None) -> log.Verdict:
        """Whether the audit log is whole."""
        with self._read() as connection:
            return log.verify(connection, self._key, expected=expected)

    def lock(self, lock: ServiceLock, entry: Entry) -> None:
        """Lock a service; raises InvalidRequest, naming the holder, when it is locked already."""
        try:
            with self._write() as connection:
                values = {"service": lock.service, "who": lock.who, "reason": lock.reason, "since": lock.since}
                connection.execute(insert(t.locks).values(**values))
                self._log(connection, entry)
        except IntegrityError as error:
            held = self.locks().get(lock.service)
            who = f"by {held.who} since {held.since:%Y-%m-%d %H:%M} UTC: {held.reason}" if held else "a moment ago"
            text = f"{lock.service}: is locked already, {who}. Unlock it first: unlock {lock.service}"
            raise InvalidRequest(text) from error

    def unlock(self, service: str, entry: Entry) -> None:
        """Unlock a service; raises InvalidRequest when it is not locked."""
        with self._write() as connection:
            done = connection.execute(delete(t.locks).where(t.locks.c.service == service))
            if done.rowcount == 0:
                text = f"{service}: is not locked."
                raise InvalidRequest(text)
            self._log(connection, entry)

    def locks(self) -> dict[str, ServiceLock]:
        """The locks, by service."""
        with self._read() as connection:
            rows = connection.execute(select(t.locks)).mappings().all()
        return {row["service"]: ServiceLock(**dict(row)) for row in rows}

    def _insert(self, connection: Connection, request: Request, entry: Entry) -> None:
        connection.execute(insert(t.requests).values(**to_row(replace(request, updated_at=self.now()))))
        self._log(connection, entry)

    def _swap(
        self, connection: Connection, request: Request, entry: Entry | None, changes: Mapping[str, Any]
    ) -> Request:
        fresh = replace(request, **changes, version=request.version + 1, updated_at=self.now())
        same = (t.requests.c.id == request.id, t.requests.c.version == request.version)
        done = connection.execute(update(t.requests).where(*same).values(**to_row(fresh)))
        if done.rowcount == 0:
            raise StateChanged(self._get(connection, request.id), changes.get("state"))
        if entry is not None:
            self._log(connection, entry)
        return fresh

    def _hold_steps(self, connection: Connection, *of: Request) -> list[Request]:
        """What is to follow requests and has not begun; nobody else moves it until the transaction's end."""
        # Asked for before anything is logged: who has a step and waits for the log, and who has the log and waits for
        # the step, would wait for each other.
        theirs = (t.requests.c.parent.in_([request.id for request in of]), t.requests.c.kind == "later")
        query = select(t.requests).where(*theirs, t.requests.c.state == State.SCHEDULED.value)
        rows = connection.execute(query.order_by(t.requests.c.id).with_for_update()).mappings().all()
        return [from_row(row) for row in rows]

    def _drop(self, connection: Connection, steps: Iterable[Request], entry: Entry) -> None:
        to = State.CANCELLED
        for step in steps:
            said = replace(entry, action="cancel", raw="", plan_hash="", decision=to.value)
            said = replace(said, request_id=step.id, run_id=step.run_id, detail=f"with {make_token(step.parent or '')}")
            self._swap(connection, step, said, {"state": to})

    def _announce(self, connection: Connection, notice: Notice) -> None:
        digest = hashlib.sha256(notice.text.encode()).hexdigest()[:8]
        key = notice.key or f"{notice.request.id} {notice.request.version} {digest}"
        values = {"key": key, "request_id": notice.request.id, "text": notice.text, "at": self.now(), "told": 0}
        connection.execute(insert(t.notices).values(**values))
        connection.execute(delete(t.notices).where(t.notices.c.at < self.now() - REMEMBERED))

    def _get(self, connection: Connection, request_id: str) -> Request:
        row = connection.execute(select(t.requests).where(t.requests.c.id == request_id)).mappings().first()
        if row is None:
            text = f"{request_id}: there is no such request on record."
            raise NotFound(text)
        return from_row(row)

    def _keep(self, connection: Connection, approval: Approval) -> None:
        same = (
            t.approvals.c.request_id == approval.request_id,
            t.approvals.c.plan_hash == approval.plan_hash,
            t.approvals.c.approver == approval.approver,
        )
        connection.execute(delete(t.approvals).where(*same))
        values = {field.name: getattr(approval, field.name) for field in fields(approval)}
        connection.execute(insert(t.approvals).values(**values | {"kind": approval.kind.value}))

    def _log(self, connection: Connection, entry: Entry) -> None:
        log.append(connection, self._key, entry, self.now())

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        writing = self._engine.execution_options(writes=True)
        with _translated(), self._turn, writing.begin() as connection:
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # what it means is known to who caused it
    except (OperationalError, InterfaceError) as error:
        text = f"the requests' database does not answer: {error.orig}. Look at requests.url in forkyard.toml."
        raise Unavailable(text) from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        text = f"the requests' database went away: {error.orig}."
        raise Unavailable(text) from error


@contextmanager
def open_store(settings: Settings, *, clock: Callable[[], datetime] = read_clock) -> Iterator[Store]:
    """
    Open the database that forkyard.toml names, and the key; all who use the store go by its *clock*.

    Raises:
        NotPermitted: the key may not be read.
        Unavailable: the database does not answer.
    """
    key = load_key(find_key_file(settings))
    engine = t.open_engine(settings)
    try:
        yield Store(engine, key, clock=clock)
    finally:
        engine.dispose()


__all__ = ["Store", "open_store", "read_clock"]
