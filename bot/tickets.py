"""What a button carries: which request, and which plan; never what is to be done with which numbers."""

from dataclasses import dataclass

from forkyard.errors import InvalidRequest
from forkyard.requests import Request


@dataclass(frozen=True, slots=True)
class Ticket:
    """A button's value."""

    request_id: str
    plan_hash: str

    def __str__(self) -> str:
        """The form that `read_ticket` reads."""
        return f"{self.request_id}|{self.plan_hash}"


def make_ticket(request: Request) -> str:
    """The value of a button on this request's message."""
    return str(Ticket(request.id, request.plan_hash))


def read_ticket(value: str) -> Ticket:
    """Read a button's value; raises InvalidRequest for one that is none of ours."""
    request_id, *rest = value.split("|")
    if not rest:
        text = "This button is not of this version of forkyard. Use `/fleet status` for what there is now."
        raise InvalidRequest(text)
    # Those of an older forkyard have a third part, which says nothing that counts.
    return Ticket(request_id, rest[0])
