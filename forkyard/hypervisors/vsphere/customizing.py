"""
Give a child its identity through guestinfo, and its network only once every point is proved.

Two changes of the VM are all it takes: one with the request, and one that records the proof, connects the cable and
tells the guest so. Both answers come through the update stream, and so does what became of the cable.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from forkyard import wire
from forkyard.errors import ForkyardError, NotReady, VerificationFailed
from forkyard.hypervisors.proof import read_report
from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.adapters import OwnAdapters, find_wrong
from forkyard.hypervisors.vsphere.api import Managed, vim
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.guestinfo import option_path
from forkyard.hypervisors.vsphere.removing import carry_out
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.specs import make_change
from forkyard.hypervisors.vsphere.stream import UpdateStream, Values, Watch
from forkyard.settings import VsphereSettings, read_guest_password
from forkyard.waiting import wait_for
from forkyard.wire import Identity, IdentityReport

logger = logging.getLogger(__name__)

_IS_IT_THERE = "Is forkyard-agent active in it, and in the parent before that is frozen?"
_CUT_OFF = timedelta(seconds=20)
_TOLD_WITHIN = timedelta(seconds=5)
"""How long the stream may take to tell of a cable that is in; then vCenter is asked."""
_CLOCK_OFF = 2.0
"""Seconds by which a guest's clock may differ from ours; more, and TLS and tokens begin to fail."""
_CLOCK_STEP = 2.0
"""Seconds by which it may seem slow: a VM's RTC knows whole seconds only, and so does the guest's report."""
ANSWER = option_path(guestinfo.ANSWER)
POWER = "runtime.powerState"


@dataclass(frozen=True, slots=True)
class _Along:
    """What is changed together with a request: the note with the first, the proof as the cable is connected."""

    note: str | None = None
    proof: Mapping[str, str] = field(default_factory=dict[str, str])
    adapters: tuple[Managed, ...] = ()


