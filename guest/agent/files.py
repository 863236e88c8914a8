"""Files that are whole or not there at all."""

import errno
import os
from pathlib import Path


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """
    Make *path* hold *text*, atomically, its directory made if need be.

    A file that is itself a mount point, as /etc/machine-id can be, cannot be renamed over and is
    written in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.forkyard")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    try:
        fresh.rename(path)
    except OSError as error:
        fresh.unlink()
        if error.errno != errno.EBUSY:
            raise
        path.write_text(text)


def read_or_empty(path: Path) -> str:
    """The file's text; empty when it is not there."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
