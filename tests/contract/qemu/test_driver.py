"""What only the QEMU driver promises: frozen parents on disk, killed processes, processes started ahead."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from forkyard.errors import NotFound, PermanentError, Unavailable, Unsupported, VerificationFailed
from forkyard.hypervisors.qemu.accelerator import find_kvm_problem
from forkyard.model import Power, VmId
from forkyard.processes import in_namespace
from forkyard.waiting import wait_for
from tests.support.small_vm import (
    PARENT,
    PATIENCE,
    SERVICE,
    SmallWorld,
    fork,
    kill,
    kill_process,
    make_identity,
    make_spec,
    make_stamp,
    put_qemu_in_path,
)

SOON = timedelta(seconds=20)


def _overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


# Frozen parents


@pytest.mark.parametrize("file", ["memory", "state", "disk.qcow2"])
def test_a_parent_with_a_broken_file_is_refused_by_name_and_nothing_is_made(copy: SmallWorld, file: str) -> None:
    _overwrite(copy.parent_directory / file, 4096, b"not what was frozen")
    with pytest.raises(VerificationFailed, match=file):
        fork(copy.open(), "game-a-1")
    with pytest.raises(VerificationFailed, match=file):
        copy.open().freeze(PARENT, timeout=PATIENCE)
    assert copy.files() == []


def test_a_change_that_hides_its_time_is_found_by_the_full_look(copy: SmallWorld) -> None:
    hypervisor = copy.open()
    hypervisor.verify(PARENT)
    memory = copy.parent_directory / "memory"
    before = memory.stat()
    _overwrite(memory, 1 << 20, b"one page is not what it was")
    os.utime(memory, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(VerificationFailed, match="memory"):
        hypervisor.verify(PARENT)


def test_a_missing_file_is_named(copy: SmallWorld) -> None:
    (copy.parent_directory / "state").unlink()
    with pytest.raises(VerificationFailed, match="state is missing"):
        fork(copy.open(), "game-a-1")


def test_a_manifest_that_was_edited_is_refused(copy: SmallWorld) -> None:
    manifest = copy.parent_directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"memory_mib": 80', '"memory_mib": 96'))
    with pytest.raises(VerificationFailed, match=r"manifest\.json"):
        fork(copy.open(), "game-a-1")


def test_a_manifest_that_cannot_be_read_hides_no_other_parent(copy: SmallWorld) -> None:
    broken = copy.parent_directory.with_name("broken")
    broken.mkdir()
    (broken / "manifest.json").write_text('{"name": "broken"}')
    assert [parent.name for parent in copy.open().list_parents()] == [PARENT]
    with pytest.raises(VerificationFailed, match="broken"):
        copy.open().freeze(VmId("broken"), timeout=PATIENCE)


def test_what_children_write_never_reaches_the_parent(world: SmallWorld) -> None:
    hypervisor = world.open()
    for number in range(2):
        vm = fork(hypervisor, f"game-a-{number}")
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    hypervisor.verify(PARENT)
    assert all(path.stat().st_mode & 0o222 == 0 for path in world.parent_directory.iterdir() if path.suffix != ".json")


def test_a_parent_survives_a_reboot_and_its_children_do_not(copy: SmallWorld) -> None:
    hypervisor = copy.open()
    kill(fork(hypervisor, "game-a-1"))
    # What a reboot takes: processes and the directory in memory.
    shutil.rmtree(copy.settings.run_dir)
    hypervisor = copy.open()
    assert [(vm.name, vm.power) for vm in hypervisor.list_vms()] == [("game-a-1", Power.DEAD)]
    assert fork(hypervisor, "game-a-2").power is Power.RUNNING


def test_a_parent_with_children_is_not_removed(copy: SmallWorld) -> None:
    hypervisor = copy.open()
    vm = fork(hypervisor, "game-a-1")
    with pytest.raises(PermanentError, match="game-a-1"):
        hypervisor.remove_parent(PARENT, timeout=PATIENCE)
    hypervisor.destroy(vm.id, timeout=PATIENCE)
    for _ in range(2):
        hypervisor.remove_parent(PARENT, timeout=PATIENCE)
    assert hypervisor.list_parents() == []


def test_a_frozen_parent_is_not_started_again(world: SmallWorld) -> None:
    with pytest.raises(PermanentError, match="frozen already"):
        world.open().start_parent(world.image, PARENT, SERVICE, timeout=PATIENCE)


def test_an_image_that_lacks_a_file_is_not_found(world: SmallWorld, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").touch()
    with pytest.raises(NotFound, match=r"initrd\.img, disk\.qcow2, image\.json"):
        world.open().start_parent(tmp_path, "other", SERVICE, timeout=PATIENCE)


def test_a_parent_that_does_not_boot_tells_its_last_words_and_leaves_nothing(world: SmallWorld, tmp_path: Path) -> None:
    image = shutil.copytree(world.image, tmp_path / "image")
    said = image / "image.json"
    said.write_text(said.read_text().replace("console=ttyS0", "console=ttyS0 rdinit=/nothing-to-start"))
    with pytest.raises((Unavailable, VerificationFailed)) as caught:
        world.open().start_parent(image, "other", SERVICE, timeout=PATIENCE)
    assert "console" in str(caught.value)
    assert not (world.settings.state_dir / "parents" / "other").exists()


def test_an_unfrozen_parent_cannot_be_forked_and_is_removed_with_its_process(world: SmallWorld) -> None:
    hypervisor = world.open()
    parent = world.start_parent("other", freeze=False)
    assert len(world.processes()) == 1
    assert [(one.name, one.service, one.running) for one in hypervisor.list_unfrozen_parents()] == [
        ("other", SERVICE, True)
    ]
    spec = make_spec(hypervisor, "game-a-1")
    with pytest.raises(NotFound, match="not frozen"):
        hypervisor.fork(replace(spec, placement=replace(spec.placement, parent=parent)), timeout=PATIENCE)
    hypervisor.remove_parent(parent, timeout=PATIENCE)


# What this host is


def test_another_version_of_qemu_is_refused_with_both_named(
    world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_qemu_in_path(tmp_path, monkeypatch, "echo 'QEMU emulator version 9.9.9'")
    with pytest.raises(Unsupported, match=r"QEMU is '.*', this host's is '9\.9\.9'"):
        fork(world.open(), "game-a-1")


def test_another_accelerator_is_refused(world: SmallWorld) -> None:
    other = "kvm" if find_kvm_problem(world.settings.run_dir) else "tcg"
    changed = world.under(replace(world.settings.qemu, accelerator=other))
    with pytest.raises(Unsupported, match=r"KVM|accelerator"):
        fork(changed.open(), "game-a-1")


def test_a_namespace_that_is_not_there_is_not_found(world: SmallWorld) -> None:
    changed = world.under(replace(world.settings.qemu, namespace="fy-nowhere"))
    with pytest.raises(NotFound, match="fy-nowhere"):
        fork(changed.open(), "game-a-1")


# Processes that die


def test_a_qemu_that_ends_at_once_is_told_with_its_words_and_leaves_nothing(
    world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = shutil.which("qemu-system-x86_64")
    script = f'case "$1" in --version) exec {qemu} "$@";; esac; exec {qemu} "$@" -device no-such-device'
    put_qemu_in_path(tmp_path, monkeypatch, script)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="no-such-device"):
        fork(world.open(), "game-a-1")
    assert time.monotonic() - began < SOON.total_seconds()


def test_a_qemu_that_dies_ends_the_wait_for_its_guest_at_once(world: SmallWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    assert vm.pid
    os.kill(vm.pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(hypervisor.identify, vm.id, make_identity(vm), timeout=PATIENCE)
        began = time.monotonic()
        kill(vm)
        with pytest.raises(Unavailable, match="gone"):
            waiting.result(timeout=PATIENCE.total_seconds())
    assert time.monotonic() - began < SOON.total_seconds()


@pytest.mark.parametrize("milliseconds", [0, 5, 10, 20, 40, 80, 160, 320])
def test_a_forker_killed_at_any_moment_leaves_only_what_is_seen(world: SmallWorld, milliseconds: int) -> None:
    hypervisor = world.open()
    stamp = make_stamp()
    forker = subprocess.Popen(
        [sys.executable, "-c", _FORKER, *_arguments(world), stamp.fork_id], stdout=subprocess.PIPE, text=True
    )
    assert forker.stdout
    assert forker.stdout.readline() == "now\n"
    # Not a wait for anything: the moment of the crash is the test.
    with pytest.raises(subprocess.TimeoutExpired):
        forker.wait(milliseconds / 1000 or 0.0001)
    forker.kill()
    forker.wait()
    forker.stdout.close()
    assert {vm.stamp.fork_id for vm in hypervisor.list_vms()} <= {stamp.fork_id}
    again = hypervisor.fork(make_spec(hypervisor, "game-a-1", stamp), timeout=PATIENCE)
    assert again.power is Power.RUNNING
    assert len(world.processes()) == 1
    hypervisor.destroy(again.id, timeout=PATIENCE)
    for stray in hypervisor.list_strays(older_than=timedelta(0)):
        hypervisor.remove_stray(stray)


_FORKER = """
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from forkyard.hypervisors.qemu.driver import QemuHypervisor
from forkyard.settings import QemuSettings, Settings
from tests.support.small_vm import PATIENCE, make_spec, make_stamp

