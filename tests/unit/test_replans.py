"""When a request is planned once more, and how many at a time."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bot.replans import Replans
from forkyard.requests import Request, State

OLD = Request(
    id="a",
    service="game",
    target=4,
    requested_by="U1",
    requested_at=datetime.now(UTC) - timedelta(minutes=1),
    state=State.PLANNED,
)


class Workers:
    """Work that is done when a test says so."""

    def __init__(self) -> None:
        """Begin with none."""
        self.waiting: list[Callable[[], None]] = []

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        self.waiting.append(lambda: work(*arguments))


@pytest.fixture
def workers() -> Workers:
    return Workers()


def test_a_slow_look_is_waited_for_and_no_other_one_of_its_service_is_begun(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.replans.EVERY", 0.0)
    planned: list[str] = []
    replans = Replans(lambda row: planned.append(row.id), workers.submit)
    rows = [OLD, replace(OLD, id="b"), replace(OLD, id="c", service="shop")]
    for _ in range(5):
        replans.look(rows, recovering=False)
    assert len(workers.waiting) == 2
    for work in workers.waiting:
        work()
    assert planned == ["a", "c"]
    replans.look(rows, recovering=False)
    workers.waiting[-2]()
    # Whoever has waited longest comes first.
    assert planned == ["a", "c", "b"]


def test_a_look_that_fails_does_not_keep_the_next_one_from_being_begun(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.replans.EVERY", 0.0)

    def fail(row: Request) -> None:
        raise KeyError(row.id)

    replans = Replans(fail, workers.submit)
    replans.look([OLD], recovering=False)
    with pytest.raises(KeyError):
        workers.waiting.pop()()
    replans.look([OLD], recovering=False)
    assert len(workers.waiting) == 1


def test_what_is_fresh_is_left_to_whoever_took_it_unless_the_bot_has_just_begun(workers: Workers) -> None:
    replans = Replans(lambda _: None, workers.submit)
    fresh = replace(OLD, requested_at=datetime.now(UTC))
    replans.look([fresh, replace(OLD, id="b", state=State.AWAITING)], recovering=False)
    assert workers.waiting == []
    for _ in range(2):
        replans.look([fresh], recovering=True)
    assert len(workers.waiting) == 1
