"""
Bring a parent to the point from which it can be forked: the app quiesced, then `instantclone.freeze` in the guest.

The guest's own agent does both when it is asked through guestinfo. With `vsphere.guest_user` guest operations start
the freeze instead; nobody waits for that program's end, because the VM stands still before it ends. A start that
seems to have failed may have frozen it all the same, so vCenter is asked before that is believed.
"""

import logging
from datetime import UTC, datetime, timedelta

from forkyard.errors import NotReady, OutcomeUnknown, TransientError, VerificationFailed
from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.api import Managed, vim
from forkyard.hypervisors.vsphere.customizing import Guest, make_guest, make_login, make_request_id, read_answer
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.inventory import ParentRow
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.stream import UpdateStream
from forkyard.settings import VsphereSettings

logger = logging.getLogger(__name__)

FROZEN = "runtime.instantCloneFrozen"
_FREEZE = "freeze-"
_LOOK_THERE = "Look at `journalctl -u forkyard-agent` in it."
_SHELL = "/bin/sh"
# After a moment in which VMware's tools tell vCenter that it runs: in a VM that stands still they tell nothing.
_FREEZING = "-c 'sleep 1; exec /usr/bin/vmware-rpctool \"instantclone.freeze\"'"
_AGENT_PATIENCE = timedelta(seconds=10)
"""How long a guest without our agent is waited for before guest operations go on without it."""
_DOUBT = timedelta(seconds=15)
"""How long a freeze is waited for whose start vCenter did not confirm."""


def freeze_parent(
    session: Session, stream: UpdateStream, settings: VsphereSettings, parent: ParentRow, deadline: Deadline
) -> None:
    """
    Quiesce and freeze a running parent.

    Raises:
        NotReady: it does not run, its agent does not answer, or it is not frozen in time.
        VerificationFailed: the agent refuses, or its tool failed, as it says.
    """
    if not parent.powered_on:
        text = f"{parent.name}: it does not run. Start it, and let its app become warm."
        raise NotReady(text)
    guest = make_guest(session, stream, parent.id, parent.name)
    _quiesce(guest, settings, deadline)
    asked = f"{_FREEZE}{datetime.now(UTC).isoformat()}"
    doubt: TransientError | None = None
    if settings.guest_user:
        try:
            _start_program(session, settings, guest, deadline)
        except (OutcomeUnknown, NotReady) as error:
            doubt, deadline = error, Deadline(min(_DOUBT, deadline.left))
    else:
        guest.send(asked, "freeze", deadline)
    with stream.watching(guest.vm) as watch:

        def look() -> bool | None:
            values = watch.values(guest.vm)
            answer = guestinfo.parse_answer(read_answer(values), asked)
            if answer is not None and answer.get("ok") is not True:
                text = f"{parent.name}: {answer.get('error', answer)}. {_LOOK_THERE}"
                raise VerificationFailed(text)
            return True if values.get(FROZEN) else None

        try:
            watch.wait(look, what=f"{parent.name}: freezing: vCenter does not show it as frozen", deadline=deadline)
        except NotReady as error:
            if doubt is None:
                raise
            raise doubt from error


def frozen_at(parent: ParentRow) -> datetime:
    """When we froze it, by the last request to its guest; else when the VM was made: vCenter does not say."""
    told = guestinfo.read_id(parent.request)
    if told.startswith(_FREEZE):
        try:
            return datetime.fromisoformat(told.removeprefix(_FREEZE))
        except ValueError:
            logger.debug("%s: %s is no time", parent.name, told)
    return (parent.created or datetime.fromtimestamp(0, UTC)).astimezone(UTC)


def _quiesce(guest: Guest, settings: VsphereSettings, deadline: Deadline) -> None:
    patience = Deadline(min(_AGENT_PATIENCE, deadline.left)) if settings.guest_user else deadline
    try:
        answer = guest.ask(make_request_id(), "quiesce", patience)
    except NotReady:
        if not settings.guest_user:
            raise
        logger.warning("%s: no agent of ours answers; it is frozen without its app being quiesced", guest.name)
        return
    if answer.get("ok") is not True:
        text = f"{guest.name}: the guest could not be quiesced: {answer.get('error', answer)}. {_LOOK_THERE}"
        raise VerificationFailed(text)


def _start_program(session: Session, settings: VsphereSettings, guest: Guest, deadline: Deadline) -> None:
    login = make_login(settings)
    program = vim.vm.guest.ProcessManager.ProgramSpec(programPath=_SHELL, arguments=_FREEZING)

    def start() -> Managed:
        return session.content.guestOperationsManager.processManager.StartProgramInGuest(guest.vm, login, program)

    session.call(f"{guest.name}: starting the freeze", start, changes=True, deadline=deadline)