@dataclass(frozen=True, slots=True)
class Guest:
    """A child's guest at the end of guestinfo."""

    session: Session
    stream: UpdateStream
    vm: Managed
    name: str

    def identify(
        self, identity: Identity, adapters: OwnAdapters, record: guestinfo.Record, since: float, deadline: Deadline
    ) -> IdentityReport:
        """
        Have the guest take the identity and prove it, then connect it; *record* is what the VM is to carry of it.

        A guest that is asked again answers with its first report, so its clock may be of any moment *since* then.

        Raises:
            VerificationFailed: not proved, or the network did not come up; it is disconnected.
            NotReady: no answer in time, or the VM does not run.
        """
        with self.stream.watching(self.vm) as watch:

            def fields() -> Mapping[str, object]:
                # With the time at which it is sent: before that vCenter may have been waited for.
                return {"identity": wire.identity_to_wire(replace(identity, wall_clock=time.time()))}

            proofs = self._ask(watch, make_request_id(), "identify", deadline, fields, _Along(record.note))
            report = read_report(proofs, identity)
            _check_clock(report, identity, since, time.time())
            connection = _Along(
                proof=record.render_proof(identity, report), adapters=adapters.read(watch.values(self.vm), deadline)
            )
            answer = self._ask(watch, make_request_id(), "network", deadline, along=connection)
            if answer.get("ok") is not True:
                told = answer.get("error", answer)
                text = f"{self.name}: guest's network did not come up: {told}. {self.cut_off(adapters)} Fork another."
                raise VerificationFailed(text)
            self.check_connected(watch, adapters, identity.mac, deadline)
        return report

    def check_connected(self, watch: Watch, adapters: OwnAdapters, mac: str, deadline: Deadline) -> None:
        """
        See that every cable is in, under the MAC of the identity: neither a task's end nor the guest says so.

        Raises:
            VerificationFailed: something is wrong with an adapter; it is disconnected.
        """
        what = f"{self.name}: its adapters"

        def look() -> bool | None:
            return None if find_wrong(adapters.read(watch.values(self.vm), deadline), mac) else True

        try:
            watch.wait(look, what=what, deadline=Deadline(min(_TOLD_WITHIN, deadline.left)))
        except NotReady as error:
            wrong = find_wrong(adapters.read({}, deadline), mac)
            if wrong:
                text = f"{what}: {'; '.join(wrong)}. {self.cut_off(adapters)} Fork another."
                raise VerificationFailed(text) from error

    def ask(self, request_id: str, verb: str, deadline: Deadline) -> Mapping[str, object]:
        """Have the guest do something; returns its answer, `ok` or not. Raises NotReady when there is none in time."""
        with self.stream.watching(self.vm) as watch:
            return self._ask(watch, request_id, verb, deadline)

    def send(self, request_id: str, verb: str, deadline: Deadline) -> None:
        """Tell the guest to do something that leaves it no time to answer."""
        self._send(lambda: guestinfo.render_request(request_id, verb), verb, deadline, _Along())

    def _ask(
        self,
        watch: Watch,
        request_id: str,
        verb: str,
        deadline: Deadline,
        fields: Callable[[], Mapping[str, object]] = dict,
        along: "_Along | None" = None,
    ) -> Mapping[str, object]:
        what = f"{self.name}: {verb}"
        task = self._send(
            lambda: guestinfo.render_request(request_id, verb, **fields()), verb, deadline, along or _Along()
        )
        watch.add(task)

        def look() -> Mapping[str, object] | None:
            state = watch.values(self.vm)
            if state.get(POWER) not in {None, "poweredOn"}:
                text = f"{what}: the VM does not run. Look in vCenter why; `forkyard reap` removes a child that is off."
                raise NotReady(text)
            if watch.end_of(task) == "error":
                # Raises; the answer of a guest that was never asked would be waited for in vain.
                watch.wait_for_task(task, what=what, deadline=deadline)
            return guestinfo.parse_answer(read_answer(state), request_id)

        silent = f"{what}: the guest's agent has not answered"
        return watch.wait(look, what=silent, deadline=deadline, advice=_IS_IT_THERE)

    def _send(self, render: Callable[[], str], verb: str, deadline: Deadline, along: "_Along") -> Managed:
        def send() -> Managed:
            change = make_change(
                {guestinfo.REQUEST: render(), **along.proof},
                adapters=along.adapters,
                connected=bool(along.adapters),
                annotation=along.note,
            )
            return self.vm.ReconfigVM_Task(change)

        return self.session.call(f"{self.name}: {verb}", send, changes=True, deadline=deadline)

    def cut_off(self, adapters: OwnAdapters) -> str:
        """Pull the cables of a guest that is not what it should be; a sentence says whether that is done."""
        what = f"{self.name}: pulling its cables"

        def pull() -> bool:
            # Again when another task is at the VM, such as the one that connects it.
            deadline = Deadline(_CUT_OFF)
            own = adapters.read({}, deadline)
            change = make_change({guestinfo.IDENTIFIED: ""}, adapters=own, connected=False)
            carry_out(self.session, self.stream, what, lambda: self.vm.ReconfigVM_Task(change), deadline)
            return True

        try:
            wait_for(pull, what=what, timeout=_CUT_OFF)
        except ForkyardError as error:
            # The caller destroys what could not prove itself; the reaper does when even that fails.
            logger.warning("%s", error)
            return f"ITS NETWORK COULD NOT BE TAKEN AWAY ({error}): power it off."
        return "Its network is taken away."


def _check_clock(report: IdentityReport, identity: Identity, since: float, now: float) -> None:
    """Refuse a clock that no way from us to the guest and back explains."""
    told = next((point.value for point in report.points if point.point == "clock"), "")
    try:
        clock = datetime.fromisoformat(told).astimezone(UTC).timestamp()
    except ValueError:
        # Proved as the guest sees it; nothing to compare.
        return
    if not since - _CLOCK_OFF - _CLOCK_STEP <= clock <= now + _CLOCK_OFF:
        text = (
            f"{identity.name}: the guest's clock was set to {told}, and it is "
            f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ} here. Its network stays down. "
            f"Give this machine and the child's ESXi host their time from the same NTP servers."
        )
        raise VerificationFailed(text)


def read_answer(values: Values) -> str:
    """The text of the guest's last answer among the properties that the stream told."""
    return str(getattr(values.get(ANSWER), "value", "") or "")


def make_request_id() -> str:
    """An id that no guest has seen."""
    return uuid.uuid4().hex


def make_login(settings: VsphereSettings) -> Managed:
    """Who acts inside of the guest for guest operations."""
    password = read_guest_password(settings)
    return vim.vm.guest.NamePasswordAuthentication(
        username=settings.guest_user, password=password, interactiveSession=False
    )


def make_guest(session: Session, stream: UpdateStream, vm: str, name: str) -> Guest:
    """The guest of a VM by its id."""
    return Guest(session, stream, session.find(vim.VirtualMachine, vm), name)
