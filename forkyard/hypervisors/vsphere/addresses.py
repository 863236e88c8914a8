"""
Which child has which address, agreed on by all processes of this machine.

A child's address stands in its mark at vCenter, but only once vCenter has made it. Until then it is claimed here, by
a file of its name. A claim that became a VM, or nothing, is forgotten after a while; by then the VM is seen.
Machines that scale at the same time need ranges of their own: see `vsphere.first_address`.
"""

import fcntl
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

from forkyard.errors import CapacityExhausted
from forkyard.settings import VsphereSettings

CLAIM_SECONDS = 900.0
"""Longer than a fork with all its repeats may take."""


class AddressBook:
    """The claims of this machine. Safe to use from several threads and processes."""

    def __init__(self, directory: Path, settings: VsphereSettings) -> None:
        """Keep the claims in *directory*; nothing is made yet."""
        self._directory = directory
        self._settings = settings
        self._first = int(settings.first_address)
        # Not the broadcast address.
        self._last = int(settings.network.broadcast_address) - 1
        self._next = self._first

    @property
    def size(self) -> int:
        """How many addresses there are for children."""
        return max(0, self._last - self._first + 1)

    def count_free(self, taken: Collection[str]) -> int:
        """How many are left when VMs have *taken* theirs."""
        return max(0, self.size - sum(map(self._is_ours, set(taken))))

    def claim(self, taken: Collection[str]) -> str:
        """
        Claim an address that no VM has *taken* and nobody else has claimed.

        Raises:
            CapacityExhausted: none is left.
        """
        avoid = {*taken, str(self._settings.gateway or "")}
        with self._locked():
            for offset in range(self.size):
                # From where the last search ended: a thousand forks need not pass a thousand claims each.
                number = self._first + (self._next - self._first + offset) % self.size
                address = str(IPv4Address(number))
                if address not in avoid and self._take(address):
                    self._next = number + 1
                    return address
        text = (
            f"no address is left from {self._settings.first_address} to the end of {self._settings.network}. "
            f"Retire children, or widen vsphere.network."
        )
        raise CapacityExhausted(text)

    def release(self, address: str) -> None:
        """Forget the claim of an address whose VM is gone, or was never made."""
        with suppress(FileNotFoundError):
            (self._directory / address).unlink()

    def _take(self, address: str) -> bool:
        claim = self._directory / address
        with suppress(FileNotFoundError):
            if 0 <= time.time() - claim.stat().st_mtime < CLAIM_SECONDS:
                return False
        claim.touch()
        return True

    def _is_ours(self, address: str) -> bool:
        try:
            return self._first <= int(IPv4Address(address)) <= self._last
        except ValueError:
            return False

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
