"""
The one place that turns an error into a message and an exit code.

    0    the fleet is as asked, the answer is complete
    1    something went wrong; the same command may succeed later
    2    the person can mend it: the request, the configuration, room, what is missing
    130  Ctrl-C
"""

import errno
import os
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path

from cli.output import emit, say, wants_json
from forkyard.errors import MENDABLE, ForkyardError, NotPermitted, explain

AS_ASKED = 0
WENT_WRONG = 1
CAN_BE_MENDED = 2
INTERRUPTED = 130

# What the system refuses wherever it is asked; a driver that knows more says it with an error of ours.
_MENDABLE_BY_HAND = {
    errno.ENOSPC: "Free some room: `forkyard doctor` says where it is short.",
    errno.EDQUOT: "Free some room: `forkyard doctor` says where it is short.",
    errno.EROFS: "Name directories that can be written to in forkyard.toml.",
    errno.EACCES: "Run it as root, with sudo: namespaces, VMs and their files need it.",
    errno.EPERM: "Run it as root, with sudo: namespaces, VMs and their files need it.",
    errno.EADDRINUSE: "End what uses the port, or set another one in forkyard.toml.",
}


def require_root(what: str) -> None:
    """Refuse a command that cannot work without root, before it has half done anything; raises NotPermitted."""
    if os.geteuid() != 0:
        text = f"{what} needs root: it makes network namespaces and VMs. Run it with sudo."
        raise NotPermitted(text)


def exit_code(error: BaseException) -> int:
    """Say with which code a command ends that failed with *error*."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno in _MENDABLE_BY_HAND:
        return CAN_BE_MENDED
    return CAN_BE_MENDED if isinstance(error, MENDABLE) else WENT_WRONG


def report_failure(error: BaseException) -> int:
    """Tell the person, and with --json the script too; return the exit code."""
    code = exit_code(error)
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted"
    elif isinstance(error, ForkyardError):
        message = explain(error)
    elif isinstance(error, OSError) and error.errno in _MENDABLE_BY_HAND:
        thing = f"{error.filename}: " if error.filename else ""
        message = f"{thing}{error.strerror}. {_MENDABLE_BY_HAND[error.errno]}"
    else:
        message = _bug(error)
    say(f"forkyard: {message}")
    if wants_json():
        emit({"error": {"kind": type(error).__name__, "message": message}, "exit_code": code})
    return code


def _bug(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    moment = datetime.now(UTC)
    try:
        with tempfile.NamedTemporaryFile("w", prefix=f"forkyard-{moment:%H%M%S}-", suffix=".txt", delete=False) as file:
            file.write(f"{moment.isoformat()}\n{' '.join(sys.argv)}\n\n{text}")
    except OSError:
        # Nowhere to write (a full disk is one of the failures to be told): the traceback itself is better than nothing.
        return f"this is a bug in forkyard: {type(error).__name__}: {error}\n{text}"
    return f"this is a bug in forkyard: {type(error).__name__}: {error}\nThe traceback is in {Path(file.name)}."
