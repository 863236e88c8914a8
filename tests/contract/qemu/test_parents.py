"""What becomes of QEMU's frozen parents and of what waits for their forks, when the host or the image changes."""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

import lab.parent
from forkyard.errors import PermanentError, Unsupported
from forkyard.hypervisors.qemu.accelerator import find_kvm_problem
from forkyard.hypervisors.qemu.instance import read_instance
from forkyard.hypervisors.qemu.launcher import qemu_version
from forkyard.hypervisors.qemu.qmp import Qmp
from forkyard.model import ForkSpec
from forkyard.settings import ServiceSettings, Settings
from forkyard.waiting import wait_for
from guest.image.recipe import GuestImage
from lab.parent import ensure_parent, record_parent
from tests.support.small_vm import (
    PARENT,
    PATIENCE,
    SERVICE,
    SmallWorld,
    fork,
    make_identity,
    make_stamp,
    put_qemu_in_path,
)

# After an upgrade of QEMU


@pytest.fixture
def upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the host's QEMU be another release."""
    return _upgrade(tmp_path, monkeypatch)


def _upgrade(directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let QEMU be another release of the same line: a real one that says another version of itself."""
    line = qemu_version().rpartition(".")[0]
    qemu = shutil.which("qemu-system-x86_64")
    script = f'case "$1" in --version) echo \'QEMU emulator version {line}.99\';; *) exec {qemu} "$@";; esac'
    put_qemu_in_path(directory, monkeypatch, script)
    return f"{line}.99"


@pytest.mark.usefixtures("upgrade")
def test_a_parent_of_another_qemu_is_refused_before_the_first_fork_with_a_way_out(copy: SmallWorld) -> None:
    way = r"its QEMU is .*forkyard parent remove game.*forkyard parent build game"
    with pytest.raises(Unsupported, match=way):
        copy.open().freeze(PARENT, timeout=PATIENCE)
    with pytest.raises(Unsupported, match=way):
        copy.open().start_parent(copy.image, PARENT, SERVICE, timeout=PATIENCE)


def test_the_lab_makes_a_parent_of_another_qemu_anew(lab_settings: Settings, copy: SmallWorld, upgrade: str) -> None:
    told: list[str] = []
    assert ensure_parent(lab_settings, SERVICE, told.append)
    assert f"this host's is '{upgrade}'; made anew" in " ".join(told)
    assert sum("under TCG" in line for line in told) == (1 if find_kvm_problem(lab_settings.run_dir) else 0)
    assert copy.open().find_differences(PARENT) == ()
    assert not ensure_parent(lab_settings, SERVICE, told.append)


def test_the_lab_keeps_a_parent_of_another_qemu_while_it_has_children(
    lab_settings: Settings, copy: SmallWorld, request: pytest.FixtureRequest
) -> None:
    fork(copy.open(), "game-a-1")
    request.getfixturevalue("upgrade")
    told: list[str] = []
    assert not ensure_parent(lab_settings, SERVICE, told.append)
    assert "1 children live on the old parent: kept" in told[-1]


def test_the_lab_leaves_a_parent_of_another_qemu_that_somebody_else_made(
    lab_settings: Settings, copy: SmallWorld, request: pytest.FixtureRequest
) -> None:
    shutil.rmtree(lab_settings.state_dir / "lab")
    request.getfixturevalue("upgrade")
    with pytest.raises(Unsupported, match="its QEMU is"):
        ensure_parent(lab_settings, SERVICE, lambda _: None)
    assert len(copy.open().list_parents()) == 1


def test_a_parent_that_is_frozen_after_the_upgrade_is_of_the_qemu_that_ran_it(copy: SmallWorld, tmp_path: Path) -> None:
    ran = qemu_version()
    parent = copy.start_parent("other", freeze=False)
    try:
        with pytest.MonkeyPatch.context() as patched:
            upgraded = _upgrade(tmp_path, patched)
            with pytest.raises(Unsupported, match=f"its QEMU is '{ran}', this host's is '{upgraded}'"):
                copy.open().freeze(parent, timeout=PATIENCE)
        assert copy.open().find_differences(parent) == ()
    finally:
        copy.open().remove_parent(parent, timeout=PATIENCE)


def test_a_parent_whose_machine_is_not_on_record_is_not_frozen(copy: SmallWorld) -> None:
    parent = copy.start_parent("other", freeze=False)
    record = copy.settings.state_dir / "parents" / parent / "parent.json"
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "machine"}))
    with pytest.raises(PermanentError, match=r"machine.*forkyard parent remove other.*forkyard parent build game"):
        copy.open().freeze(parent, timeout=PATIENCE)
    copy.open().remove_parent(parent, timeout=PATIENCE)


@pytest.fixture
def lab_settings(copy: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Give the lab's settings for the copy, and the small image in place of the game's."""
    directory = copy.image
    kernel, initrd, disk = (directory / name for name in ("vmlinuz", "initrd.img", "disk.qcow2"))
    image = GuestImage(directory, kernel, initrd, disk, kernel_cmdline="", memory_mib=80, fingerprint="small")
    monkeypatch.setattr(lab.parent, "_image", lambda *_: image)
    qemu = replace(copy.settings.qemu, standbys=1)
    services = {SERVICE: ServiceSettings(parent=PARENT, memory_mib=80)}
    settings = replace(copy.settings, qemu=qemu, services=services)
    (frozen,) = copy.open().list_parents()
    record_parent(settings, frozen, image)
    return settings


# Freezes that were killed on their way


def _stop(qmp: Qmp, _state: Path) -> None:
    qmp.execute("stop", timeout=PATIENCE)


def _stop_and_save(qmp: Qmp, state: Path) -> None:
    _stop(qmp, state)
    qmp.save_state(state, timeout=PATIENCE)


@pytest.mark.parametrize("done", [_stop, _stop_and_save])
def test_a_freeze_that_was_killed_on_its_way_is_finished_by_the_next_and_by_a_build_before_it(
    copy: SmallWorld, done: Callable[[Qmp, Path], None]
) -> None:
    parent = copy.start_parent("other", freeze=False)
    directory = copy.settings.state_dir / "parents" / parent
    instance = read_instance(copy.settings.run_dir, directory)
    assert instance
    with Qmp(instance.qmp, timeout=PATIENCE) as qmp:
        done(qmp, directory / "state")
    hypervisor = copy.open()
    try:
        began = time.monotonic()
        hypervisor.start_parent(copy.image, parent, SERVICE, timeout=PATIENCE)
        assert time.monotonic() - began < PATIENCE.total_seconds() / 2
        hypervisor.freeze(parent, timeout=PATIENCE)
        hypervisor.verify(parent)
        placement = replace(hypervisor.placements(SERVICE)[0], parent=parent)
        vm = hypervisor.fork(ForkSpec("game-a-1", make_stamp(), placement), timeout=PATIENCE)
        assert hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE).proved
        hypervisor.destroy(vm.id, timeout=PATIENCE)
    finally:
        copy.clear()
        hypervisor.remove_parent(parent, timeout=PATIENCE)


