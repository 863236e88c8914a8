"""
Frozen parents on disk: parents/NAME/{parent.json,manifest.json,memory,state,disk.qcow2,base.qcow2,overlay.qcow2}.

A directory with a manifest is frozen: its files are read-only, hashed, and never written again. One without
is a parent that still runs, or what is left of it. Whoever forks holds the directory shared, whoever
removes it holds it alone.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from forkyard.errors import InvalidRequest, NotFound, Unavailable, VerificationFailed
from forkyard.hypervisors.qemu.machine import Machine, machine_from_record, machine_to_record
from forkyard.hypervisors.qemu.records import (
    boot_id,
    is_current,
    keep_private,
    list_directories,
    locked,
    read_record,
    sync_directory,
    write_record,
)
from forkyard.names import PARENT_NAME, PARENT_NAME_RULE
from forkyard.oserrors import translated

logger = logging.getLogger(__name__)

PARENT = "parent.json"
MANIFEST = "manifest.json"
FILES = ("memory", "state", "disk.qcow2", "base.qcow2", "overlay.qcow2")

_VERIFY = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Frozen:
    """One frozen parent as its manifest describes it."""

    name: str
    service: str
    host: str
    frozen_at: datetime
    machine: Machine
    files: dict[str, str]
    """SHA-256 by file name."""
    fingerprint: str
    directory: Path

    @property
    def memory_bytes(self) -> int:
        """Size of its memory."""
        return self.machine.memory_mib << 20

    @property
    def disks(self) -> tuple[Path, ...]:
        """What stands behind a child's own disk."""
        return (self.directory / "disk.qcow2", self.directory / "base.qcow2")


