"""
Files and directories that a crash at any instant leaves either whole or recognisable.

A record appears by rename, with its content, or not at all. A directory that is being made or
removed has a name that starts with a dot: never listed, and cleared once it is old. What holds guests'
memory, disks and consoles is its owner's alone.
"""

import fcntl
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import cast

from forkyard.errors import NotFound
from forkyard.oserrors import translated
from forkyard.waiting import wait_for

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PRIVATE = 0o700


def write_record(path: Path, record: Mapping[str, object], *, durable: bool = False) -> None:
    """Put the record in the file's place, whole or not at all; *durable*: it also survives a loss of power."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with translated(f"writing {path}"):
        try:
            with temporary.open("w") as file:
                json.dump(record, file, indent=1)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
            if durable:
                sync_directory(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def sync_directory(path: Path) -> None:
    """Have the names in the directory survive a loss of power, as `fsync` has a file's content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_record(path: Path) -> dict[str, object] | None:
    """The record in the file; None when there is none, or none that can be read."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return as_record(record)


def as_record(value: object) -> dict[str, object] | None:
    """The value when it is a JSON object; else None."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def make_private(path: Path) -> None:
    """Make the directory, its owner's alone; one that is there becomes so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=_PRIVATE, exist_ok=True)
    keep_private(path)


def keep_private(path: Path) -> None:
    """Let nobody but its owner into the directory; absent is success."""
    # Guests' memory holds their keys. What is in it need not be looked at: nobody comes so far.
    with suppress(FileNotFoundError):
        if stat.S_IMODE(path.stat().st_mode) != _PRIVATE:
            path.chmod(_PRIVATE)


def make_directory(path: Path, name: str, record: Mapping[str, object]) -> bool:
    """Make the directory with the record in it, both at once, in a private one; False when there is one already."""
    make_private(path.parent)
    temporary = _hidden(path)
    temporary.mkdir()
    try:
        (temporary / name).write_text(json.dumps(record, indent=1))
        # A rename onto a directory with something in it fails, so of two makers one wins.
        temporary.rename(path)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.is_dir():
            return False
        raise
    return True


def remove_directory(path: Path) -> None:
    """Remove the directory and all in it: gone from its name at once. Absent is success."""
    hidden = _hidden(path)
    try:
        path.rename(hidden)
    except FileNotFoundError:
        return
    erase(hidden)


def erase(path: Path) -> None:
    """Remove the directory from where it is, and all in it. Absent is success."""
    # Also what vanishes on the way: then somebody else is at removing the same.
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def list_directories(path: Path) -> list[Path]:
    """The finished directories in *path*, by name."""
    return [path / name for name in list_names(path)]


def list_names(path: Path) -> list[str]:
    """The names of the finished directories in *path*, in order."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except FileNotFoundError:
        return []


def list_unfinished(path: Path, older_than: timedelta) -> list[Path]:
    """What a crash left half made or half removed in *path*."""
    try:
        hidden = [entry for entry in path.iterdir() if entry.name.startswith(".") and entry.is_dir()]
    except FileNotFoundError:
        return []
    return [entry for entry in hidden if age(entry) >= older_than]


def age(path: Path) -> timedelta:
    """Time since the file or directory was last changed."""
    try:
        return timedelta(seconds=max(0.0, time.time() - path.stat().st_mtime))
    except FileNotFoundError:
        return timedelta(0)


def boot_id() -> str:
    """What tells this boot of the host from every other, for what is true until the next one."""
    return _BOOT_ID.read_text().strip()


@contextmanager
def locked(path: Path, *, what: str, timeout: timedelta, shared: bool = False) -> Iterator[int]:
    """
    Hold the file or directory *path* against every other thread and process; give its descriptor.

    A holder that dies lets go. Raises NotReady after *timeout*, NotFound when it is not there.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        text = f"{what} is not there (any more)."
        raise NotFound(text) from error
    try:
        wait_for(
            lambda: _try_lock(descriptor, shared=shared),
            what=f"{what}: another process works on it",
            timeout=timeout,
            interval=timedelta(milliseconds=1),
            slowest=timedelta(milliseconds=20),
        )
        yield descriptor
    finally:
        os.close(descriptor)


def is_current(descriptor: int, path: Path) -> bool:
    """Whether the opened file or directory is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int, *, shared: bool) -> bool | None:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return True


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}-{secrets.token_hex(4)}")
