"""Frozen parents on disk, where no VM is needed: what sealing one promises."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from forkyard.hypervisors.qemu.machine import Machine
from forkyard.hypervisors.qemu.parents import FILES, MANIFEST, ParentStore

MACHINE = Machine("7.2.22", "pc-q35-7.2", "max", "tcg", "", 768)


def test_a_sealed_parents_name_and_manifest_are_on_the_disk_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "parents" / "game"
    directory.mkdir(parents=True)
    for file in FILES:
        (directory / file).touch()
    synced: dict[Path, bool] = {}

    def sync(descriptor: int) -> None:
        synced[Path(f"/proc/self/fd/{descriptor}").readlink()] = (directory / MANIFEST).exists()

    monkeypatch.setattr(os, "fsync", sync)
    store = ParentStore(directory.parent, tmp_path / "verified")
    store.seal("game", "game", "host", datetime(2030, 1, 1, tzinfo=UTC), MACHINE)
    # Both after the manifest was there: what is synced before says nothing of it.
    assert synced[directory]
    assert synced[directory.parent]
