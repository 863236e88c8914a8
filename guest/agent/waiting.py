"""The agent's one way to wait for a state of the machine that nobody announces."""

import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

from guest.agent.errors import AgentError

T = TypeVar("T")


def wait_for(
    look: Callable[[], T | None], *, what: str, timeout: float, interval: float = 0.02, stop: Event | None = None
) -> T:
    """
    Repeat *look* until it gives a value; the pause grows from *interval* to half a second.

    Raises:
        AgentError: *timeout* seconds passed, or *stop* was set; the message names *what*.
    """
    deadline = time.monotonic() + timeout
    stop = stop or Event()
    while True:
        value = look()
        if value is not None:
            return value
        left = deadline - time.monotonic()
        if left <= 0 or stop.wait(min(interval, left)):
            text = f"{what}: not within {timeout:g} s"
            raise AgentError(text)
        interval = min(interval * 1.5, 0.5)
