"""A PostgreSQL of the tests' own: Debian's programs, a directory and a Unix socket that nobody else sees, no port."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path

import psycopg

from forkyard.waiting import wait_for

_OWNER = "postgres"
"""The server refuses to run as root."""

_HASTE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=", "max_connections=60")


class Postgres:
    """One running server."""

    def __init__(self, socket: Path) -> None:
        """It listens at *socket*, a directory."""
        self._socket = socket
        self._numbers = count(1)

    def connect(self, database: str = "postgres") -> "psycopg.Connection[tuple[object, ...]]":
        """Connect as its owner."""
        return psycopg.connect(host=str(self._socket), user=_OWNER, dbname=database, autocommit=True)

    def make_database(self) -> str:
        """Make an empty database; its URL."""
        name = f"test_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
        return f"postgresql+psycopg://{_OWNER}@/{name}?host={self._socket}"


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server, and end it together with all it wrote."""
    programs = _find_programs()
    # Not below pytest's directory, which only root may enter.
    home = Path(tempfile.mkdtemp(prefix="forkyard-pg-"))
    os.chmod(home, 0o755)  # noqa: PTH101, S103 - its data lies in a directory that only its owner enters
    shutil.chown(home, _OWNER)
    data = home / "data"
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-A", "trust", "-U", _OWNER, "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True,
            capture_output=True,
            user=_OWNER,
            cwd=home,
        )
        settings = [word for setting in _HASTE for word in ("-c", setting)]
        with (
            (home / "log").open("wb") as log,
            subprocess.Popen(
                [programs / "postgres", "-D", data, "-k", home, *settings],
                stdout=log,
                stderr=log,
                user=_OWNER,
                cwd=home,
            ) as process,
        ):
            try:
                server = Postgres(home)
                wait_for(lambda: _answers(server), what="PostgreSQL", timeout=timedelta(seconds=30))
                yield server
            finally:
                process.send_signal(signal.SIGINT)
    finally:
        shutil.rmtree(home)


def _answers(server: Postgres) -> bool | None:
    try:
        server.connect().close()
    except psycopg.OperationalError:
        return None
    return True


def _find_programs() -> Path:
    # Debian keeps them out of the PATH, by version.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    assert found, "PostgreSQL is not installed: bin/bootstrap test"
    return found[-1].parent
