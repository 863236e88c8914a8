"""
A glance at the requests' database without SQLAlchemy, whose import alone takes a direct run's start twice as long.

It decides nothing: whoever sees a lock here asks the desk, and what is not seen here the gate refuses.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from forkyard.names import make_token
from forkyard.settings import Settings

PEEKED = 20
"""Requests that a shell offers."""


def find_file(settings: Settings) -> Path:
    """The database's file where no `requests.url` says otherwise."""
    return settings.state_dir / "requests.db"


def peek_locked(settings: Settings, service: str) -> bool:
    """Whether the service is seen to be locked; False also where nobody can see it so quickly."""
    file = find_file(settings)
    if settings.requests.url or not file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM locks WHERE service = ?", (service,)).fetchone() is not None
    except sqlite3.Error:
        return False


def peek_requests(settings: Settings) -> list[tuple[str, str]]:
    """The last requests, newest first: what stands for each, and what it is; raises sqlite3.Error."""
    file = find_file(settings)
    if settings.requests.url or not file.exists():
        return []
    query = "SELECT id, service, target, state FROM requests ORDER BY requested_at DESC LIMIT ?"
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute(query, (PEEKED,)).fetchall()
    return [(make_token(name), f"{service} to {target}: {state}") for name, service, target, state in rows]


__all__ = ["find_file", "peek_locked", "peek_requests"]
