"""
The errors that forkyard raises on purpose, by one question: may the same call be made again.

    ForkyardError
    ├ RequestError          what was asked for is wrong; told to the person as it is (exit code 2)
    │   ├ InvalidRequest    not understood, out of range, or contradicting the configuration
    │   └ NotPermitted      understood, but not for this person
    ├ PermanentError        the same call fails again
    │   ├ NotFound          the thing named is not there
    │   ├ Unsupported       this hypervisor, machine or version cannot do it
    │   ├ CredentialsRejected
    │   ├ CapacityExhausted no memory, disk, address or licence left
    │   └ VerificationFailed it was done, and proved to be wrong
    └ TransientError        the only branch that is retried
        ├ Unavailable       no answer, or an answer of "not now"
        ├ NotReady          there, but not yet in the awaited state
        ├ LeaseHeld         another writer has the service
        └ OutcomeUnknown    sent, but no answer came: look before repeating

A message says what, on which thing, and what to do next. Foreign exceptions are translated once,
at the edge, `from` their cause. Anything else that surfaces is a bug and keeps its traceback.
"""


class ForkyardError(Exception):
    """Base of all errors that forkyard raises on purpose."""


class RequestError(ForkyardError):
    """What was asked for is wrong; the person who asked can mend it."""


class InvalidRequest(RequestError):
    """Not understood, out of range, or contradicting the configuration."""


class NotPermitted(RequestError):
    """Understood, but this person may not ask for it."""


class PermanentError(ForkyardError):
    """The same call would fail again."""


class NotFound(PermanentError):
    """The thing named is not there."""


class Unsupported(PermanentError):
    """The hypervisor, machine or version cannot do it."""


class CredentialsRejected(PermanentError):
    """The other side knows us not."""


class CapacityExhausted(PermanentError):
    """No memory, disk, address or licence is left for it."""


class VerificationFailed(PermanentError):
    """It was done, and a look afterwards proved it wrong."""


class TransientError(ForkyardError):
    """The same call may succeed when it is made again: the only retried branch."""


class Unavailable(TransientError):
    """No answer, or an answer of "not now"."""


class NotReady(TransientError):
    """There, but not yet in the awaited state."""


class LeaseHeld(TransientError):
    """Another writer holds the service's lease; the message names the holder."""


class OutcomeUnknown(TransientError):
    """The call was sent and no answer came: look before repeating it."""


MENDABLE = (RequestError, NotFound, Unsupported, CredentialsRejected, CapacityExhausted)
"""What a person can mend: the request, the configuration, what is missing, room. Commands end with code 2 for it."""

_NEXT_STEPS: tuple[tuple[type[ForkyardError], str], ...] = (
    (Unavailable, "`forkyard doctor` says what does not answer and what to do."),
    (LeaseHeld, "Wait until that request is done, or look at it with `forkyard status`."),
)


def explain(error: ForkyardError) -> str:
    """Tell the error, with the next step of its kind unless its message names a command itself."""
    text = str(error)
    step = next((step for kind, step in _NEXT_STEPS if isinstance(error, kind)), "")
    return f"{text.removesuffix('.')}. {step}" if step and "`forkyard" not in text else text
