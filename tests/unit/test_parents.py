"""QEMU's parents on disk, and the commands about them, where no VM is needed."""

import json
from dataclasses import fields, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

import cli.parent
from cli.parent import run_list, run_remove
from forkyard.errors import InvalidRequest, NotFound, VerificationFailed
from forkyard.hypervisors.qemu.driver import QemuHypervisor
from forkyard.model import FrozenParent, VmId
from forkyard.settings import QemuSettings, Settings

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


# Errors that say what to do


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff"])
def test_a_manifest_that_cannot_be_read_is_broken_and_not_absent(settings: Settings, content: str) -> None:
    manifest = settings.state_dir / "parents" / "game" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(content, encoding="latin-1")
    with pytest.raises(VerificationFailed, match=r"manifest\.json is broken .*forkyard parent remove game"):
        QemuHypervisor(settings).freeze(VmId("game"), timeout=SOON)


def test_the_memory_of_a_parent_whose_manifest_is_broken_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    parent = settings.state_dir / "parents" / "game"
    parent.mkdir(parents=True)
    for name in ("manifest.json", "memory", "disk.qcow2"):
        (parent / name).write_text("not JSON")
    for name in ("vmlinuz", "initrd.img", "disk.qcow2"):
        (tmp_path / name).touch()
    (tmp_path / "image.json").write_text('{"fingerprint": "f", "memory_mib": 80, "kernel_cmdline": ""}')
    within = replace(settings, qemu=QemuSettings(namespace=None, accelerator="tcg"))
    with pytest.raises(VerificationFailed, match="broken"):
        QemuHypervisor(within).start_parent(tmp_path, "game", "game", timeout=SOON)
    assert (parent / "memory").exists()
    assert (parent / "disk.qcow2").exists()


def test_a_parent_that_is_not_there_is_told_with_the_command_that_builds_it(settings: Settings) -> None:
    for action in (partial(QemuHypervisor.freeze, timeout=SOON), QemuHypervisor.verify):
        with pytest.raises(NotFound, match=r"not there.*forkyard parent build SERVICE.*forkyard parent freeze game"):
            action(QemuHypervisor(settings), VmId("game"))


def test_a_parent_that_stopped_before_it_was_frozen_is_told_with_the_command_that_starts_it(settings: Settings) -> None:
    parent = settings.state_dir / "parents" / "red"
    parent.mkdir(parents=True)
    (parent / "parent.json").write_text('{"service": "shop"}')
    with pytest.raises(NotFound, match="forkyard parent build shop"):
        QemuHypervisor(settings).freeze(VmId("red"), timeout=SOON)


# What there is


def test_a_parent_that_was_left_half_made_is_listed_with_every_key_of_a_frozen_one(
    config: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = settings.state_dir / "parents" / "game"
    parent.mkdir(parents=True)
    (parent / "parent.json").write_text('{"service": "game", "memory_mib": 80}')
    assert run_list(config, as_json=True) == 0
    (row,) = json.loads(capsys.readouterr().out)["parents"]
    assert (row["name"], row["service"], row["memory_bytes"]) == ("game", "game", 80 << 20)
    assert (row["frozen"], row["state"]) == (False, "half made")
    assert {field.name for field in fields(FrozenParent)} <= set(row)


def test_the_table_of_parents_shows_what_is_not_frozen(
    config: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    (settings.state_dir / "parents" / "game").mkdir(parents=True)
    assert run_list(config, as_json=False) == 0
    said = capsys.readouterr().out
    assert "0 frozen parents, 1 not frozen" in said
    assert "half made" in said
