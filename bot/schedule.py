"""The pre-sale calendar: brought to what it says now and then, and what the channel should know of it is said there."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from slack_sdk import WebClient

from bot.blocks import clean, clean_naming
from bot.memory import Memory
from bot.slack_api import ChannelGone, call
from forkyard.errors import CredentialsRejected, ForkyardError, InvalidRequest, TransientError
from forkyard.requests import Notice
from forkyard.requests.calendar import tick
from forkyard.requests.calendar_file import CalendarFile
from forkyard.requests.desk import Desk
from forkyard.settings import Settings

logger = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds between two looks; a step is on record two days before its moment, and Prefect begins it."""


class Schedule:
    """Keeps the requests as the calendar wants them."""

    def __init__(
        self,
        load: Callable[[], Settings],
        config: Path | None,
        desk: Desk,
        client: WebClient,
        memory: Memory,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read the calendar that belongs to *config*, at the moments that *clock* tells."""
        self._load, self._desk, self._client, self._memory = load, desk, client, memory
        self._calendar, self._clock = CalendarFile(config), clock
        self._lock = Lock()
        self._complaint = ""

    def look(self) -> None:
        """Bring the requests to what the calendar says; one look at a time."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._look()
        except ForkyardError as error:
            logger.warning("the calendar could not be followed: %s", error)
        finally:
            self._lock.release()

    def _look(self) -> None:
        settings, now = self._load(), self._clock()
        channel = next(iter(settings.chatops.channels), "")
        try:
            calendar = self._calendar.load(self._desk.store, settings, now=now)
        except InvalidRequest as error:
            # Told once, and again when it is wrong in another way: what was on record before stays as it is.
            if str(error) != self._complaint:
                self._say(channel, f":warning: {clean(str(error))}", "")
                self._complaint = str(error)
            calendar = None
        else:
            self._complaint = ""
        try:
            tick(self._desk, settings, calendar, now=now, channel=channel)
        finally:
            # What an earlier look, the sweep, a run or the command line left to be told, too.
            for notice in self._desk.store.list_notices():
                if self._tell(channel, notice):
                    self._desk.store.mark_told(notice.key)

    def _tell(self, channel: str, notice: Notice) -> bool:
        shown = self._memory.find(notice.request.id)
        if shown is not None and shown.ts:
            return self._say(shown.channel, clean_naming(notice.text), shown.ts)
        return self._say(channel, clean_naming(notice.text), "")

    def _say(self, channel: str, text: str, thread: str) -> bool:
        """Whether it need not be said again: it was said, or Slack refuses it for good."""
        where = {"thread_ts": thread} if thread else {}
        others = [] if thread else [name for name in self._load().chatops.channels if name != channel]
        for place in [channel, *others]:
            try:
                call("chat.postMessage", self._client.chat_postMessage, channel=place, text=text[:3000], **where)
            except ChannelGone as error:
                logger.warning("%s was not told %r: %s", place, text[:80], error)
                continue
            except (TransientError, CredentialsRejected) as error:
                logger.warning("the channel is told later %r: %s", text[:80], error)
                return False
            except ForkyardError as error:
                logger.warning("the channel was not told %r: %s", text[:80], error)
            return True
        return False
