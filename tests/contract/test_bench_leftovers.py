"""What a bench leaves that is killed: found, ended and removed; a living bench is left alone."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cli.bench.apart import clear_abandoned, find_abandoned
from forkyard.settings import QemuSettings, Settings
from tests.support.lab import until
from tests.support.small_vm import CACHE

_BENCH = """
import sys, time
from pathlib import Path
from cli.bench.apart import PATIENCE, apart
from forkyard.hypervisors.qemu.driver import QemuHypervisor
from forkyard.settings import QemuSettings, Settings
from lab.small_vm import build_small_image

image = build_small_image(Path(sys.argv[2]))
with apart(Settings(state_dir=Path(sys.argv[1]), qemu=QemuSettings(namespace=None))) as settings:
    QemuHypervisor(settings).start_parent(image, "small", "game", timeout=PATIENCE)
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(Settings(), state_dir=tmp_path, qemu=QemuSettings(namespace=None))


@contextmanager
def bench_with_a_vm(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", _BENCH, str(settings.state_dir), str(CACHE)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)


def vms_of(settings: Settings) -> list[psutil.Process]:
    """QEMU processes that work in these directories."""
    runs = {str(run.readlink()) for run in settings.state_dir.glob("bench-*/run")}
    # As one look saw them: another's VM may end meanwhile.
    found = psutil.process_iter(["name", "cmdline"])
    return [
        p for p in found if any(run in " ".join(p.info["cmdline"] or ()) for run in runs if "qemu" in p.info["name"])
    ]


def test_a_killed_bench_leaves_nothing_once_it_was_cleared(settings: Settings) -> None:
    with bench_with_a_vm(settings) as bench:
        (vm,) = vms_of(settings)
        (run,) = [path.readlink() for path in settings.state_dir.glob("bench-*/run")]
        assert clear_abandoned(settings) == []  # it lives
        bench.send_signal(signal.SIGKILL)
        bench.wait(timeout=10)
    assert vm.is_running()
    left = find_abandoned(settings)

    assert clear_abandoned(settings) == left
    assert len(left) == 1
    until(lambda: not vm.is_running() or vm.status() == psutil.STATUS_ZOMBIE, seconds=10, what="the VM's end")
    assert list(settings.state_dir.glob("bench-*")) == []
    assert not run.exists()
    assert clear_abandoned(settings) == []


def test_a_bench_that_ends_leaves_nothing_behind(settings: Settings) -> None:
    with bench_with_a_vm(settings) as bench:
        (vm,) = vms_of(settings)
        assert bench.stdin is not None
        bench.stdin.close()
        assert bench.wait(timeout=60) == 0
    assert not vm.is_running()
    assert list(settings.state_dir.glob("bench-*")) == []