# Processes that wait for the next forks of a parent


def test_two_that_start_ahead_at_once_start_no_more_than_was_asked_for(copy: SmallWorld) -> None:
    with ThreadPoolExecutor(max_workers=3) as pool:
        counts = list(pool.map(lambda _: copy.open().warm(PARENT, 2, timeout=PATIENCE), range(3)))
    assert counts == [2, 2, 2]
    assert len(copy.processes()) == 2


def test_a_parent_is_not_removed_while_processes_are_started_for_its_forks(copy: SmallWorld) -> None:
    with ThreadPoolExecutor(max_workers=1) as pool:
        warming = pool.submit(copy.open().warm, PARENT, 3, timeout=PATIENCE)
        wait_for(lambda: copy.processes() or None, what="the first process", timeout=PATIENCE)
        assert copy.open().remove_parent(PARENT, timeout=PATIENCE)
        warming.result()
    assert copy.processes() == []
    assert copy.files() == []


def test_a_removal_that_is_refused_ends_nothing(copy: SmallWorld) -> None:
    hypervisor = copy.open()
    fork(hypervisor, "game-a-1")
    hypervisor.warm(PARENT, 1, timeout=PATIENCE)
    before = copy.processes()
    with pytest.raises(PermanentError, match="game-a-1"):
        hypervisor.remove_parent(PARENT, timeout=PATIENCE)
    assert copy.processes() == before


def test_a_living_process_that_waits_for_a_parent_that_is_gone_is_found_and_ended(copy: SmallWorld) -> None:
    hypervisor = copy.open()
    hypervisor.warm(PARENT, 1, timeout=PATIENCE)
    assert hypervisor.list_strays(older_than=timedelta(0)) == []
    shutil.rmtree(copy.settings.state_dir / "parents" / PARENT)
    assert hypervisor.list_strays(older_than=timedelta(hours=1)) == []
    (stray,) = hypervisor.list_strays(older_than=timedelta(0))
    assert stray.what == "a standby whose parent is gone"
    hypervisor.remove_stray(stray)
    assert copy.processes() == []
