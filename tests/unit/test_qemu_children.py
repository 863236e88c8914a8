"""Children's stamps on disk, where no VM is needed: who has which address, and how often that is read."""

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from forkyard.hypervisors.qemu import children
from forkyard.hypervisors.qemu.children import ChildStore, Record
from forkyard.hypervisors.qemu.machine import Machine
from forkyard.hypervisors.qemu.parents import Frozen
from forkyard.hypervisors.qemu.records import read_record
from forkyard.model import Stamp
from forkyard.settings import QemuSettings, Settings

SOON = timedelta(seconds=5)
BEFORE = 1_750_000_000_123_456_789
"""Nanoseconds: long ago."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path / "state",
        run_dir=tmp_path / "run",
        qemu=QemuSettings(namespace=None, memory_reserve=0, network=IPv4Network("10.77.0.0/16")),
    )


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Give the files that are read from now on."""
    found: list[Path] = []

    def count(path: Path) -> dict[str, object] | None:
        found.append(path)
        return read_record(path)

    monkeypatch.setattr(children, "read_record", count)
    return found


def _allot(settings: Settings, name: str) -> Record:
    """Allot as another process does, which knows of nothing."""
    machine = Machine("7.2.22", "pc-q35-7.2", "max", "tcg", "", 1)
    parent = Frozen("game", "game", "host", datetime.now(UTC), machine, {}, "f", settings.state_dir)
    return ChildStore(settings, "host").allot(name, parent, Stamp("game", f"fork of {name}", "test", None))


def _date(settings: Settings, name: str, moment: int) -> None:
    os.utime(settings.state_dir / "vms" / name / "stamp.json", ns=(moment, moment))


def test_a_stamp_that_nobody_changed_is_read_once(settings: Settings, reads: list[Path]) -> None:
    store, names = ChildStore(settings, "host"), [f"game-{number}" for number in range(5)]
    made = [_allot(settings, name) for name in names]
    for name in names:
        _date(settings, name, BEFORE)
    assert store.list_records() == made
    reads.clear()
    assert store.list_records() == made
    assert reads == []


def test_what_another_process_changes_removes_or_makes_is_seen(settings: Settings) -> None:
    store, other = ChildStore(settings, "host"), ChildStore(settings, "host")
    kept, gone, again = (_allot(settings, name) for name in ("kept", "gone", "remade"))
    for name in ("kept", "gone", "remade"):
        _date(settings, name, BEFORE)
    assert store.list_records() == [gone, kept, again]
    other.restamp(kept, replace(kept.stamp, request_id="another"))
    other.remove("gone", timeout=SOON)
    other.remove("remade", timeout=SOON)
    remade, new = _allot(settings, "remade"), _allot(settings, "new")
    seen = store.list_records()
    assert [(r.name, r.address, r.stamp.request_id) for r in seen] == [
        ("kept", kept.address, "another"),
        ("new", new.address, "test"),
        ("remade", remade.address, "test"),
    ]
    assert len({kept.address, gone.address, again.address, remade.address, new.address}) == 5


@pytest.mark.parametrize("moment", [BEFORE, BEFORE // 10**9 * 10**9])
def test_a_stamp_that_may_change_again_within_the_same_tick_is_not_believed(
    settings: Settings, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record = ChildStore(settings, "host"), _allot(settings, "game-1")
    stamp = settings.state_dir / "vms" / "game-1" / "stamp.json"
    _date(settings, "game-1", moment)
    monkeypatch.setattr(time, "time_ns", lambda: moment + 9_000_000)
    assert store.list_records() == [record]
    # The same file at the same time, as a file system shows it that gives a number again at once.
    stamp.write_text(stamp.read_text().replace(record.address, "10.77.9.9"))
    _date(settings, "game-1", moment)
    assert [seen.address for seen in store.list_records()] == ["10.77.9.9"]
