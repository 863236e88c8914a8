"""
presales.toml where it lies: found, read, and not read again while it is the same.

A file that is gone or empty calls nothing off: a checkout, a mount that failed, an editor that is just writing look the
same. Whoever means it leaves a file with a comment and no events.
"""

import os
from datetime import datetime
from pathlib import Path

from forkyard.decisions import CALENDAR
from forkyard.errors import InvalidRequest
from forkyard.presales import Calendar, parse_calendar
from forkyard.requests import OPEN
from forkyard.requests.store import Store
from forkyard.settings import Settings, find_config


class CalendarFile:
    """The calendar where [requests] says, or beside forkyard.toml."""

    def __init__(self, config: Path | None) -> None:
        """Look beside *config*, unless its settings name another; nothing is read yet."""
        self._config = config
        self._known: tuple[object, Calendar | str | None] | None = None

    def load(self, store: Store, settings: Settings, *, now: datetime) -> Calendar:
        """
        Read it; none is empty, as long as *store* has nothing open of it and no setting names it.

        Raises:
            InvalidRequest: it cannot be read, is wrong, or is gone; the message says what would be right.
        """
        path = settings.requests.calendar or find_config(self._config).with_name("presales.toml")
        try:
            with path.open(encoding="utf-8") as file:
                there = os.fstat(file.fileno())
                # What is right depends on the services and, a year ahead, on the day too.
                same = (path, there.st_ino, there.st_size, there.st_mtime_ns, settings.services, now.date())
                if self._known is None or self._known[0] != same:
                    text = file.read()
                    self._known = (same, _parse(text, settings, path, now) if text else None)
        except FileNotFoundError:
            _insist_unneeded(store, path, "is gone", named=settings.requests.calendar is not None)
            return Calendar()
        except (OSError, UnicodeDecodeError) as error:
            message = f"{path}: cannot be read: {error}. Mend it, or name another one in requests.calendar."
            raise InvalidRequest(message) from error
        found = self._known[1]
        if isinstance(found, str):
            raise InvalidRequest(found)
        if found is None:
            _insist_unneeded(store, path, "is empty", named=False)
        return found or Calendar()


def _parse(text: str, settings: Settings, path: Path, now: datetime) -> Calendar | str:
    try:
        return parse_calendar(text, settings.services, source=str(path), now=now)
    except InvalidRequest as error:
        return str(error)


def _insist_unneeded(store: Store, path: Path, what: str, *, named: bool) -> None:
    """Raise InvalidRequest when something still hangs on a file that says nothing."""
    rows = store.list_requests(states=OPEN, origin=CALENDAR, limit=1000)
    if rows:
        why = f"but requests that came from it are open, such as {rows[-1].token}: they stay as they are"
    elif named:
        why = "but requests.calendar in forkyard.toml names it"
    else:
        return
    message = f"{path}: {what}, {why}. Put it back; or, to call all events off, leave a file with a comment there."
    raise InvalidRequest(message)


__all__ = ["CalendarFile"]
