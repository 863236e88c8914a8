"""Slack's rate limits: so many calls of a method in a minute; beyond, 429 with the seconds to wait."""

import math
import time
from collections import defaultdict, deque

from lab.slack.errors import refuse

WINDOW = 60.0

PER_MINUTE = {
    **dict.fromkeys(("usergroups.list", "usergroups.users.list", "conversations.list", "users.list"), 20),
    **dict.fromkeys(
        ("chat.update", "chat.delete", "conversations.info", "conversations.history", "conversations.join"), 50
    ),
    **dict.fromkeys(("chat.postEphemeral", "users.info", "views.open", "views.update", "views.publish"), 100),
    # One a second and channel, with short bursts let through.
    "chat.postMessage": 60,
}
"""The number that Slack promises at the least; the methods not listed here are not counted."""

BURST = {"chat.postMessage": 10}
"""Most calls within five seconds."""

BURST_WINDOW = 5.0


class Rates:
    """The calls of the last minute, by method, and for posting by channel."""

    def __init__(self) -> None:
        """Begin with none."""
        self._calls: dict[tuple[str, str], deque[float]] = defaultdict(deque)

    def count(self, method: str, channel: str) -> None:
        """Count one call; raises the refusal when it is one too many."""
        limit = PER_MINUTE.get(method)
        if limit is None:
            return
        calls = self._calls[method, channel if method == "chat.postMessage" else ""]
        now = time.monotonic()
        while calls and calls[0] <= now - WINDOW:
            calls.popleft()
        burst = BURST.get(method, limit)
        recent = [at for at in calls if at > now - BURST_WINDOW]
        if len(calls) >= limit:
            refuse("ratelimited", status=429, retry_after=_whole(calls[0] + WINDOW - now))
        if len(recent) >= burst:
            refuse("ratelimited", status=429, retry_after=_whole(recent[0] + BURST_WINDOW - now))
        calls.append(now)


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds))
