"""
Follow several Consul queries at once, by blocking queries in a thread each.

While a query fails nothing is yielded: what was last seen stays in force. Threads end with the iteration.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any

from forkyard.errors import ForkyardError
from forkyard.registry.consul_client import ConsulClient

log = logging.getLogger(__name__)

WAIT = "3s"
"""How long Consul holds a query in which nothing changes. Bounds how long a stop or a half-open connection lasts."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 3.0
"""Seconds between tries while Consul is away."""
BREATH, LONGEST_BREATH = 0.001, 1.0
"""
Seconds per entry of an answer until the next question. While a thousand children register, each changes the answer:
asked at once each time, Consul would write, and we would read, a thousand times a megabyte.
"""


Query = Callable[[Any, dict[str, Any]], tuple[str, Any]]
"""One read that takes a blocking query's arguments, and answers its index and what it found."""


def watch_queries(
    client: ConsulClient, queries: Sequence[Query], *, name: str, stop: Event
) -> Iterator[tuple[Any, ...]]:
    """All answers now, and all again when any of them may have changed."""
    over = Event()
    changes: Queue[tuple[int, Any]] = Queue()
    threads = [
        Thread(target=_follow, args=(client, query, number, changes, (stop, over)), name=f"watch-{name}-{number}")
        for number, query in enumerate(queries)
    ]
    for thread in threads:
        thread.daemon = True  # a process that ends must not wait for a query
        thread.start()
    latest: dict[int, Any] = {}
    try:
        while not stop.is_set():
            try:
                number, found = changes.get(timeout=0.2)
            except Empty:
                continue
            latest[number] = found
            if len(latest) == len(queries):
                yield tuple(latest[number] for number in range(len(queries)))
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _follow(
    client: ConsulClient, query: Query, number: int, changes: Queue[tuple[int, Any]], ends: tuple[Event, Event]
) -> None:
    stop, over = ends
    index, pause = 0, FIRST_PAUSE
    while not (stop.is_set() or over.is_set()):
        blocking: dict[str, Any] = {"index": index, "wait": WAIT} if index else {}
        try:
            text, found = client.call(lambda c, blocking=blocking: query(c, blocking))  # type: ignore[misc]
        except ForkyardError as error:
            log.warning("consul is away; what was last seen stays in force: %s", error)
            # Begin anew: after a leader was lost, the old index may never come again.
            index = 0
            over.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            continue
        # Never 0, with which Consul would not block.
        pause, last, index = FIRST_PAUSE, index, max(1, int(text))
        if index < last:
            index = 0  # the index went backwards: a restored or renewed cluster
        if index != last:
            changes.put((number, found))
            over.wait(min(LONGEST_BREATH, BREATH * len(found or ())))
