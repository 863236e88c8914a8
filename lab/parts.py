"""
Parts of a world that are started in parallel where they may, and stopped in the reverse order.

Each part can be started when it runs already (nothing happens) and stopped when it does not.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from forkyard.errors import ForkyardError

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that the lab runs."""

    name: str
    start: Callable[[], bool]
    """Starts it unless it runs; says whether anything was done."""
    trouble: Callable[[], str]
    """What is wrong with it; empty text when nothing is."""
    stop: Callable[[], None]
    after: tuple[str, ...] = field(default=())
    """Parts that must run first."""
    ports: Callable[[], Sequence[int]] = tuple
    """Ports of 127.0.0.1 that its start would open now: none while it runs."""
    on_disk: bool = False
    """Whether it is nothing but files, which stay when the lab is down."""


def start_parts(parts: Sequence[Part], progress: Progress) -> None:
    """
    Start each part as soon as those before it run; they must be listed in an order in which they could start.

    Raises:
        ForkyardError: the first one's, once every part that was begun has ended; what did start goes on.
    """
    begun: dict[str, Future[bool]] = {}
    with ThreadPoolExecutor(max_workers=len(parts), thread_name_prefix="lab") as pool:
        for part in parts:
            before = [begun[name] for name in part.after if name in begun]
            begun[part.name] = pool.submit(_start, part, before, progress)
    for future in begun.values():
        future.result()


def _start(part: Part, before: Sequence[Future[bool]], progress: Progress) -> bool:
    """Start it once those before it have started; False when one of them has not, whose own reason tells why."""
    wait(before)
    if any(future.exception() or not future.result() for future in before):
        return False
    started = time.monotonic()
    done = part.start()
    seconds = time.monotonic() - started
    progress(f"{part.name}: started in {seconds:.1f} s" if done else f"{part.name}: runs already")
    return True


def wanted_ports(parts: Sequence[Part]) -> list[tuple[str, int]]:
    """Say of each port that a start of these parts would open whose it is."""
    return [(part.name, port) for part in parts for port in part.ports()]


def stop_parts(parts: Sequence[Part], progress: Progress) -> None:
    """Stop every part, the last one first; raises the first error after all were tried."""
    failures: list[ForkyardError] = []
    for part in reversed(parts):
        try:
            part.stop()
        except ForkyardError as error:
            failures.append(error)
            progress(f"{part.name}: {error}")
        else:
            progress(f"{part.name}: stopped")
    if failures:
        raise failures[0]
