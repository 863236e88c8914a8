"""
Key files: made once, read by their owner alone, and missed when they are gone.

Standard library only: the command line signs its own direct use before anything heavy is imported.
"""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from forkyard.errors import InvalidRequest, NotPermitted
from forkyard.settings import Settings

_KEY_BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LOST_APPROVALS = "approvals that are open are then void, and what the audit log has until now can no longer be proved."
_LOST_FLEET = "children that run are then adopted by the next request for their service."


def find_fleet_key(settings: Settings) -> Path:
    """Return where the key is that signs what forkyard makes: children, marks, stamps."""
    return settings.state_dir / "fleet.key"


def load_fleet_key(settings: Settings) -> bytes:
    """
    Read the fleet's key; the first time, make it. Its group may read it: sync verifies under a user of its own.

    Raises:
        NotPermitted, InvalidRequest: as `load_key`.
    """
    return load_key(find_fleet_key(settings), shared=True, lost=_LOST_FLEET)


def load_key(path: Path, *, shared: bool = False, lost: str = _LOST_APPROVALS) -> bytes:
    """
    Read the key; the first time, make it. With *shared* its group may read it too. *lost* says what a new one costs.

    Raises:
        NotPermitted: others may read or write the file; nothing it signed could be trusted.
        InvalidRequest: the file holds no key, or is gone although there was one.
    """
    made = path.with_name(f"{path.name}.made")
    # In this order: whoever makes the first one notes it afterwards.
    if made.exists() and not path.exists():
        # Under another key everything signed so far would look forged.
        message = f"{path}: is gone, and there was a key. {_restore(path, made, lost)}"
        raise InvalidRequest(message)
    _make_key(path, 0o640 if shared else 0o600)
    found = path.stat()
    try:
        text = path.read_text(encoding="ascii").strip()
    except PermissionError as error:
        message = (
            f"{path}: may not be read by you, so you can neither approve nor scale here. Run it as root, with sudo."
        )
        raise NotPermitted(message) from error
    except ValueError:
        text = ""
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & (_OTHERS & ~stat.S_IRGRP if shared else _OTHERS):
        message = (
            f"{path}: others than its owner may read or write it, so its signatures prove nothing. "
            f"Look who could have, then: chmod {'640' if shared else '600'} {path}"
        )
        raise NotPermitted(message)
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < _KEY_BYTES:
        message = f"{path}: holds no key. {_restore(path, made, lost)}"
        raise InvalidRequest(message)
    with suppress(OSError):
        made.touch(mode=0o644)
    return key


def _restore(path: Path, made: Path, lost: str) -> str:
    return f"Restore it from a backup. Or remove {made} (and {path.name}) to begin with a new one: {lost}"


def _make_key(path: Path, mode: int) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(_KEY_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link, not a rename: of two that make a key at once, the first one's stays.
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
