"""
Ask through the load balancer as a player does: each time by a new connection, until every server has answered.

A few ask at the same time, so that one server that hangs does not hide the others.
"""

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import cast
from urllib.parse import SplitResult, urlsplit

_ASKERS, _MOST_ASKERS = 3, 8
_FEW = 32
"""Up to so many servers are asked for gently; of more, each comes so seldom that pauses would take most of the time."""
_REQUEST_SECONDS = 10.0
_PAUSE_SECONDS = 0.02
"""Between two questions of one asker: the answers cost the same processors that fork the children."""


def probe_servers(url: str, service: str, wanted: frozenset[str], *, timeout: timedelta) -> dict[str, float]:
    """Seconds until the first good answer of each of *wanted*; what never answered is missing."""
    begun = time.monotonic()
    deadline = begun + timeout.total_seconds()
    answered: dict[str, float] = {}
    done = threading.Event()
    place = urlsplit(url)
    askers = min(_MOST_ASKERS, _ASKERS + len(wanted) // (4 * _FEW))
    pause = _PAUSE_SECONDS * min(1.0, _FEW / max(1, len(wanted)))

    def ask() -> None:
        while not done.is_set() and (left := deadline - time.monotonic()) > 0:
            name = _asked(place, service, min(left, _REQUEST_SECONDS))
            if name in wanted:
                answered.setdefault(name, time.monotonic() - begun)
            if answered.keys() >= wanted:
                done.set()
            done.wait(pause)

    if wanted:
        with ThreadPoolExecutor(max_workers=askers, thread_name_prefix="probe") as pool:
            for asker in [pool.submit(ask) for _ in range(askers)]:
                asker.result()
    return answered


def _asked(place: SplitResult, service: str, seconds: float) -> str | None:
    """The name of the server that gave a good answer, or None."""
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    # Not httpx: its client loads every certificate of the machine before the first question.
    connection = kind(place.hostname or "", place.port, timeout=seconds)
    try:
        connection.request("GET", place.path or "/", headers={"Host": service, "Accept": "application/json"})
        answer = connection.getresponse()
        body = json.loads(answer.read()) if answer.status == http.client.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    name: object = cast("dict[str, object]", body).get("child") if isinstance(body, dict) else None
    return name if isinstance(name, str) else None
