"""QEMU's parents on disk, and the commands about them, where no VM is needed."""

from datetime import timedelta
from pathlib import Path

import pytest

import cli.parent
from cli.parent import run_remove
from forkyard.errors import InvalidRequest, NotFound
from forkyard.hypervisors.qemu.driver import QemuHypervisor
from forkyard.model import VmId
from forkyard.settings import Settings

SOON = timedelta(seconds=5)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", run_dir=tmp_path / "run")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as a file, for commands, which here need not be root's."""
    monkeypatch.setattr(cli.parent, "require_root", lambda _what: None)
    path = tmp_path / "forkyard.toml"
    path.write_text(f'state_dir = "{tmp_path}/state"\nrun_dir = "/tmp/forkyard-of-nobody"\n[services.game]\n')
    return path


@pytest.mark.parametrize("name", [".", "..", "../vms", "", "a/b", "/etc", ".hidden", "game\n", "x" * 65])
def test_what_is_no_name_of_a_parent_removes_nothing(settings: Settings, name: str) -> None:
    kept = [settings.state_dir / "parents" / "game" / "memory", settings.state_dir / "vms" / "game-a-1" / "stamp.json"]
    for file in kept:
        file.parent.mkdir(parents=True)
        file.touch()
    with pytest.raises(InvalidRequest, match="no parent's name"):
        QemuHypervisor(settings).remove_parent(VmId(name), timeout=SOON)
    assert all(file.exists() for file in kept)


def test_the_removal_of_a_parent_that_is_not_there_says_so(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound, match="there is no parent gmae"):
        run_remove(config, "gmae", yes=True, as_json=False)
    assert "removed" not in capsys.readouterr().out


def test_a_parent_that_is_there_is_removed(config: Path, settings: Settings) -> None:
    half_made = settings.state_dir / "parents" / "game"
    half_made.mkdir(parents=True)
    assert run_remove(config, "game", yes=True, as_json=True) == 0
    assert not half_made.exists()