class ParentStore:
    """The frozen parents below *directory*; *verified* holds what was found whole since the last boot."""

    def __init__(self, directory: Path, verified: Path) -> None:
        """Look at nothing yet."""
        self.directory = directory
        self._verified = verified

    def path(self, name: str) -> Path:
        """Where a parent of that name is, or would be; raises InvalidRequest for what is no name."""
        if not PARENT_NAME.fullmatch(name):
            # What is removed by name is removed with all in it: `..` would be everything.
            text = f"{name!r} is no parent's name: {PARENT_NAME_RULE}. `forkyard parent list` shows those there are."
            raise InvalidRequest(text)
        return self.directory / name

    def list_frozen(self) -> list[Frozen]:
        """All frozen parents whose manifest can be read, by name."""
        found: list[Frozen] = []
        for path in list_directories(self.directory):
            try:
                frozen = self._read(path)
            except VerificationFailed as error:
                # One broken parent must not hide the others; whoever forks it is told.
                logger.warning("%s", error)
                continue
            if frozen is not None:
                found.append(frozen)
        return found

    def list_unfrozen(self) -> list[Path]:
        """The directories of parents without a manifest, by name."""
        return [path for path in list_directories(self.directory) if not (path / MANIFEST).exists()]

    def find(self, name: str) -> Frozen | None:
        """The frozen parent of that name, or None when there is none or it is not frozen."""
        return self._read(self.path(name))

    def get(self, name: str) -> Frozen:
        """The frozen parent of that name; raises NotFound."""
        frozen = self.find(name)
        if frozen is None:
            if not self.path(name).is_dir():
                raise _missing(name)
            text = f"parent {name} is not frozen. Freeze it (`forkyard parent freeze {name}`)."
            raise NotFound(text)
        return frozen

    @contextmanager
    def held(self, name: str, *, timeout: timedelta, shared: bool) -> Iterator[None]:
        """Keep the parent from being removed (shared), or from being forked (not shared)."""
        path = self.path(name)
        keep_private(self.directory)
        with ExitStack() as stack:
            try:
                descriptor = stack.enter_context(locked(path, what=f"parent {name}", timeout=timeout, shared=shared))
            except NotFound as error:
                raise _missing(name) from error
            if not is_current(descriptor, path):
                text = f"parent {name} was removed or made anew just now. Look again."
                raise Unavailable(text)
            yield

    def seal(self, name: str, service: str, host: str, frozen_at: datetime, machine: Machine) -> Frozen:
        """Make the files of a saved VM immutable, hash them, and write the manifest: from now on it is frozen."""
        directory = self.path(name)
        for file in FILES:
            (directory / file).chmod(0o444)
        files = _hash_all(directory)
        fingerprint = make_fingerprint(machine, files)
        frozen = Frozen(name, service, host, frozen_at, machine, files, fingerprint, directory)
        record = {
            "format": 1,
            "name": name,
            "service": service,
            "host": host,
            "frozen_at": frozen_at.isoformat(),
            "machine": machine_to_record(machine),
            "files": files,
            "fingerprint": fingerprint,
        }
        self._remember(frozen, self._look(frozen))
        write_record(directory / MANIFEST, record, durable=True)
        sync_directory(self.directory)
        return frozen

    def check(self, frozen: Frozen) -> None:
        """
        Raise VerificationFailed when the parent is not what was frozen.

        Cheap when size, times and inode of every file are those at the last full look since boot; else the full look.
        """
        if self._is_known(frozen):
            return
        # Of many forks that come first after a boot one reads, the others wait and believe it.
        with translated(f"verifying parent {frozen.name}"):
            self._verified.mkdir(parents=True, exist_ok=True)
        with locked(self._verified, what=f"verifying parent {frozen.name}", timeout=_VERIFY):
            if not self._is_known(frozen):
                self.verify(frozen)

    def verify(self, frozen: Frozen) -> None:
        """Read every byte of the parent; raise VerificationFailed naming the file that is broken."""
        look = self._look(frozen)
        found = _hash_all(frozen.directory)
        for file, digest in frozen.files.items():
            if found[file] != digest:
                raise _changed(frozen, file)
        if make_fingerprint(frozen.machine, found) != frozen.fingerprint:
            raise _changed(frozen, MANIFEST)
        self._remember(frozen, look)

    def forget(self, name: str) -> None:
        """Forget that the parent was found whole."""
        (self._verified / f"{name}.json").unlink(missing_ok=True)

    def _is_known(self, frozen: Frozen) -> bool:
        return read_record(self._verified / f"{frozen.name}.json") == self._look(frozen)

    def _remember(self, frozen: Frozen, look: dict[str, object]) -> None:
        with translated(f"verifying parent {frozen.name}"):
            self._verified.mkdir(parents=True, exist_ok=True)
            write_record(self._verified / f"{frozen.name}.json", look)

    def _look(self, frozen: Frozen) -> dict[str, object]:
        files: dict[str, list[int]] = {}
        for file in frozen.files:
            path = frozen.directory / file
            try:
                stat = path.stat()
            except FileNotFoundError as error:
                text = f"parent {frozen.name}: {path} is missing. Remove the parent and build it again."
                raise VerificationFailed(text) from error
            files[file] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        return {"boot": boot_id(), "fingerprint": frozen.fingerprint, "files": files}

    def _read(self, path: Path) -> Frozen | None:
        try:
            content = (path / MANIFEST).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            # Not `read_record`: one that is there and cannot be read must not look like none, or the parent is made
            # anew under its living children.
            record: dict[str, object] = json.loads(content)
            return Frozen(
                name=str(record["name"]),
                service=str(record["service"]),
                host=str(record["host"]),
                frozen_at=datetime.fromisoformat(str(record["frozen_at"])),
                machine=machine_from_record(cast("dict[str, object]", record["machine"])),
                files={str(file): str(digest) for file, digest in cast("dict[str, str]", record["files"]).items()},
                fingerprint=str(record["fingerprint"]),
                directory=path,
            )
        except (KeyError, TypeError, ValueError) as error:
            text = (
                f"parent {path.name}: {path / MANIFEST} is broken ({error}). Retire its children, remove it "
                f"(`forkyard parent remove {path.name}`) and build it again (`forkyard parent build SERVICE`)."
            )
            raise VerificationFailed(text) from error


def make_fingerprint(machine: Machine, files: dict[str, str]) -> str:
    """One hash over memory, device state, disks and machine description."""
    whole = json.dumps({"machine": machine_to_record(machine), "files": files}, sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def _missing(name: str) -> NotFound:
    return NotFound(
        f"parent {name} is not there. Build and freeze it "
        f"(`forkyard parent build SERVICE`, then `forkyard parent freeze {name}`)."
    )


def _changed(frozen: Frozen, file: str) -> VerificationFailed:
    path = frozen.directory / file
    return VerificationFailed(
        f"parent {frozen.name}: {path} is not what was frozen. Remove the parent and build it again."
    )


def _hash_all(directory: Path) -> dict[str, str]:
    # hashlib lets go of the interpreter's lock: the files are read side by side.
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(FILES, pool.map(_hash, [directory / file for file in FILES]), strict=True))


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        text = f"{path} is missing. Remove the parent and build it again."
        raise VerificationFailed(text) from error
