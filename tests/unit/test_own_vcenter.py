"""The lab under vSphere: what it lays over forkyard.toml, and what it refuses."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from forkyard.errors import InvalidRequest
from forkyard.settings import lab_file, load_settings
from lab.own_vcenter import choose_hypervisor, find_door, make_vcenter


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """Give a forkyard.toml for QEMU with directories of its own; a socket's path must be short, so not pytest's."""
    path = tmp_path / "forkyard.toml"
    with TemporaryDirectory(prefix="fyo") as run:
        path.write_text(f'run_dir = "{run}"\n[services.game]\nmaximum = 12\n')
        yield path


def test_every_command_follows_the_lab_to_its_vcenter(config: Path) -> None:
    choose_hypervisor(load_settings(config), "vsphere", 64)
    settings = load_settings(config)
    game = settings.service("game")
    assert (game.hypervisor, game.parent) == ("vsphere", "game-parent-*")
    assert game.maximum >= 1000
    assert game.step >= 1000
    assert settings.lab.hosts == 64
    assert settings.vsphere.url == f"https://127.0.0.1:{settings.lab.vcenter_port}/sdk"
    assert settings.vsphere.password_file is not None
    assert settings.vsphere.password_file.stat().st_mode & 0o077 == 0
    assert settings.vsphere.ca_file == make_vcenter(settings).directory / "state" / "vcenter.pem"
    assert find_door(settings) is None
    lab_file(settings).unlink()
    assert load_settings(config).service("game").hypervisor == "qemu"


def test_a_lab_that_was_not_asked_otherwise_is_the_files(config: Path) -> None:
    choose_hypervisor(load_settings(config), None, None)
    choose_hypervisor(load_settings(config), "qemu", None)
    assert load_settings(config).service("game").hypervisor == "qemu"


@pytest.mark.parametrize(
    ("hypervisor", "hosts", "word"),
    [("hyperv", None, "qemu and vsphere"), ("qemu", 4, "--hosts"), (None, 4, "--hosts")],
)
def test_what_the_lab_cannot_do_is_refused(config: Path, hypervisor: str | None, hosts: int | None, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        choose_hypervisor(load_settings(config), hypervisor, hosts)


def test_another_hypervisor_comes_only_after_the_lab_is_down(config: Path) -> None:
    choose_hypervisor(load_settings(config), "vsphere", 4)
    with pytest.raises(InvalidRequest, match="forkyard lab down"):
        choose_hypervisor(load_settings(config), "qemu", None)
