"""What runs wrote down about their children is found again."""

from pathlib import Path

import pytest

from forkyard.history import read_seconds, write_history
from forkyard.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path)


def report(**children: dict[str, float]) -> dict[str, object]:
    return {"children": [{"name": name, "seconds": seconds} for name, seconds in children.items()]}


def test_the_children_of_several_runs_are_found(settings: Settings) -> None:
    write_history(settings, "game", "first", report(a={"forked": 0.5}, gone={"forked": 9.0}))
    write_history(settings, "game", "second", report(b={"forked": 0.25}))
    assert read_seconds(settings, "game", ["a", "b", "c"]) == {"a": {"forked": 0.5}, "b": {"forked": 0.25}}


def test_a_broken_record_is_passed_over(settings: Settings) -> None:
    write_history(settings, "game", "good", report(a={"forked": 0.5}))
    (settings.state_dir / "reports" / "game" / "bad.json").write_text("{")
    (settings.state_dir / "reports" / "game" / "odd.json").write_text('{"children": 3}')
    assert read_seconds(settings, "game", ["a"]) == {"a": {"forked": 0.5}}


def test_without_any_record_nothing_is_known(settings: Settings) -> None:
    assert read_seconds(settings, "game", ["a"]) == {}
