"""
How many children are on their way at the same time.

A child that wakes costs processor time until it serves, and some from then on. Brought up all at once they take it
from each other: on two cores without KVM eight children took a quarter longer together than a few at a time.
"""

from threading import Condition, Event

_LOOK = 0.5
"""Seconds between looks at a request's end while a batch waits for its turn."""


class Pace:
    """Slots for batches between their fork and their last check; entered and left by label, repeats do nothing."""

    def __init__(self) -> None:
        """Let everybody in until `limit` is called."""
        self._slots: int | None = None
        self._inside: set[str] = set()
        self._changed = Condition()

    def limit(self, slots: int) -> None:
        """Let at most *slots* batches in."""
        with self._changed:
            self._slots = slots
            self._changed.notify_all()

    def enter(self, label: str, *, stop: Event) -> None:
        """Wait for a slot; return without one when *stop* is set, because nothing is begun any more then."""
        with self._changed:
            while not self._is_open(label) and not stop.is_set():
                self._changed.wait(_LOOK)
            self._inside.add(label)

    def leave(self, label: str) -> None:
        """Give the slot back."""
        with self._changed:
            self._inside.discard(label)
            self._changed.notify_all()

    def _is_open(self, label: str) -> bool:
        return self._slots is None or label in self._inside or len(self._inside) < self._slots
