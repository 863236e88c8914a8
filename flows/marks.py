"""
Who has taken a run, and whether its process is there: what a runner must know of runs that are not its own.

The mark is part of the state by which a run is taken, so none is taken without; the sign of life is a socket's name,
which the system keeps for as long as the process lives, however that ends.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from socket import AF_UNIX, SOCK_DGRAM, gethostname, socket
from typing import TYPE_CHECKING, Any
from uuid import UUID

from forkyard.processes import ProcessRef, find_process, is_alive, parse_ref

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import State

_TAKEN = "taken by "


class MarkingClient:
    """Prefect's client, which notes in each state PENDING that this process has taken the run."""

    def __init__(self, client: "PrefectClient") -> None:
        """Do all else as *client*."""
        self._client = client

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the client has
        """What the client has."""
        return getattr(self._client, name)

    # Any: Prefect's own.
    async def set_flow_run_state(self, run_id: UUID, state: "State[Any]", *, force: bool = False) -> Any:  # noqa: ANN401
        """Set a run's state, as the client does."""
        marked = state.model_copy(update={"message": f"{_TAKEN}{_find_self()}"}) if state.is_pending() else state
        return await self._client.set_flow_run_state(run_id, marked, force=force)


@dataclass(frozen=True, slots=True)
class Taker:
    """The runner that has taken a run."""

    host: str
    process: ProcessRef

    def __str__(self) -> str:
        """The form that `find_taker` reads."""
        return f"{self.host}: {self.process}"

    @property
    def is_here(self) -> bool:
        """Whether it is this process."""
        return self == _find_self()

    @property
    def is_gone(self) -> bool:
        """Whether it is provably gone; False for one of another host, of which nothing is known."""
        return self.host == gethostname() and not is_alive(self.process)


def find_taker(states: "Sequence[State[Any]]") -> Taker | None:
    """Who has taken the run of these *states* last; None: a forkyard that made no marks, of which there was one."""
    taken = sorted((state for state in states if state.is_pending()), key=lambda state: state.timestamp)
    for state in reversed(taken):
        host, _, process = (state.message or "").removeprefix(_TAKEN).rpartition(": ")
        found = parse_ref(process)
        if found is not None:
            return Taker(host, found)
    return None


@cache
def _find_self() -> Taker:
    process = find_process(os.getpid())
    if process is None:
        text = "this process is not among the living ones: /proc cannot be read"
        raise RuntimeError(text)
    return Taker(gethostname(), process)


def show_life(run_id: UUID) -> socket:
    """Let others see that this process is the run's, for as long as it lives and keeps what is returned."""
    sign = socket(AF_UNIX, SOCK_DGRAM)
    sign.bind(_name_sign(run_id))
    return sign


def shows_life(run_id: UUID) -> bool:
    """Whether the run's process is there, on this host."""
    with socket(AF_UNIX, SOCK_DGRAM) as probe:
        try:
            probe.connect(_name_sign(run_id))
        except ConnectionRefusedError:
            return False
        return True


def _name_sign(run_id: UUID) -> str:
    # Begins with a zero byte: a name in the kernel alone, without a file that would be left.
    return f"\0forkyard-run-{run_id}"


__all__ = ["MarkingClient", "Taker", "find_taker", "show_life", "shows_life"]