state, run, namespace, fork_id = sys.argv[1:]
qemu = QemuSettings(namespace=namespace, bridge="fyq0", memory_reserve=0)
hypervisor = QemuHypervisor(Settings(state_dir=Path(state), run_dir=Path(run), qemu=qemu))
spec = make_spec(hypervisor, "game-a-1", make_stamp(fork_id))
print("now", flush=True)
hypervisor.fork(spec, timeout=PATIENCE)
Event().wait(60)
"""


def _arguments(world: SmallWorld) -> tuple[str, ...]:
    settings = world.settings
    return (str(settings.state_dir), str(settings.run_dir), str(settings.qemu.namespace))


@pytest.mark.parametrize("file", ["forked.json", "machine/machine.json", "machine", "stamp.json"])
def test_a_half_made_child_is_shown_or_found_and_removed(world: SmallWorld, file: str) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    half = world.settings.state_dir / "vms" / vm.name / file
    process = world.processes()
    if file == "machine":
        kill(vm)
        shutil.rmtree(world.settings.run_dir / "q" / process[0])
        shutil.rmtree(half)
    else:
        half.unlink()
    listed = [seen.name for seen in hypervisor.list_vms()]
    assert listed == ([] if file == "stamp.json" else [vm.name])
    if file == "stamp.json":
        assert [stray.path.name for stray in hypervisor.list_strays(older_than=timedelta(0))] == [vm.name]
    hypervisor.destroy(vm.id, timeout=PATIENCE)
    for stray in hypervisor.list_strays(older_than=timedelta(0)):
        hypervisor.remove_stray(stray)


# The network


def test_a_child_is_on_the_network_only_after_its_proof(world: SmallWorld) -> None:
    hypervisor = world.open()
    vm = fork(hypervisor, "game-a-1")
    assert set(world.devices().values()) == {"alone"}
    hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert set(world.devices().values()) == {"up"}
    assert vm.name in _get(world, f"http://{vm.address}:8080/")


def test_a_child_that_cannot_prove_its_identity_stays_off_the_network(world: SmallWorld) -> None:
    hypervisor = world.open()
    # Longer than a kernel takes for a host name: the guest cannot do what it is asked.
    vm = fork(hypervisor, "game-" + "x" * 70)
    with pytest.raises(VerificationFailed, match="hostname"):
        hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert set(world.devices().values()) == {"alone"}
    assert [seen.identified for seen in hypervisor.list_vms()] == [False]


def _get(world: SmallWorld, url: str) -> str:
    """Ask from inside the namespace, as the load balancer does."""
    code = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=5).read().decode())"

    def ask() -> str | None:
        command = in_namespace([sys.executable, "-c", code], world.settings.qemu.namespace)
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return answer.stdout or None

    return wait_for(ask, what=f"answer of {url}", timeout=SOON)


# Processes started ahead


def test_a_fork_takes_a_process_that_was_started_ahead(world: SmallWorld) -> None:
    hypervisor = world.open()
    assert hypervisor.warm(PARENT, 2, timeout=PATIENCE) == 2
    ahead = set(world.processes())
    assert hypervisor.list_vms() == []
    vm = fork(hypervisor, "game-a-1")
    assert set(world.processes()) == ahead
    hypervisor.identify(vm.id, make_identity(vm), timeout=PATIENCE)
    assert hypervisor.cool(PARENT) == 1
    assert len(world.processes()) == 1


def test_forks_at_the_same_time_each_take_another_process(world: SmallWorld) -> None:
    hypervisor = world.open()
    hypervisor.warm(PARENT, 3, timeout=PATIENCE)
    with ThreadPoolExecutor(max_workers=4) as pool:
        vms = list(pool.map(lambda n: fork(hypervisor, f"game-a-{n}"), range(4)))
    assert len({vm.pid for vm in vms}) == 4
    assert hypervisor.cool() == 0


def test_a_process_that_died_while_it_waited_is_not_taken(world: SmallWorld) -> None:
    hypervisor = world.open()
    hypervisor.warm(PARENT, 1, timeout=PATIENCE)
    (process,) = world.processes()
    pid = (world.settings.run_dir / "q" / process / "pid").read_text().split()[0]
    kill_process(int(pid))
    assert fork(hypervisor, "game-a-1").power is Power.RUNNING
    assert [s.what for s in hypervisor.list_strays(older_than=timedelta(0))] == ["a standby whose QEMU is gone"]
    assert hypervisor.warm(PARENT, 1, timeout=PATIENCE) == 1
