"""Power a VM off and delete it; each step may be done already, by us or by somebody else."""

from collections.abc import Callable
from contextlib import suppress

from forkyard.errors import NotFound, NotReady
from forkyard.hypervisors.vsphere.api import Managed, vim
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.session import Session
from forkyard.hypervisors.vsphere.stream import UpdateStream
from forkyard.hypervisors.vsphere.vms import VmRow


def remove_vm(session: Session, stream: UpdateStream, row: VmRow, deadline: Deadline) -> None:
    """
    Remove the VM with its files; a VM that is gone is success.

    Raises:
        OutcomeUnknown: vCenter did not say in time whether it is done.
    """
    vm = session.find(vim.VirtualMachine, row.id)
    try:
        if row.powered_on:
            # Off already, or just going: if it is neither, deleting it says so.
            with suppress(NotReady):
                carry_out(session, stream, f"{row.name}: powering off", vm.PowerOffVM_Task, deadline)
        carry_out(session, stream, f"{row.name}: deleting", vm.Destroy_Task, deadline)
    except NotFound:
        return


def carry_out(
    session: Session, stream: UpdateStream, what: str, act: Callable[[], Managed], deadline: Deadline
) -> object:
    """Begin a task and wait for its end; returns its result."""
    task = session.call(what, act, changes=True, deadline=deadline)
    with stream.watching(task) as watch:
        return watch.wait_for_task(task, what=what, deadline=deadline)
