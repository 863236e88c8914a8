"""What `forkyard lab status` and the doctor say of a lab that is down."""

from pathlib import Path

import pytest

from cli.lab import LabState, PartState, run_status
from cli.lab_checks import check_lab
from forkyard.settings import Settings


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab that is down, and of which a parent is left on disk."""
    parts = {
        "consul": PartState(running=False, detail="no answer"),
        "parent of game": PartState(running=True, detail="", on_disk=True),
    }
    state = LabState("http://lb", "http://consul", "http://prefect", {"page": "http://slack"}, parts)
    monkeypatch.setattr("cli.lab.observe_lab", lambda _settings: state)


@pytest.mark.usefixtures("down")
def test_a_frozen_parent_is_on_disk_and_no_part_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "forkyard.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\n')
    assert run_status(config, as_json=False) == 1
    said = capsys.readouterr().out
    assert "0 of 1 parts run" in said
    (parent,) = (line for line in said.splitlines() if line.startswith("parent of game"))
    assert parent.rstrip().endswith("on disk")


@pytest.mark.usefixtures("down")
def test_a_lab_of_which_only_a_frozen_parent_is_left_is_down(settings_of_a_lab: Settings) -> None:
    (finding,) = check_lab(settings_of_a_lab)
    assert "is down" in str(finding)


@pytest.fixture
def settings_of_a_lab(tmp_path: Path) -> Settings:
    """Settings under which the lab is where forkyard looks."""
    return Settings(state_dir=tmp_path)
