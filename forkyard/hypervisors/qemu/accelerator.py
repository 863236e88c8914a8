"""
Decide whether KVM truly works here; else TCG, which `explain_slowness` says in one line.

/dev/kvm may exist, open and create VMs although no guest instruction ever runs. So: first the
processor's flags, then a firmware that must say its first word within a short deadline. A host that is busy may
miss it: so what was proved once holds until the next boot, and a guest that was only silent proves nothing against
a parent that was frozen under KVM.
"""

import functools
import re
import subprocess
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from forkyard.errors import ForkyardError, Unavailable, Unsupported
from forkyard.hypervisors.qemu.records import boot_id, read_record, write_record

TRIAL = timedelta(seconds=4)
"""A working KVM runs the firmware's first lines in 0.1 s."""
SILENT = f"a guest said nothing within {TRIAL.total_seconds():g} s"
"""The one problem that a busy host has, too."""

_PROOF = "kvm.json"
"""In run_dir: the boot for which KVM is proved to work."""
_CPUINFO = Path("/proc/cpuinfo")
_KVM = Path("/dev/kvm")


def choose_accelerator(wanted: str, run_dir: Path) -> str:
    """
    Give `kvm` or `tcg` for a setting of `auto`, `kvm` or `tcg`.

    Raises:
        Unsupported: `kvm` is wanted and does not work; the message says why.
        Unavailable: `kvm` is wanted, and the guest that was to prove it was silent.
    """
    if wanted == "tcg":
        return "tcg"
    if wanted == "kvm":
        check_silence(run_dir)
    problem = find_kvm_problem(run_dir)
    if problem is None:
        return "kvm"
    if wanted == "kvm":
        text = f"KVM does not work here: {problem}. Set qemu.accelerator to auto or tcg in forkyard.toml."
        raise Unsupported(text)
    return "tcg"


def check_silence(run_dir: Path) -> None:
    """Raise Unavailable when a guest under KVM was silent, as on a busy host; the next call tries it anew."""
    if find_kvm_problem(run_dir) == SILENT:
        find_kvm_problem.cache_clear()
        text = f"KVM is there, but {SILENT}: try again when this host is less busy (`forkyard doctor` looks, too)."
        raise Unavailable(text)


def explain_slowness(wanted: str, run_dir: Path) -> str:
    """Say in one line why guests run under TCG for a setting of `auto`, `kvm` or `tcg`; empty under KVM."""
    if choose_accelerator(wanted, run_dir) == "kvm":
        return ""
    why = "as qemu.accelerator says" if wanted == "tcg" else f"KVM does not work here ({find_kvm_problem(run_dir)})"
    return f"{why}: guests run under TCG, several times slower than under KVM"


@functools.cache
def find_kvm_problem(run_dir: Path) -> str | None:
    """Why KVM cannot be used, or None when a guest really ran under it since this host was booted."""
    flags = re.search(r"^flags\s*:(.*)$", _CPUINFO.read_text(), re.MULTILINE)
    if not flags or not {"vmx", "svm"} & set(flags[1].split()):
        return "the processor offers neither vmx nor svm"
    if not _KVM.exists():
        return "there is no /dev/kvm"
    proof: dict[str, object] = {"boot": boot_id()}
    if read_record(run_dir / _PROOF) == proof:
        return None
    problem = _try_kvm()
    if problem is None:
        # Without a place for it yet, or for who may not write there, the next process tries again.
        with suppress(ForkyardError, FileNotFoundError):
            write_record(run_dir / _PROOF, proof)
    return problem


def _try_kvm() -> str | None:
    """Why no guest ran under KVM just now."""
    # The firmware's debug port needs no disk, no kernel and no display.
    trial = (
        "qemu-system-x86_64",
        "-accel",
        "kvm",
        "-machine",
        "q35",
        "-nodefaults",
        "-display",
        "none",
        "-no-user-config",
    )
    debug = ("-chardev", "stdio,id=debug", "-device", "isa-debugcon,iobase=0x402,chardev=debug")
    with subprocess.Popen(
        [*trial, *debug], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            output, errors = process.communicate(timeout=TRIAL.total_seconds())
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
    if b"SeaBIOS" in output:
        return None
    return errors.decode(errors="replace").strip() or SILENT


def host_cpu() -> str:
    """The host's processor, as it calls itself."""
    model = re.search(r"^model name\s*:\s*(.*)$", _CPUINFO.read_text(), re.MULTILINE)
    return model[1] if model else "unknown"
