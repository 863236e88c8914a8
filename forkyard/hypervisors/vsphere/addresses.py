"""
Which child has which address, agreed on by all processes of this machine.

A child's address stands in its mark at vCenter, but only once vCenter has made it. Until then it is claimed here, by
a file of its name that says for whom and when, by the clock that no step of the wall clock moves. A claim that became
a VM, or nothing, is forgotten after a while; by then the VM is seen. Machines that scale at the same time need ranges
of their own: see `vsphere.first_address`.
"""

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

from forkyard.clocks import boot_id, boottime
from forkyard.errors import CapacityExhausted
from forkyard.oserrors import translated
from forkyard.settings import VsphereSettings

CLAIM_SECONDS = 900.0
"""Longer than a fork with all its repeats may take."""
_NEXT = "next"


@dataclass(frozen=True, slots=True)
class _Claim:
    """For whom an address is held, and since when."""

    owner: str
    boot: str
    at: float
    """Seconds on the clock that counts from the boot."""


class AddressBook:
    """The claims of this machine. Safe to use from several threads and processes."""

    def __init__(
        self,
        directory: Path,
        settings: VsphereSettings,
        *,
        boot: Callable[[], str] = boot_id,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """Keep the claims in *directory*, aged by *clock*, the seconds since *boot*; nothing is made yet."""
        self._directory = directory
        self._boot, self._clock = boot, clock
        self._settings = settings
        self._first = int(settings.first_address)
        # Not the broadcast address.
        self._last = int(settings.network.broadcast_address) - 1

    @property
    def size(self) -> int:
        """How many addresses there are for children."""
        return max(0, self._last - self._first + 1)

    def count_free(self, taken: Collection[str]) -> int:
        """How many are left when VMs have *taken* theirs."""
        return max(0, self.size - sum(map(self._is_ours, set(taken))))

    def claim(self, taken: Collection[str], *, owner: str = "") -> str:
        """
        Claim for *owner*, a fork's id, an address that no VM has *taken* and no other fork has claimed.

        Raises:
            CapacityExhausted: none is left, or the disk has no room for the claim.
            NotPermitted: the directory of the claims may not be written.
        """
        avoid = {*taken, str(self._settings.gateway or "")}
        with translated(f"claiming an address in {self._directory}"), self._locked():
            begin = self._read_next()
            for offset in range(self.size):
                # From where the last search of any process ended: a thousand forks need not pass a thousand claims
                # each, and an address that was just given back is the last to be dealt out again.
                number = self._first + (begin - self._first + offset) % self.size
                address = str(IPv4Address(number))
                if address not in avoid and self._is_free(address):
                    self._write(address, self._make_claim(owner))
                    self._write(_NEXT, number + 1)
                    return address
        text = (
            f"no address is left from {self._settings.first_address} to the end of {self._settings.network}. "
            f"Retire children, or widen vsphere.network."
        )
        raise CapacityExhausted(text)

    def release(self, address: str, *, owner: str = "") -> None:
        """Forget *owner*'s claim of an address whose VM is gone, or was never made; another's stays."""
        if not self._is_ours(address):
            return
        with translated(f"giving {address} back in {self._directory}"), self._locked():
            claim = self._read_claim(address)
            if claim is not None and claim.owner == owner:
                (self._directory / address).unlink(missing_ok=True)

    def _is_free(self, address: str) -> bool:
        if not (self._directory / address).exists():
            return True
        claim = self._read_claim(address)
        if claim is None:
            # A crash left it, or an older forkyard: nobody knows how old it is, so it counts from now.
            self._write(address, self._make_claim(""))
            return False
        return self._age(claim) >= CLAIM_SECONDS

    def _make_claim(self, owner: str) -> dict[str, object]:
        return {"owner": owner, "boot": self._boot(), "at": self._clock()}

    def _age(self, claim: _Claim) -> float:
        # Of an earlier boot nothing is known but that it is older than this one.
        return self._clock() - claim.at if claim.boot == self._boot() else self._clock()

    def _read_claim(self, address: str) -> _Claim | None:
        found = self._read(address)
        if not isinstance(found, dict):
            return None
        found = cast("dict[str, object]", found)
        owner, boot, at = found.get("owner"), found.get("boot"), found.get("at")
        if not isinstance(owner, str) or not isinstance(boot, str) or not isinstance(at, int | float):
            return None
        return _Claim(owner, boot, float(at))

    def _read_next(self) -> int:
        found = self._read(_NEXT)
        return found if isinstance(found, int) and self._first <= found <= self._last else self._first

    def _read(self, name: str) -> object:
        with suppress(FileNotFoundError, ValueError, RecursionError):
            return json.loads((self._directory / name).read_bytes())
        return None

    def _write(self, name: str, value: Any) -> None:  # noqa: ANN401 - anything that JSON takes
        # Whole or not at all: half a claim would be nobody's.
        draft = self._directory / f".{name}"
        draft.write_text(json.dumps(value))
        draft.rename(self._directory / name)

    def _is_ours(self, address: str) -> bool:
        try:
            return self._first <= int(IPv4Address(address)) <= self._last
        except ValueError:
            return False

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
