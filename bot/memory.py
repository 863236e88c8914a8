"""
What the bot has shown where: one row for each request that has a message, in the requests' database.

Written before a message is posted and again after it, so that a bot that is killed in between looks for its message in
the channel before it posts another one.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy import Boolean, Column, Engine, MetaData, String, Table, insert, select, update

from forkyard.requests.tables import open_engine
from forkyard.settings import Settings

_metadata = MetaData()

_shown = Table(
    "bot_messages",
    _metadata,
    Column("request_id", String(64), primary_key=True),
    Column("channel", String(80), nullable=False),
    Column("ts", String(40), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("done", Boolean, nullable=False),
    Column("picture", String(20), nullable=False),
    Column("kept", Boolean, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """One request's message as it is in Slack."""

    request_id: str
    channel: str
    ts: str = ""
    """Empty: it is being posted, or was when the bot ended."""
    digest: str = ""
    done: bool = False
    """Whether it shows the end, so that nothing will be edited any more."""
    picture: str = ""
    """`posting`, `posted`, or nothing."""
    kept: bool = False


class Memory:
    """The rows."""

    def __init__(self, engine: Engine) -> None:
        """Use *engine*; makes the table when it is not there."""
        self._engine = engine
        _metadata.create_all(engine)

    def list_open(self) -> dict[str, Shown]:
        """Those whose end is not shown yet, by request."""
        return self._list(_shown.c.done.is_(False))

    def find(self, request_id: str) -> Shown | None:
        """One of them."""
        return self._list(_shown.c.request_id == request_id).get(request_id)

    def add(self, shown: Shown) -> Shown:
        """Write a new row."""
        values = {field.name: getattr(shown, field.name) for field in fields(shown)}
        with self._engine.execution_options(writes=True).begin() as connection:
            connection.execute(insert(_shown).values(**values))
        return shown

    def change(self, shown: Shown, **values: Any) -> Shown:  # noqa: ANN401 - the row's own
        """Write some fields, and leave the others as somebody else may have written them."""
        with self._engine.execution_options(writes=True).begin() as connection:
            connection.execute(update(_shown).where(_shown.c.request_id == shown.request_id).values(**values))
        return replace(shown, **values)

    def finish(self, shown: Shown) -> None:
        """Note that nothing will be edited any more, unless somebody has just said that it is to be kept."""
        same = (_shown.c.request_id == shown.request_id, _shown.c.kept.is_(shown.kept))
        with self._engine.execution_options(writes=True).begin() as connection:
            connection.execute(update(_shown).where(*same).values(done=True))

    def reopen(self, request_ids: Collection[str]) -> None:
        """Have the messages of these requests, where they have one, edited once more."""
        with self._engine.execution_options(writes=True).begin() as connection:
            connection.execute(update(_shown).where(_shown.c.request_id.in_(request_ids)).values(done=False))

    def _list(self, condition: Any) -> dict[str, Shown]:  # noqa: ANN401 - SQLAlchemy's
        with self._engine.begin() as connection:
            rows = connection.execute(select(_shown).where(condition)).mappings()
            return {row["request_id"]: Shown(**row) for row in rows}


@contextmanager
def open_memory(settings: Settings) -> Iterator[Memory]:
    """Open it in the requests' database."""
    engine = open_engine(settings)
    try:
        yield Memory(engine)
    finally:
        engine.dispose()
