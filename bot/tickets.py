"""What a button carries: which request, which plan, which version; never what is to be done with which numbers."""

from dataclasses import dataclass

from forkyard.errors import InvalidRequest
from forkyard.requests import Request

_PARTS = 3


@dataclass(frozen=True, slots=True)
class Ticket:
    """A button's value."""

    request_id: str
    plan_hash: str
    version: int

    def __str__(self) -> str:
        """The form that `read_ticket` reads."""
        return f"{self.request_id}|{self.plan_hash}|{self.version}"


def make_ticket(request: Request) -> str:
    """The value of a button on this request's message."""
    return str(Ticket(request.id, request.plan_hash, request.version))


def read_ticket(value: str) -> Ticket:
    """Read a button's value; raises InvalidRequest for one that is none of ours."""
    parts = value.split("|")
    if len(parts) != _PARTS or not parts[2].isdigit():
        text = "This button is not of this version of forkyard. Use `/fleet status` for what there is now."
        raise InvalidRequest(text)
    return Ticket(parts[0], parts[1], int(parts[2]))
