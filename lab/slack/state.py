"""
The workspace: people, channels, messages, views, files. In memory, gone with the process, changed by one event loop.

Nothing here decides what is allowed: `methods` (for the app) and `people` (for the persons) do.
"""

import asyncio
import hmac
import secrets
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lab.slack.errors import refuse

Json = dict[str, Any]

TEAM = {"id": "T0LAB00001", "domain": "lab"}
APP_ID, BOT_ID, BOT_USER = "A0LABAPP01", "B0LABFYBOT", "U0LABFYBOT"
BOT_NAME = "forkyard"

SCOPES = frozenset(
    {
        *(
            "app_mentions:read",
            "channels:history",
            "channels:join",
            "channels:read",
            "chat:write",
            "commands",
            "files:read",
        ),
        *("files:write", "groups:history", "groups:read", "im:history", "im:write", "usergroups:read", "users:read"),
    }
)
"""What the app was given when it was installed."""

TRIGGER_SECONDS = 3.0
"""How long a trigger opens a view."""

RESPONSE_URL_SECONDS, RESPONSE_URL_USES = 1800.0, 5


@dataclass(frozen=True, slots=True)
class Person:
    """One member of the workspace."""

    id: str
    name: str
    role: str
    """For the reader of the page only; what a person may do is the bot's to decide."""
    zone: str
    offset: int
    """Seconds east of Greenwich, in winter."""


PEOPLE = (
    Person("U0LABANNA1", "anna", "requester", "Europe/Berlin", 3600),
    Person("U0LABBEN01", "ben", "approver", "America/New_York", -18000),
    Person("U0LABCARO1", "caro", "nobody", "Asia/Tokyo", 32400),
)

GROUPS = {"S0LABOPS01": ("fleet-approvers", ("U0LABBEN01",))}


@dataclass(slots=True)
class Message:
    """One message; an ephemeral one is kept too, for the one person who sees it."""

    ts: str
    channel: str
    user: str
    text: str
    blocks: list[Json]
    thread_ts: str | None = None
    edited: str | None = None
    files: list[str] = field(default_factory=list)
    only_for: str | None = None
    edits: int = 0

    def shape(self) -> Json:
        """The message as the app sees it."""
        shown: Json = {"type": "message", "ts": self.ts, "user": self.user, "text": self.text, "blocks": self.blocks}
        if self.user == BOT_USER:
            shown |= {"bot_id": BOT_ID, "app_id": APP_ID}
        if self.thread_ts:
            shown["thread_ts"] = self.thread_ts
        if self.edited:
            shown["edited"] = {"user": self.user, "ts": self.edited}
        return shown | ({"files": [{"id": file} for file in self.files]} if self.files else {})


@dataclass(slots=True)
class Channel:
    """One channel, or the app's conversation with one person."""

    id: str
    name: str
    members: set[str]
    archived: bool = False
    private: bool = False
    messages: list[Message] = field(default_factory=list)


@dataclass(slots=True)
class View:
    """One open modal, or one person's home tab."""

    id: str
    person: str
    content: Json
    hash: str
    previous: str | None = None

    def shape(self, values: Json | None = None) -> Json:
        """The view as the app sees it."""
        return self.content | {
            "id": self.id,
            "hash": self.hash,
            "team_id": TEAM["id"],
            "app_id": APP_ID,
            "bot_id": BOT_ID,
            "root_view_id": self.previous or self.id,
            "previous_view_id": self.previous,
            "state": {"values": values or {}},
        }


@dataclass(slots=True)
class StoredFile:
    """One file, promised and then uploaded."""

    id: str
    name: str
    length: int
    title: str = ""
    content: bytes | None = None


@dataclass(slots=True)
class Trigger:
    """What lets the app open a view, once and soon."""

    person: str
    expires: float
    used: bool = False


@dataclass(slots=True)
class ResponseUrl:
    """Where the app may answer one command or click."""

    channel: str
    person: str
    message: str | None
    expires: float
    uses: int = 0


