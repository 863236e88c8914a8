"""Waiting: what is transient is asked again, and what was wrong all the time is what is told."""

from collections.abc import Iterator
from datetime import timedelta
from threading import Event

import pytest

from forkyard.errors import PermanentError, Unavailable
from forkyard.waiting import patiently, wait_for

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


def test_news_has_the_next_look_at_once_and_news_of_before_is_forgotten() -> None:
    news, looks = Event(), list[bool]()
    news.set()

    def look() -> bool | None:
        looks.append(news.is_set())
        news.set()
        return True if len(looks) == 3 else None

    hour = timedelta(hours=1)
    assert wait_for(look, what="it", timeout=hour, interval=hour, slowest=hour, news=news)
    assert looks == [False, False, False]
