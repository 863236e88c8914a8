"""
What Slack delivered and nobody has dealt with yet.

Written before Slack is acknowledged, so that a bot that is killed right afterwards finds it again; and each delivery
once, however often it comes.

A database of its own beside the bot, with nothing but this table: writing a line takes a tenth of a millisecond, and a
hundred people who type at the same moment are acknowledged at once.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import time
from typing import Any

from forkyard.errors import Unavailable
from forkyard.settings import Settings

REMEMBERED = 86400
"""Seconds for which a delivery is known that was dealt with; Slack repeats within minutes."""

PRUNED = 3600
"""Seconds between two looks for deliveries that need not be known any more."""

_TABLE = "CREATE TABLE IF NOT EXISTS inbox (key TEXT PRIMARY KEY, kind TEXT, body TEXT, at REAL, done INTEGER)"


@dataclass(frozen=True, slots=True)
class Letter:
    """One delivery."""

    key: str
    kind: str
    body: dict[str, Any]
    at: float
    """When it came, in seconds of the epoch: what it says is read as of then, also by a bot that was started later."""


class Inbox:
    """The deliveries."""

    def __init__(self, path: Path) -> None:
        """Keep them in the file at *path*."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        # What a killed process wrote is there; only a power cut can take the last lines.
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(_TABLE)
        self._prune(time())

    def put(self, letter: Letter) -> bool:
        """Whether the delivery is new; it is kept then. Raises Unavailable when it cannot be written."""
        row = (letter.key, letter.kind, json.dumps(letter.body), letter.at)
        try:
            with self._lock:
                done = self._database.execute("INSERT OR IGNORE INTO inbox VALUES (?, ?, ?, ?, 0)", row)
                if letter.at - self._pruned > PRUNED:
                    self._prune(letter.at)
        except sqlite3.Error as error:
            text = f"what Slack delivered cannot be written down: {error}"
            raise Unavailable(text) from error
        return done.rowcount == 1

    def _prune(self, now: float) -> None:
        self._pruned = now
        self._database.execute("DELETE FROM inbox WHERE done = 1 AND at < ?", (now - REMEMBERED,))

    def finish(self, key: str) -> None:
        """Note that a delivery was dealt with."""
        with self._lock:
            self._database.execute("UPDATE inbox SET done = 1 WHERE key = ?", (key,))

    def list_open(self) -> list[Letter]:
        """What is still to be dealt with, in its order."""
        with self._lock:
            rows = self._database.execute("SELECT key, kind, body, at FROM inbox WHERE done = 0 ORDER BY at").fetchall()
        return [Letter(key, kind, json.loads(body), at) for key, kind, body, at in rows]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


@contextmanager
def open_inbox(settings: Settings) -> Iterator[Inbox]:
    """Open it in the state directory."""
    inbox = Inbox(settings.state_dir / "bot-inbox.db")
    try:
        yield inbox
    finally:
        inbox.close()
