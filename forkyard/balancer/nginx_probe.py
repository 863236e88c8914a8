"""
Ask through the load balancer as a player does: each time by a new connection, until every server has answered.

A few ask at the same time, so that one server that hangs does not hide the others.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx

_ASKERS = 3
_REQUEST_SECONDS = 10.0
_PAUSE_SECONDS = 0.02
"""Between two questions of one asker: the answers cost the same processors that fork the children."""


def probe_servers(url: str, service: str, wanted: frozenset[str], *, timeout: timedelta) -> dict[str, float]:
    """Seconds until the first good answer of each of *wanted*; what never answered is missing."""
    begun = time.monotonic()
    deadline = begun + timeout.total_seconds()
    answered: dict[str, float] = {}
    done = threading.Event()

    def ask() -> None:
        # No keep-alive, no proxy from the environment: the balancer chooses a server anew for each question.
        limits = httpx.Limits(max_keepalive_connections=0)
        headers = {"Host": service, "Accept": "application/json"}
        with httpx.Client(limits=limits, headers=headers, trust_env=False) as client:
            while not done.is_set() and (left := deadline - time.monotonic()) > 0:
                name = _asked(client, url, min(left, _REQUEST_SECONDS))
                if name in wanted:
                    answered.setdefault(name, time.monotonic() - begun)
                if answered.keys() >= wanted:
                    done.set()
                done.wait(_PAUSE_SECONDS)

    if wanted:
        with ThreadPoolExecutor(max_workers=_ASKERS, thread_name_prefix="probe") as pool:
            for asker in [pool.submit(ask) for _ in range(_ASKERS)]:
                asker.result()
    return answered


def _asked(client: httpx.Client, url: str, seconds: float) -> str | None:
    """The name of the server that gave a good answer, or None."""
    try:
        answer = client.get(url, timeout=seconds)
        body = answer.json() if answer.is_success else None
    except (httpx.HTTPError, ValueError):
        return None
    name = body.get("child") if isinstance(body, dict) else None
    return name if isinstance(name, str) else None
