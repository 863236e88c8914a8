"""
Who asks: the person with the groups that they are in now, and their time zone.

Groups are asked for anew after a few seconds, so that a role which was taken away in Slack is gone. What cannot be
asked is not assumed: without Slack's answer a group gives nobody a role, and the person is told why.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from slack_sdk import WebClient

from bot.slack_api import call
from forkyard.errors import ForkyardError
from forkyard.roles import Person
from forkyard.settings import ChatopsSettings

logger = logging.getLogger(__name__)

GROUP_SECONDS, ZONE_SECONDS = 15.0, 3600.0


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who typed or clicked, and where."""

    id: str
    team: str
    channel: str
    """Empty in the home tab and in modals that were opened there."""
    response_url: str = ""
    trigger: str = ""


def read_asker(body: Mapping[str, Any]) -> Asker:
    """Who sent a command, a click or a form."""
    user, team = body.get("user"), body.get("team")
    channel = body.get("channel_id") or (body.get("channel") or {}).get("id", "")
    return Asker(
        id=str(user["id"] if isinstance(user, dict) else body.get("user_id", "")),
        team=str(team["id"] if isinstance(team, dict) else body.get("team_id", "")),
        channel=str(channel),
        response_url=str(body.get("response_url") or ""),
        trigger=str(body.get("trigger_id") or ""),
    )


class Directory:
    """What Slack knows about people, remembered for a while."""

    def __init__(self, client: WebClient, chatops: Callable[[], ChatopsSettings]) -> None:
        """Ask *client* for the groups that the roles of *chatops* name."""
        self._client, self._chatops = client, chatops
        self._lock = Lock()
        self._groups: dict[str, tuple[float, frozenset[str]]] = {}
        self._zones: dict[str, tuple[float, str]] = {}

    def person(self, user: str) -> Person:
        """The person, with those of the roles' groups that they are in."""
        named = {group for role in self._chatops().roles.values() for group in role.groups}
        known = {group: self._members(group) for group in named}
        inside = frozenset(group for group, members in known.items() if members is not None and user in members)
        return Person(user, inside, unsure=any(members is None for members in known.values()))

    def zone(self, user: str) -> str:
        """The person's time zone as Slack knows it; raises ForkyardError when it cannot be asked."""
        known = self.known_zone(user)
        if known is not None:
            return known
        found = call("users.info", self._client.users_info, user=user)
        zone = str((found.get("user") or {}).get("tz") or "Z")
        with self._lock:
            self._zones[user] = (time.monotonic() + ZONE_SECONDS, zone)
        return zone

    def known_zone(self, user: str) -> str | None:
        """The zone if it was asked for lately: without any call."""
        with self._lock:
            known = self._zones.get(user)
        return known[1] if known is not None and known[0] > time.monotonic() else None

    def _members(self, group: str) -> frozenset[str] | None:
        now = time.monotonic()
        with self._lock:
            known = self._groups.get(group)
        if known is not None and known[0] > now:
            return known[1]
        try:
            answer = call("usergroups.users.list", self._client.usergroups_users_list, usergroup=group)
            members = frozenset(str(user) for user in answer.get("users") or ())
        except ForkyardError as error:
            logger.warning("group %s: nobody counts as its member now: %s", group, error)
            return None
        with self._lock:
            self._groups[group] = (now + GROUP_SECONDS, members)
        return members
