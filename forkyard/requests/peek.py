"""
A glance at the requests' database without SQLAlchemy, whose import alone takes a direct run's start twice as long.

It decides nothing: whoever sees a lock here asks the desk, and what is not seen here the gate refuses.
"""

import sqlite3
from contextlib import closing

from forkyard.settings import Settings


def peek_locked(settings: Settings, service: str) -> bool:
    """Whether the service is seen to be locked; False also where nobody can see it so quickly."""
    file = settings.state_dir / "requests.db"
    if settings.requests.url or not file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM locks WHERE service = ?", (service,)).fetchone() is not None
    except sqlite3.Error:
        return False


__all__ = ["peek_locked"]
