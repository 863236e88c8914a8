"""
Give a child its identity by vSphere's own guest customization, for a parent that has no agent of ours.

`CustomizeGuest_Task` changes the host name and the address while the cable is out. Once VMware's tools tell the name
and the MAC that were asked for the cable is connected, and `StartGuestNetwork_Task` brings the network up; then the
address is compared too. They tell of three points; the others are in nobody's sight, and the report says so.

The engine in the guest that does it may hang after a failure, or keep its lock: so it is aborted before another try.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from forkyard import wire
from forkyard.errors import ForkyardError, NotReady, Unsupported, VerificationFailed
from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.adapters import OwnAdapters
from forkyard.hypervisors.vsphere.api import Managed
from forkyard.hypervisors.vsphere.customizing import Guest, make_login
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.removing import carry_out
from forkyard.hypervisors.vsphere.specs import make_change, make_customization
from forkyard.hypervisors.vsphere.stream import Values
from forkyard.settings import VsphereSettings
from forkyard.wire import Identity, IdentityReport, PointReport

logger = logging.getLogger(__name__)

HOST_NAME, NETWORK = "guest.hostName", "guest.net"
TOLD = ("mac", "address", "hostname")
"""The points that the tools tell of."""
_ABORT = timedelta(seconds=10)
_ENGINELESS = "does not support guest customization"
"""What vCenter says of a guest whose tools cannot do it, under whichever fault."""
_INSTALL = (
    "Install VMware's guest customization engine for Instant Clone in the parents beside open-vm-tools, freeze them "
    'again, or set vsphere.customize = "agent".'
)


@dataclass(frozen=True, slots=True)
class GuestTools:
    """VMware's tools in a child's guest."""

    guest: Guest
    settings: VsphereSettings

    def identify(
        self, identity: Identity, adapters: OwnAdapters, record: guestinfo.Record, deadline: Deadline
    ) -> IdentityReport:
        """
        Have the guest customized, connect it, and compare what its tools say; the VM then carries *record*.

        Raises:
            VerificationFailed: the guest could not be customized, or is not what was asked; the message says whether
                it is disconnected.
            Unsupported: the vCenter is older than vSphere 7, or the guest has no customization engine.
            NotReady: its tools do not run.
        """
        begun = time.monotonic()
        session, name = self.guest.session, self.guest.name
        manager = session.content.guestCustomizationManager
        if manager is None:
            text = f"{name}: this vCenter has no guest customization of running VMs: that came with vSphere 7. "
            text += 'Install the agent in the parents, and set vsphere.customize = "agent".'
            raise Unsupported(text)
        login, vm = make_login(self.settings), self.guest.vm
        spec = make_customization(identity)
        try:
            self._carry_out("customizing", lambda: manager.CustomizeGuest_Task(vm, login, spec), deadline)
            self._compare(lambda told: _find_stranger(told, identity), deadline)
            self._connect(adapters, identity, record.note, deadline)
            self._carry_out("starting the network", lambda: manager.StartGuestNetwork_Task(vm, login), deadline)
            self._compare(lambda told: _find_differences(told, identity), deadline)
            report = _make_report(identity, time.monotonic() - begun)
            proof = make_change(record.render_proof(identity, report))
            self._carry_out("recording the proof", lambda: vm.ReconfigVM_Task(proof), deadline)
        except ForkyardError as error:
            self._abort(manager, login)
            # Whatever failed: an earlier attempt may have connected it.
            text = f"{error} {self.guest.cut_off(adapters)}"
            if _ENGINELESS in text.lower():
                text = f"{text} {_INSTALL}"
                raise Unsupported(text) from error
            raise type(error)(text) from error
        return report

    def _abort(self, manager: Managed, login: Managed) -> None:
        try:
            self._carry_out("aborting", lambda: manager.AbortCustomization_Task(self.guest.vm, login), Deadline(_ABORT))
        except ForkyardError as error:
            # Its lock, if it holds one, is then what the next attempt is told of.
            logger.info("%s", error)

    def _connect(self, adapters: OwnAdapters, identity: Identity, note: str, deadline: Deadline) -> None:
        with self.guest.stream.watching(self.guest.vm) as watch:
            own = adapters.read(watch.values(self.guest.vm), deadline)
            plugged = make_change({}, adapters=own, connected=True, annotation=note)
            self._carry_out("connecting", lambda: self.guest.vm.ReconfigVM_Task(plugged), deadline)
            self.guest.check_connected(watch, adapters, identity.mac, deadline)

    def _carry_out(self, what: str, act: Managed, deadline: Deadline) -> None:
        carry_out(self.guest.session, self.guest.stream, f"{self.guest.name}: {what}", act, deadline)

    def _compare(self, find: Callable[[Values], list[str]], deadline: Deadline) -> None:
        with self.guest.stream.watching(self.guest.vm) as watch:
            wrong: list[str] = []

            def look() -> bool | None:
                wrong[:] = find(watch.values(self.guest.vm))
                return None if wrong else True

            try:
                watch.wait(look, what=f"{self.guest.name}: its tools", deadline=deadline)
            except NotReady as error:
                text = f"{self.guest.name}: after its customization {'; '.join(wrong)}. Destroy it and fork another."
                raise VerificationFailed(text) from error


def _find_stranger(values: Values, identity: Identity) -> list[str]:
    """What speaks against connecting the guest: another host name, or cards of which none has its MAC."""
    wrong = _find_name(values, identity)
    # With the cable out not every version of the tools tells of the card.
    if _listed(values.get(NETWORK)) and not _find_cards(values, identity):
        wrong.append(f"no adapter has the MAC {identity.mac}")
    return wrong


def _find_name(values: Values, identity: Identity) -> list[str]:
    host_name = str(values.get(HOST_NAME) or "")
    if host_name.partition(".")[0] == identity.name:
        return []
    return [f"hostname is {host_name or 'not told'}, not {identity.name}"]


def _find_cards(values: Values, identity: Identity) -> list[Managed]:
    return [card for card in _listed(values.get(NETWORK)) if str(card.macAddress).lower() == identity.mac]


def _find_differences(values: Values, identity: Identity) -> list[str]:
    """What the tools tell that is not as asked; all that they do not tell yet."""
    wrong = _find_name(values, identity)
    address = identity.address.partition("/")[0]
    cards = _find_cards(values, identity)
    if not cards:
        wrong.append(f"no adapter with the MAC {identity.mac} is told of")
    found = sorted(str(one) for card in cards for one in card.ipAddress or ())
    # A guest may add an IPv6 address by itself; another IPv4 address would be its parent's.
    if [one for one in found if ":" not in one] != [address]:
        wrong.append(f"address is {', '.join(found) or 'not told'}, not {address}")
    return wrong


def _listed(value: object) -> list[Managed]:
    return [*cast("Sequence[Managed]", value)] if isinstance(value, list | tuple) else []


def _make_report(identity: Identity, seconds: float) -> IdentityReport:
    told = {"mac": identity.mac, "address": identity.address, "hostname": identity.name}
    points = [
        PointReport(point, told[point], proved=True, seconds=seconds, detail="by VMware's tools") for point in TOLD
    ]
    left = tuple(point for point in wire.POINTS if point not in TOLD)
    return IdentityReport(identity.fork_id, tuple(points), seconds, left)
