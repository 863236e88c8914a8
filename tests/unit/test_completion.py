"""What a shell completes after TAB."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.completion import complete_bench, complete_parent, complete_request, complete_service
from forkyard.requests import Entry, Request
from forkyard.requests.store import open_store
from forkyard.settings import CONFIG_VARIABLE, load_settings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "forkyard.toml"
    path.write_text(f'state_dir = "{tmp_path}/state"\n[services.game]\n[services.shop]\n')
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    return path


def test_names_that_are_known_here_are_completed(config: Path) -> None:
    with open_store(load_settings(config)) as store:
        asked = datetime(2026, 11, 27, 5, tzinfo=UTC)
        request = Request(id="3fa9c1d2-x", service="game", target=4, requested_by="U1", requested_at=asked)
        store.add(request, Entry(who="U1", action="scale"))
    (config.parent / "state" / "parents" / "game").mkdir(parents=True)
    assert complete_service() == ["game", "shop"]
    assert complete_request() == [("3fa9c1", "game to 4: drafted")]
    assert complete_parent() == ["game"]
    assert "scale-4" in complete_bench()


@pytest.mark.usefixtures("config")
def test_where_nothing_is_there_yet_nothing_is_completed() -> None:
    assert (complete_request(), complete_parent()) == ([], [])


def test_a_broken_configuration_completes_nothing(config: Path) -> None:
    config.write_text("services = 3")
    assert (complete_service(), complete_request(), complete_parent()) == ([], [], [])
