"""
Decide whether KVM truly works here; else TCG, which `explain_slowness` says in one line.

/dev/kvm may exist, open and create VMs although no guest instruction ever runs. So: first the
processor's flags, then a firmware that must say its first word within a short deadline.
"""

import functools
import re
import subprocess
from datetime import timedelta
from pathlib import Path

from forkyard.errors import Unsupported

TRIAL = timedelta(seconds=4)
"""A working KVM runs the firmware's first lines in 0.1 s."""


@functools.cache
def choose_accelerator(wanted: str) -> str:
    """
    Give `kvm` or `tcg` for a setting of `auto`, `kvm` or `tcg`.

    Raises:
        Unsupported: `kvm` is wanted and does not work; the message says why.
    """
    if wanted == "tcg":
        return "tcg"
    problem = find_kvm_problem()
    if problem is None:
        return "kvm"
    if wanted == "kvm":
        text = f"KVM does not work here: {problem}. Set qemu.accelerator to auto or tcg in forkyard.toml."
        raise Unsupported(text)
    return "tcg"


def explain_slowness(wanted: str) -> str:
    """Say in one line why guests run under TCG for a setting of `auto`, `kvm` or `tcg`; empty under KVM."""
    if choose_accelerator(wanted) == "kvm":
        return ""
    why = "as qemu.accelerator says" if wanted == "tcg" else f"KVM does not work here ({find_kvm_problem()})"
    return f"{why}: guests run under TCG, several times slower than under KVM"


@functools.cache
def find_kvm_problem() -> str | None:
    """Why KVM cannot be used, or None when a guest really ran under it."""
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    if not flags or not {"vmx", "svm"} & set(flags[1].split()):
        return "the processor offers neither vmx nor svm"
    if not Path("/dev/kvm").exists():
        return "there is no /dev/kvm"
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
    return errors.decode(errors="replace").strip() or f"a guest said nothing within {TRIAL.total_seconds():g} s"


def host_cpu() -> str:
    """The host's processor, as it calls itself."""
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return model[1] if model else "unknown"
