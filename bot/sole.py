"""
That there is one bot: two would post each request twice, and one of the two messages would keep its live buttons.

The system and the database hold the locks for as long as the process is there, so one that is killed frees them at
that moment. The state directory's keeps two bots from the same inbox, the database's two machines from the same rows.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from forkyard.errors import LeaseHeld, NotPermitted, Unavailable
from forkyard.requests.tables import open_engine
from forkyard.settings import Settings
from forkyard.waiting import patiently

_LOCK = 7305145
"""The advisory lock's number, forkyard's own; the one before it is the tables'."""

GONE = timedelta(seconds=2)
"""How long PostgreSQL may take to see that a killed bot's connection is closed."""

# A machine that lost its power says no goodbye: the server asks after half a minute.
_INTRODUCE = text(
    "SELECT set_config('application_name', :who, false), set_config('tcp_keepalives_idle', '20', false),"
    " set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false)"
)

_TRY = text("SELECT pg_try_advisory_lock(:number)")

_FIND_HOLDER = text(
    "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
    " WHERE l.locktype = 'advisory' AND l.granted AND (l.classid, l.objid, l.objsubid) = (0, :number, 1)"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@contextmanager
def only_bot(settings: Settings) -> Iterator[Callable[[], None]]:
    """
    Be the only bot in this state directory and on this database while the block runs.

    Gives a call that raises LeaseHeld once another one has taken over, as it may after a database was away, and
    Unavailable while the database is.

    Raises:
        NotPermitted: another bot is at work; the message names it.
        Unavailable: the database does not answer.
    """
    with _holding(settings.state_dir / "bot.lock"):
        engine = open_engine(settings)
        if engine.dialect.name != "postgresql":
            yield _do_nothing
            return
        with closing(_Seat(engine)) as seat:
            try:
                patiently(seat.insist, timeout=GONE)
            except LeaseHeld as error:
                raise NotPermitted(str(error)) from error
            yield seat.insist


class _Seat:
    """A session at PostgreSQL that holds the lock, and a new one when that was lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._session: Connection | None = None

    def insist(self) -> None:
        """Have the lock; raises LeaseHeld or Unavailable."""
        try:
            holder = self._find_other()
        except DBAPIError as error:
            self.close()
            message = f"the requests' database does not answer: {error.orig}"
            raise Unavailable(message) from error
        if holder:
            raise LeaseHeld(_refusal(holder, "the requests' database"))

    def close(self) -> None:
        """Give up the lock, if it is held."""
        if self._session is not None:
            # Not back into the pool, where it would live on with its lock.
            self._session.invalidate()
            self._session.close()
            self._session = None

    def _find_other(self) -> str:
        if self._session is None:
            self._session = self._engine.connect()
            self._session.execute(_INTRODUCE, {"who": f"forkyard bot, {_describe()}"[:63]})
        # Whose session has it already is given it once more.
        if self._session.scalar(_TRY, {"number": _LOCK}):
            return ""
        return str(self._session.scalar(_FIND_HOLDER, {"number": _LOCK}) or "one that is just ending")


@contextmanager
def _holding(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            message = _refusal(file.read() or "one that is just starting", f"{path.parent}")
            raise NotPermitted(message) from error
        file.truncate(0)
        file.write(f"forkyard bot, {_describe()}")
        file.flush()
        yield


def _describe() -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}"


def _refusal(holder: str, where: str) -> str:
    return f"another bot is at work on {where}: {holder}. End that one first: two would post everything twice."


def _do_nothing() -> None:
    """What is held by the file alone cannot be lost."""


__all__ = ["only_bot"]