@dataclass(slots=True)
class Faults:
    """What goes wrong at the moment because somebody asked for it."""

    down_until: float = 0.0
    limited_until: float = 0.0
    revoked: bool = False
    missing_scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the Web API, for whoever counts."""

    at: float
    method: str
    channel: str
    ts: str
    error: str


class Workspace:
    """All of it."""

    def __init__(self, *, bot_token: str, app_token: str, signing_secret: str) -> None:
        """Make a workspace with three people and two channels, the bot in the first one."""
        self.bot_token, self.app_token, self.signing_secret = bot_token, app_token, signing_secret
        self.people = {person.id: person for person in PEOPLE}
        self.version = 0
        self._changed = asyncio.Event()
        self._last_ts = 0
        self.reset()

    def reset(self) -> None:
        """Forget all that was said and done, and mend everything."""
        everyone = set(self.people)
        self.channels = {
            "C0LABFLEET": Channel("C0LABFLEET", "fleet", {*everyone, BOT_USER}),
            "C0LABOTHER": Channel("C0LABOTHER", "general", set(everyone)),
        }
        self.views: dict[str, View] = {}
        self.homes: dict[str, View] = {}
        self.files: dict[str, StoredFile] = {}
        self.triggers: dict[str, Trigger] = {}
        self.response_urls: dict[str, ResponseUrl] = {}
        self.faults = Faults()
        self.calls: deque[Call] = deque(maxlen=20000)
        self.complaints: list[str] = []
        """What the app asked for that this Slack does not know: each is a gap to be closed."""
        self.touch()

    def touch(self) -> None:
        """Note that something that a person can see has changed."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self, after: int, seconds: float) -> int:
        """Wait until the version is another than *after*, or the time is over; return the version."""
        if self.version == after:
            with suppress(TimeoutError):  # nothing happened, which is an answer too
                await asyncio.wait_for(self._changed.wait(), seconds)
        return self.version

    def next_ts(self) -> str:
        """A timestamp that no other message has."""
        self._last_ts = max(self._last_ts + 1, int(time.time() * 1_000_000))
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    def channel(self, channel_id: str) -> Channel:
        """The channel by id or name, or the refusal."""
        wanted = channel_id.removeprefix("#")
        found = next((one for one in self.channels.values() if wanted in {one.id, one.name}), None)
        return found or refuse("channel_not_found")

    def person(self, person_id: str) -> Person:
        """The person by id or name, or the refusal."""
        found = next((one for one in self.people.values() if person_id in {one.id, one.name}), None)
        return found or refuse("user_not_found")

    def direct(self, person: str) -> Channel:
        """The app's conversation with one person; made when it is not there."""
        channel_id = "D" + person[1:]
        return self.channels.setdefault(channel_id, Channel(channel_id, f"@{person}", {person, BOT_USER}))

    def message(self, channel: Channel, ts: str) -> Message:
        """The message, or the refusal."""
        found = next((message for message in channel.messages if message.ts == ts), None)
        return found or refuse("message_not_found")

    def new_trigger(self, person: str) -> str:
        """Make what lets the app open a view for the person."""
        trigger = f"{secrets.randbelow(10**12)}.{secrets.randbelow(10**9)}.{secrets.token_hex(16)}"
        self.triggers[trigger] = Trigger(person, time.time() + TRIGGER_SECONDS)
        return trigger

    def use_trigger(self, trigger_id: str) -> str:
        """Use the trigger up; returns whose it is."""
        trigger = self.triggers.get(trigger_id)
        if trigger is None:
            refuse("invalid_trigger_id")
        if time.time() > trigger.expires:
            refuse("expired_trigger_id")
        if trigger.used:
            refuse("exchanged_trigger_id")
        trigger.used = True
        return trigger.person

    def new_response_url(self, channel: str, person: str, message: str | None = None) -> str:
        """Make a token of a URL at which the app may answer."""
        token = secrets.token_urlsafe(18)
        self.response_urls[token] = ResponseUrl(channel, person, message, time.time() + RESPONSE_URL_SECONDS)
        return token

    def is_token(self, presented: str, wanted: str) -> bool:
        """Whether the token is the right one."""
        return hmac.compare_digest(presented.encode(), wanted.encode())


def new_id(prefix: str) -> str:
    """Make an id as Slack's look."""
    return prefix + secrets.token_hex(5).upper()[:9]
