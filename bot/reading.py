"""
What a person typed, read as of the moment at which it came; what is refused or not understood is in the audit log.

Slack is asked for the person's time zone only when what was typed depends on it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from bot.blocks import shorten
from bot.people import Asker, Directory
from forkyard.commands import Command
from forkyard.errors import RequestError
from forkyard.grammar import Complaint, parse
from forkyard.requests import Entry
from forkyard.requests.store import Store
from forkyard.roles import check_place
from forkyard.settings import Settings

LONGEST_RAW = 500
"""Characters of what was typed that the log keeps where it was no command."""

_ELSEWHERE = "Asia/Tokyo"
"""A zone without summer time, other than UTC: what reads the same in both depends on no zone."""


@contextmanager
def noting_refusals(store: Store, entry: Entry) -> Iterator[None]:
    """Write a refusal to the log before it is told."""
    try:
        yield
    except RequestError as error:
        store.note(replace(entry, decision="refused", detail=str(error)))
        raise


class Reading:
    """Reads what was typed."""

    def __init__(self, load: Callable[[], Settings], store: Store, directory: Directory) -> None:
        """Read by the settings that *load* gives at each call."""
        self._load, self._store, self._directory = load, store, directory

    def check_place(self, asker: Asker, action: str, raw: str = "") -> None:
        """Raise NotPermitted unless commands may come from there; the refusal is in the log."""
        with noting_refusals(self._store, make_entry(asker, action, raw)):
            check_place(self._load().chatops, asker.team, asker.channel)

    def check_where_shown(self, asker: Asker, action: str) -> None:
        """Raise as `check_place`, but let clicks pass from the bot's own conversation with a person, and its home."""
        try:
            self.judge_where_shown(asker)
        except RequestError as error:
            self._store.note(replace(make_entry(asker, action), decision="refused", detail=str(error)))
            raise

    def judge_where_shown(self, asker: Asker) -> None:
        """Raise as `check_where_shown`, without any line in the log: before the click is acknowledged."""
        chatops = self._load().chatops
        own = not asker.channel or asker.channel.startswith("D")
        check_place(chatops, asker.team, next(iter(chatops.channels), "") if own else asker.channel)

    def read(self, asker: Asker, text: str, at: datetime) -> Command | Complaint:
        """The command, or why it is none; raises ForkyardError when Slack cannot be asked for a zone that it needs."""
        found = self.read_now(asker, text, at)
        if found is None:
            found = parse(text, at, self._directory.zone(asker.id), list(self._load().services))
        if isinstance(found, Complaint):
            self.note_complaint(asker, text, found)
        return found

    def read_now(self, asker: Asker, text: str, at: datetime) -> Command | Complaint | None:
        """The same without asking anybody; None when it needs a zone that is not known yet."""
        services, known = list(self._load().services), self._directory.known_zone(asker.id)
        found = parse(text, at, known or "Z", services)
        depends = known is None and parse(text, at, _ELSEWHERE, services) != found
        return None if depends else found

    def note_complaint(self, asker: Asker, text: str, complaint: Complaint) -> None:
        """Put on record what was no command."""
        entry = make_entry(asker, "command", text)
        self._store.note(replace(entry, decision="not understood", detail=shorten(complaint.text, LONGEST_RAW)))


def make_entry(asker: Asker, action: str, raw: str = "", service: str | None = None) -> Entry:
    """Make an entry about what somebody did."""
    where = f"{asker.team}/{asker.channel}" if asker.team else asker.channel
    # PostgreSQL takes no NUL in a text.
    shown = shorten(raw.replace("\x00", ""), LONGEST_RAW) if raw else ""
    return Entry(who=asker.id, action=action, where=where[:120], raw=shown, service=service)
