"""
What a running VM has on its disk, read from outside: through QEMU's own block layer, while the guest goes on.

The guest's agent is not asked, and QEMU's file is not read past QEMU, which keeps part of it in memory. What the guest
has not written down yet is not there yet: its kernel writes every half minute.
"""

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from forkyard.errors import PermanentError
from forkyard.hypervisors.qemu.instance import Instance
from forkyard.hypervisors.qemu.machine import DISK
from forkyard.hypervisors.qemu.qmp import Qmp

_CALL = timedelta(seconds=20)
_COPY_SECONDS = 120


def read_files(instance: Instance, paths: Iterable[str]) -> dict[str, str]:
    """The text of each file, without the blanks around it; one that is not there is empty."""
    with TemporaryDirectory(prefix="fyd-") as made, _exported(instance, Path(made) / "nbd") as url:
        disk = Path(made) / "disk"
        _run("qemu-img", "convert", "-O", "raw", url, str(disk))
        return {path: _run("debugfs", "-R", f"cat {path}", str(disk)).strip() for path in paths}


@contextmanager
def _exported(instance: Instance, socket: Path) -> Iterator[str]:
    address = {"type": "unix", "data": {"path": str(socket)}}
    with Qmp(instance.qmp, timeout=_CALL) as qmp:
        qmp.execute("nbd-server-start", {"addr": address}, timeout=_CALL)
        try:
            # Not writable unless asked for.
            qmp.execute("block-export-add", {"type": "nbd", "id": DISK, "node-name": DISK}, timeout=_CALL)
            yield f"nbd+unix:///{DISK}?socket={socket}"
        finally:
            qmp.execute("nbd-server-stop", timeout=_CALL)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_COPY_SECONDS, check=False)
    if done.returncode:
        text = f"{argv[0]} failed: {done.stderr.strip()[-300:]}"
        raise PermanentError(text)
    return done.stdout
