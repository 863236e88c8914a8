"""What the load balancer promises."""

from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Protocol

from forkyard.model import Upstream


class Balancer(Protocol):
    """Nginx, seen from the fleet. Raises only `forkyard.errors`; calls may be repeated."""

    def upstream(self, service: str) -> Upstream | None:
        """The upstream in force, or None when there is none for the service."""
        ...

    def check_running(self) -> None:
        """Raise Unavailable unless the balancer runs, so that what is made now can come to serve."""
        ...

    def apply(self, upstream: Upstream) -> None:
        """
        Make *upstream* the one in force, or raise and leave the old one working. The same again does nothing.

        Raises:
            PermanentError: nginx refuses the file; its own words are in the message.
            CapacityExhausted: no room to write it.
            NotReady: nginx has not taken it up in time, and does not say that it refuses it.
            Unavailable: no nginx answers on the control socket.
        """
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """
        Hold the only pen: nobody else applies, in this or another process, until the context ends.

        For who reads the registry and applies what it read: an older reading must not overwrite a newer one.
        `apply` takes it by itself; taking it again in the same thread is allowed.
        """
        ...

    def active_connections(self, service: str) -> dict[str, int]:
        """Open connections from the balancer to each server, by server name; for draining."""
        ...

    def probe(self, service: str, wanted: frozenset[str], *, timeout: timedelta) -> dict[str, float]:
        """
        Ask through the balancer, as a player does, until each of *wanted* has given a good answer.

        Returns seconds until the first good answer per server name; what never answered is missing.
        """
        ...
