"""What the operating system refuses a driver, told as errors of ours: the one table for all drivers of this machine."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from forkyard.errors import CapacityExhausted, ForkyardError, NotPermitted, Unavailable

_FREE_ROOM = "Free some room: `forkyard doctor` says where it is short."
_BE_ROOT = "Run it as root, with sudo."

_TOLD: dict[int, tuple[type[ForkyardError], str, str]] = {
    errno.ENOSPC: (CapacityExhausted, "the disk is full", _FREE_ROOM),
    errno.EDQUOT: (CapacityExhausted, "the disk quota is used up", _FREE_ROOM),
    errno.ENOMEM: (CapacityExhausted, "no memory is left", _FREE_ROOM),
    errno.EAGAIN: (CapacityExhausted, "no process is left", _FREE_ROOM),
    errno.EMFILE: (CapacityExhausted, "no file descriptor is left", _FREE_ROOM),
    errno.ENFILE: (CapacityExhausted, "no file descriptor is left", _FREE_ROOM),
    errno.EACCES: (NotPermitted, "it may not be touched", _BE_ROOT),
    errno.EPERM: (NotPermitted, "it may not be touched", _BE_ROOT),
    # A disk that fails is often mounted again without writing; either may be over by the next try.
    errno.EROFS: (Unavailable, "the disk takes no writing", "`forkyard doctor` says what is wrong."),
    errno.EIO: (Unavailable, "the disk has failed", "`forkyard doctor` says what is wrong."),
}


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the system refuses in the block into an error of ours; what is no refusal of its passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _TOLD:
            raise
        kind, reason, step = _TOLD[error.errno]
        text = f"{doing}: {reason} ({error}). {step}"
        raise kind(text) from error
