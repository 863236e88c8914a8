"""
What a person can ask for in words: each command as a value, whose text reads as the same command.

Pure nouns. `str(command)` is the echo: absolute times, exact numbers, reasons quoted. Reading the echo again gives an
equal command (see `forkyard.grammar`), so what is shown is what was understood.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from forkyard.moments import When, write_duration
from forkyard.words import quote


@dataclass(frozen=True, slots=True)
class Amount:
    """How many children: an absolute number, or more or fewer than there are at this moment."""

    number: int
    relative: bool = False

    def resolve(self, current: int) -> int:
        """The absolute number, given how many there are; a request keeps that one for good."""
        return current + self.number if self.relative else self.number

    def __str__(self) -> str:
        """As typed."""
        return f"by {self.number:+d}" if self.relative else f"to {self.number}"


@dataclass(frozen=True, slots=True)
class Card:
    """Nothing but the command's name: the card with the state of all."""

    verb: ClassVar[str] = "status"

    def __str__(self) -> str:
        """Nothing."""
        return ""


@dataclass(frozen=True, slots=True)
class Help:
    """What can be typed."""

    verb: ClassVar[str] = "help"
    about: str | None = None

    def __str__(self) -> str:
        """As typed."""
        return _join("help", self.about)


@dataclass(frozen=True, slots=True)
class Status:
    """The fleets as they are."""

    verb: ClassVar[str] = "status"
    service: str | None = None

    def __str__(self) -> str:
        """As typed."""
        return _join("status", self.service)


@dataclass(frozen=True, slots=True)
class Plan:
    """What would happen; changes nothing."""

    verb: ClassVar[str] = "plan"
    service: str
    amount: Amount

    def __str__(self) -> str:
        """As typed."""
        return f"plan {self.service} {self.amount}"


@dataclass(frozen=True, slots=True)
class Scale:
    """Bring a service to a number of children."""

    verb: ClassVar[str] = "scale"
    service: str
    amount: Amount
    at: When | None = None
    """None: as soon as it is approved."""
    hold: timedelta | None = None
    """Afterwards the fleet goes back; None: it stays."""
    reason: str = ""
    dry_run: bool = False

    def __str__(self) -> str:
        """All of it, in the order of the usage."""
        return _join(
            f"scale {self.service} {self.amount}",
            f"at {self.at}" if self.at else None,
            f"for {write_duration(self.hold)}" if self.hold else None,
            f"because {quote(self.reason)}" if self.reason else None,
            "dry-run" if self.dry_run else None,
        )


@dataclass(frozen=True, slots=True)
class ScheduleList:
    """What is going to happen by itself."""

    verb: ClassVar[str] = "schedule"
    service: str | None = None

    def __str__(self) -> str:
        """As typed."""
        return _join("schedule list", self.service)


@dataclass(frozen=True, slots=True)
class ScheduleCancel:
    """Take something off the schedule."""

    verb: ClassVar[str] = "schedule"
    id: str

    def __str__(self) -> str:
        """As typed."""
        return f"schedule cancel {self.id}"


@dataclass(frozen=True, slots=True)
class ScheduleMove:
    """Have it happen at another time."""

    verb: ClassVar[str] = "schedule"
    id: str
    to: When

    def __str__(self) -> str:
        """As typed, the time absolute."""
        return f"schedule move {self.id} to {self.to}"


@dataclass(frozen=True, slots=True)
class Approve:
    """Say yes to somebody's request."""

    verb: ClassVar[str] = "approve"
    id: str
    break_glass: str = ""
    """Why nobody else can be waited for; empty: an ordinary approval."""

    def __str__(self) -> str:
        """As typed."""
        reason = f"break-glass because {quote(self.break_glass)}" if self.break_glass else None
        return _join(f"approve {self.id}", reason)


@dataclass(frozen=True, slots=True)
class Deny:
    """Say no to somebody's request, and why."""

    verb: ClassVar[str] = "deny"
    id: str
    reason: str

    def __str__(self) -> str:
        """As typed."""
        return f"deny {self.id} because {quote(self.reason)}"


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a request, before or while it runs."""

    verb: ClassVar[str] = "cancel"
    id: str

    def __str__(self) -> str:
        """As typed."""
        return f"cancel {self.id}"


@dataclass(frozen=True, slots=True)
class Retry:
    """Ask again for what a request did not reach."""

    verb: ClassVar[str] = "retry"
    id: str

    def __str__(self) -> str:
        """As typed."""
        return f"retry {self.id}"


@dataclass(frozen=True, slots=True)
class Rollback:
    """Go back to where the fleet was before a request."""

    verb: ClassVar[str] = "rollback"
    id: str

    def __str__(self) -> str:
        """As typed."""
        return f"rollback {self.id}"


@dataclass(frozen=True, slots=True)
class Lock:
    """Let nobody change a service."""

    verb: ClassVar[str] = "lock"
    service: str
    reason: str

    def __str__(self) -> str:
        """As typed."""
        return f"lock {self.service} because {quote(self.reason)}"


@dataclass(frozen=True, slots=True)
class Unlock:
    """Let it be changed again."""

    verb: ClassVar[str] = "unlock"
    service: str

    def __str__(self) -> str:
        """As typed."""
        return f"unlock {self.service}"


@dataclass(frozen=True, slots=True)
class Log:
    """What was asked, decided and done."""

    verb: ClassVar[str] = "log"
    about: str | None = None
    """A service, a request's id, or a person as `@ID`."""
    since: timedelta | None = None

    def __str__(self) -> str:
        """As typed."""
        return _join("log", self.about, f"since {write_duration(self.since)}" if self.since else None)


@dataclass(frozen=True, slots=True)
class Whoami:
    """What the asker may do."""

    verb: ClassVar[str] = "whoami"

    def __str__(self) -> str:
        """As typed."""
        return "whoami"


Command = (
    Card
    | Help
    | Status
    | Plan
    | Scale
    | ScheduleList
    | ScheduleCancel
    | ScheduleMove
    | Approve
    | Deny
    | Cancel
    | Retry
    | Rollback
    | Lock
    | Unlock
    | Log
    | Whoami
)


def _join(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)
