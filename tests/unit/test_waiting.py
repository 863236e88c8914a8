"""Waiting: what is transient is asked again, and what was wrong all the time is what is told."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from forkyard.errors import PermanentError, Unavailable
from forkyard.waiting import patiently

SOON = timedelta(seconds=0.2)


def raising(*errors: Exception) -> Iterator[Exception]:
    """One after the other, the last one again and again."""
    yield from errors
    while True:
        yield errors[-1]


def test_what_is_transient_is_asked_again_until_there_is_an_answer() -> None:
    left = [Unavailable("no leader"), Unavailable("no leader")]

    def call() -> str | None:
        if left:
            raise left.pop()
        return None  # an answer as good as any

    assert patiently(call, timeout=SOON) is None
    assert not left


def test_what_stays_wrong_is_told_as_it_is() -> None:
    cause = OSError("refused")
    errors = raising(Unavailable("no leader"), Unavailable("away"))

    def call() -> None:
        raise next(errors) from cause

    with pytest.raises(Unavailable, match="away") as caught:
        patiently(call, timeout=SOON)
    assert caught.value.__cause__ is cause


def test_what_is_wrong_for_good_is_not_asked_again() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        message = "no"
        raise PermanentError(message)

    with pytest.raises(PermanentError):
        patiently(call, timeout=SOON)
    assert calls == [1]
