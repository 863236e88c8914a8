"""
The tables, on SQLite and PostgreSQL alike, and opening them.

Moments are texts in UTC of one width, so that both databases sort and compare them alike. The audit log's table refuses
changes by a trigger of its own; that its entries are whole is proved by their hashes (`forkyard.requests.audit`).
"""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Dialect,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    event,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from forkyard.errors import InvalidRequest, Unsupported
from forkyard.requests.peek import find_file
from forkyard.settings import Settings
from forkyard.waiting import wait_for

VERSION = 1
"""Of the tables; a database of a later forkyard is not touched."""

PATIENCE = 20
"""Seconds that a writer waits for others."""


class Moment(TypeDecorator[datetime]):
    """An aware moment as a text in UTC."""

    impl = String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """Write it."""
        del dialect
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ANN401 - SQLAlchemy's
        """Read it."""
        del dialect
        return None if value is None else datetime.fromisoformat(value)


metadata = MetaData()

versions = Table("forkyard_schema", metadata, Column("version", Integer, primary_key=True))

requests = Table(
    "requests",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("service", String(40), nullable=False),
    Column("target", Integer, nullable=False),
    Column("change", Integer),
    Column("requested_by", String(80), nullable=False),
    Column("requested_at", Moment, nullable=False),
    Column("origin", String(20), nullable=False),
    Column("raw", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("channel", String(80), nullable=False),
    # Nobody's any more; where it is there already, it wants a value.
    Column("message", String(80), nullable=False, default=""),
    Column("start_at", Moment),
    Column("hold_seconds", Integer),
    Column("zone", String(64), nullable=False),
    Column("plan", Text),
    Column("plan_expires", Moment),
    Column("need", String(20)),
    Column("need_why", Text, nullable=False),
    Column("run_id", String(64)),
    Column("result", Text),
    Column("error", Text, nullable=False),
    Column("parent", String(64)),
    Column("kind", String(20), nullable=False),
    Column("event", String(200), unique=True),
    Column("delivery", String(200), unique=True),
    Column("updated_at", Moment, nullable=False),
    Index("requests_by_state", "state", "service"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("plan_hash", String(64), primary_key=True),
    Column("approver", String(80), primary_key=True),
    Column("at", Moment, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("signature", String(64), nullable=False),
)

notices = Table(
    "notices",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("request_id", String(64), nullable=False),
    Column("text", Text, nullable=False),
    Column("at", Moment, nullable=False, index=True),
    Column("told", Integer, nullable=False),
)

locks = Table(
    "locks",
    metadata,
    Column("service", String(40), primary_key=True),
    Column("who", String(80), nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", Moment, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("who", String(80), nullable=False),
    Column("where", String(120), nullable=False),
    Column("action", String(40), nullable=False),
    Column("request_id", String(64), index=True),
    Column("service", String(40)),
    Column("raw", Text, nullable=False),
    Column("plan_hash", String(64), nullable=False),
    Column("decision", String(120), nullable=False),
    Column("run_id", String(64)),
    Column("detail", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("signature", String(64), nullable=False),
)

_REFUSE = "the audit log is append-only"

_APPEND_ONLY = {
    "sqlite": [
        f"""CREATE TRIGGER IF NOT EXISTS audit_no_{what} BEFORE {what} ON audit
        BEGIN SELECT RAISE(ABORT, '{_REFUSE}'); END"""
        for what in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        f"""CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION '{_REFUSE}'; END $$""",
        """CREATE OR REPLACE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()""",
    ],
}


def open_engine(settings: Settings) -> Engine:
    """
    Make the engine for the database that forkyard.toml names; connects to nothing yet.

    Raises:
        InvalidRequest: the URL, or the password's file, cannot be read.
        Unsupported: neither SQLite nor PostgreSQL.
    """
    chosen = settings.requests
    try:
        url = make_url(chosen.url or f"sqlite:///{find_file(settings)}")
        if chosen.password_file is not None:
            url = url.set(password=chosen.password_file.read_text(encoding="utf-8").strip())
        kind = url.get_backend_name()
        if kind not in _APPEND_ONLY:
            message = f"requests.url: {kind} is not supported. Use sqlite or postgresql+psycopg."
            raise Unsupported(message)
        if kind == "sqlite":
            Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(url, connect_args={"timeout": PATIENCE})
            event.listen(engine, "connect", _prepare_sqlite)
        else:
            waits = {"connect_timeout": PATIENCE, "options": f"-c lock_timeout={PATIENCE}s"}
            engine = create_engine(url, pool_pre_ping=True, connect_args=waits)
    except (ArgumentError, NoSuchModuleError) as error:
        message = "requests.url: is no URL of a database. Write it as postgresql+psycopg://forkyard@db/forkyard."
        raise InvalidRequest(message) from error
    except OSError as error:
        message = f"{error.filename}: {error.strerror}. Mend it, or name another one under [requests] in forkyard.toml."
        raise InvalidRequest(message) from error
    event.listen(engine, "begin", _begin)
    return engine


def create_tables(connection: Connection) -> None:
    """
    Make what is not there; two processes may do it at once.

    Raises:
        Unsupported: the tables are of another forkyard.
    """
    there = set(inspect(connection).get_table_names())
    if versions.name in there:
        found = connection.execute(select(versions.c.version)).scalar()
        if found != VERSION:
            message = f"the database is of another forkyard (tables {found}, known {VERSION}). Update the older one."
            raise Unsupported(message)
        if there.issuperset(metadata.tables):
            return  # a table that was added since is none that an older forkyard would mind
    if connection.dialect.name == "postgresql":
        # Held to the end of the transaction: creating "if not exists" is not safe by itself. The number is forkyard's.
        connection.execute(text("SELECT pg_advisory_xact_lock(7305144)"))
    metadata.create_all(connection)
    for statement in _APPEND_ONLY[connection.dialect.name]:
        connection.execute(text(statement))
    if connection.execute(select(versions.c.version)).scalar() is None:
        connection.execute(versions.insert().values(version=VERSION))


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's
    # Transactions begin where we say (see `_begin`), not where the driver guesses.
    connection.isolation_level = None
    cursor = connection.cursor()
    # Readers and a writer do not wait for each other; FULL: what was acknowledged survives a power cut.
    # The change to it does not wait for others as all else does, and is refused while another process makes it.
    wait_for(lambda: _keeps_log(cursor), what="the requests' database", timeout=timedelta(seconds=PATIENCE))
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _keeps_log(cursor: Any) -> bool | None:  # noqa: ANN401 - the driver's
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        return None
    return True


def _begin(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        # A writer takes its place at once: one that read first and then finds another writer can only fail.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
