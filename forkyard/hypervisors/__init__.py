"""What every hypervisor promises; the drivers beside this file keep it, and one contract suite tests them all."""

from datetime import timedelta
from typing import Protocol, runtime_checkable

from forkyard.model import ForkSpec, FrozenParent, Identity, IdentityReport, Placement, Stamp, Vm, VmId


@runtime_checkable
class StartsAhead(Protocol):
    """A hypervisor that forks sooner when something of the next forks is done before they are asked for."""

    def start_ahead(self, parent: VmId, *, timeout: timedelta) -> int:
        """Have as many processes wait for forks of *parent* as the settings say; say how many do."""
        ...


class Hypervisor(Protocol):
    """
    A place where VMs are forked.

    Calls block, each with its own timeout; they raise only `forkyard.errors`; each may be repeated;
    every VM made carries its stamp from its first moment. Drivers hold no policy. Safe to use from
    several threads and several processes at once.
    """

    name: str

    def list_vms(self, service: str | None = None) -> list[Vm]:
        """All children with our stamp, dead ones included, by name. Never a VM of somebody else's."""
        ...

    def list_parents(self, service: str | None = None) -> list[FrozenParent]:
        """All frozen parents."""
        ...

    def placements(self, service: str) -> list[Placement]:
        """Room per parent and host, best first; memory, CPU and addresses as they are really left."""
        ...

    def freeze(self, parent: VmId, *, timeout: timedelta) -> FrozenParent:
        """
        Quiesce the application in *parent*, then stop the VM where it can be forked.

        A parent that is frozen already is returned as it is.

        Raises:
            NotFound: no such parent, running or frozen.
            VerificationFailed: what is on disk of the frozen parent is broken; the message says which file.
            NotReady: the application did not become idle in time.
            Unsupported: it is frozen, and cannot be forked by the hypervisor as it is now; the message says why.
        """
        ...

    def fork(self, spec: ForkSpec, *, timeout: timedelta) -> Vm:
        """
        Make a running child, its NIC down. Same name and same fork id: the child that is there is returned.

        Raises:
            NotFound: the parent is not there or not frozen.
            CapacityExhausted: memory, disk or addresses; nothing was made.
            PermanentError: the name belongs to a VM with another stamp.
            OutcomeUnknown: begun, and not known to be finished.
        """
        ...

    def identify(self, vm: VmId, identity: Identity, *, timeout: timedelta) -> IdentityReport:
        """
        Give the child its identity; its NIC goes up only when every point is proved.

        Raises:
            VerificationFailed: the guest could not prove it; the NIC stays down.
            NotReady: the guest's agent did not answer in time.
        """
        ...

    def restamp(self, vm: VmId, stamp: Stamp) -> Vm:
        """Replace the stamp, for instance to keep the VM for good; fork id and service must not change."""
        ...

    def destroy(self, vm: VmId, *, timeout: timedelta) -> None:
        """Remove the VM and all it holds (disk, address, network device). Absent is success."""
        ...
