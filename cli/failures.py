"""
The one place that turns an error into a message and an exit code.

    0    the fleet is as asked, the answer is complete
    1    something went wrong; the same command may succeed later
    2    the person can mend it: the request, the configuration, room, what is missing
    130  Ctrl-C
"""

import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path

from cli.output import emit, say, wants_json
from forkyard.errors import MENDABLE, ForkyardError, LeaseHeld, Unavailable

AS_ASKED = 0
WENT_WRONG = 1
CAN_BE_MENDED = 2
INTERRUPTED = 130

_NEXT_STEPS: tuple[tuple[type[ForkyardError], str], ...] = (
    (Unavailable, "`forkyard doctor` says what does not answer and what to do."),
    (LeaseHeld, "Wait until that request is done, or look at it with `forkyard status`."),
)


def exit_code(error: BaseException) -> int:
    """Say with which code a command ends that failed with *error*."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return CAN_BE_MENDED if isinstance(error, MENDABLE) else WENT_WRONG


def report_failure(error: BaseException) -> int:
    """Tell the person, and with --json the script too; return the exit code."""
    code = exit_code(error)
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted"
    elif isinstance(error, ForkyardError):
        message = _with_next_step(error)
    else:
        message = _bug(error)
    say(f"forkyard: {message}")
    if wants_json():
        emit({"error": {"kind": type(error).__name__, "message": message}, "exit_code": code})
    return code


def _with_next_step(error: ForkyardError) -> str:
    step = next((text for kind, text in _NEXT_STEPS if isinstance(error, kind)), "")
    return f"{error} {step}" if step and "`forkyard" not in str(error) else str(error)


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
