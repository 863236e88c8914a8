"""Whether KVM is used, on a host that seems to have it, with a QEMU that does as each test wants."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.lab_checks import check_parents
from forkyard.errors import Unavailable, Unsupported
from forkyard.hypervisors.qemu import accelerator, records
from forkyard.hypervisors.qemu.accelerator import SILENT, choose_accelerator, explain_slowness, find_kvm_problem
from forkyard.hypervisors.qemu.launcher import Launcher
from forkyard.hypervisors.qemu.machine import Machine
from forkyard.hypervisors.qemu.parents import FILES, Frozen, ParentStore
from forkyard.settings import QemuSettings, ServiceSettings, Settings
from tests.support.small_vm import put_qemu_in_path

KVMS = Machine("7.2.22", "pc-q35-7.2", "host", "kvm", "A processor", 80)
SPEAKS, IS_SILENT, REFUSES = "echo SeaBIOS", "exec sleep 60", "echo no such module >&2; exit 1"

Qemu = Callable[[str], None]


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Qemu]:
    """Give the way to say what QEMU does when it is tried under KVM; each try adds a line to `tries`."""
    processor, kvm = tmp_path / "cpuinfo", tmp_path / "kvm"
    processor.write_text("model name\t: A processor\nflags\t\t: fpu vmx\n")
    kvm.touch()
    monkeypatch.setattr(accelerator, "_CPUINFO", processor)
    monkeypatch.setattr(accelerator, "_KVM", kvm)
    monkeypatch.setattr(accelerator, "TRIAL", timedelta(seconds=1))

    def put(doing: str) -> None:
        version = "case $1 in --version) echo QEMU emulator version 7.2.22; exit;; esac"
        put_qemu_in_path(tmp_path, monkeypatch, f"{version}\necho >>{tmp_path}/tries\n{doing}")

    find_kvm_problem.cache_clear()
    yield put
    find_kvm_problem.cache_clear()


def _check(tmp_path: Path, wanted: str = "auto") -> None:
    """Check a parent that was frozen under KVM here."""
    frozen = Frozen("game", "game", "host", datetime.now(UTC), KVMS, {}, "f", tmp_path)
    Launcher(Settings(run_dir=tmp_path, qemu=QemuSettings(namespace=None, accelerator=wanted))).check_machine(frozen)


@pytest.mark.parametrize("wanted", ["auto", "kvm"])
def test_a_silent_guest_refuses_a_parent_of_kvm_for_this_moment_only(qemu: Qemu, tmp_path: Path, wanted: str) -> None:
    qemu(IS_SILENT)
    for _ in range(2):
        with pytest.raises(Unavailable, match="less busy"):
            _check(tmp_path, wanted)
    qemu(SPEAKS)
    _check(tmp_path, wanted)


def test_doctor_has_no_parent_removed_for_a_silent_guest(qemu: Qemu, tmp_path: Path) -> None:
    directory = tmp_path / "parents" / "game"
    directory.mkdir(parents=True)
    for file in FILES:
        (directory / file).touch()
    store = ParentStore(directory.parent, tmp_path / "verified")
    store.seal("game", "game", "host", datetime.now(UTC), KVMS)
    qemu(IS_SILENT)
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path, services={"game": ServiceSettings(parent="game")})
    with pytest.raises(Unavailable, match="less busy"):
        list(check_parents(settings))


def test_a_kvm_that_does_not_work_refuses_its_parent_for_good(qemu: Qemu, tmp_path: Path) -> None:
    qemu(REFUSES)
    with pytest.raises(Unsupported, match="its accelerator is 'kvm', this host's is 'tcg'"):
        _check(tmp_path)
    with pytest.raises(Unsupported, match="no such module"):
        choose_accelerator("kvm", tmp_path)


def test_who_takes_either_gets_emulation_when_the_guest_is_silent_and_waits_for_it_once(
    qemu: Qemu, tmp_path: Path
) -> None:
    qemu(IS_SILENT)
    assert choose_accelerator("auto", tmp_path) == "tcg"
    assert SILENT in explain_slowness("auto", tmp_path)
    assert (tmp_path / "tries").read_text() == "\n"


def test_what_was_proved_holds_for_every_process_until_the_next_boot(
    qemu: Qemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu(SPEAKS)
    assert find_kvm_problem(tmp_path) is None
    qemu(IS_SILENT)
    find_kvm_problem.cache_clear()  # as in another process
    assert find_kvm_problem(tmp_path) is None
    boot = tmp_path / "boot_id"
    boot.write_text("another boot")
    monkeypatch.setattr(records, "_BOOT_ID", boot)
    find_kvm_problem.cache_clear()
    assert find_kvm_problem(tmp_path) == SILENT


def test_a_proof_that_has_no_place_yet_is_no_failure(qemu: Qemu, tmp_path: Path) -> None:
    qemu(SPEAKS)
    assert find_kvm_problem(tmp_path / "not" / "there") is None
    assert not (tmp_path / "not").exists()
