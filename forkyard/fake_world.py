"""
One small pretended world that the three fakes share, so that a fork leads to a registration and then to an answer.

In memory and thread-safe. A child that was identified registers itself after `register_after`, passes its checks after
`pass_after`, and answers through the balancer once it is in the upstream: without any thread, because each look
computes what is true by now. Every call can be made slow or made to fail; a name that no call has is refused at once.
"""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from forkyard.errors import ForkyardError, NotFound
from forkyard.model import FrozenParent, Intent, LeaseHolder, Power, Registration, Server, Upstream, Vm, VmId

CALLS = frozenset(
    {
        *("list_vms", "list_parents", "placements", "freeze", "fork", "identify", "restamp", "destroy"),
        *("registrations", "deregister", "set_draining", "intent", "record_intent", "lease", "holder", "break_lease"),
        *("upstream", "check_running", "apply", "active_connections", "probe"),
    }
)
"""Every call of the three contracts that can be slowed, failed and counted; `watch` looks by `registrations`."""

GIB = 1 << 30


@dataclass(slots=True)
class Fault:
    """One way in which a call goes wrong."""

    error: ForkyardError
    name: str
    """Pattern (as in a shell) of the child, parent or service that the call is about."""
    times: int | None
    """How often it strikes; None: always."""
    rate: float
    after: bool
    """Whether the call has its effect all the same, as when only the answer is lost."""


@dataclass(slots=True)
class FakeParent:
    """A parent VM before or after its freeze."""

    id: VmId
    service: str
    frozen_at: datetime | None
    memory_bytes: int = GIB


@dataclass(slots=True)
class FakeEntry:
    """One registration and the moments from which it can be seen and passes."""

    registration: Registration
    visible: float
    passing: float


@dataclass
class FakeWorld:
    """The state behind the fakes; tests set it up, break it and look into it."""

    capacity: int = 1000
    """Children that fit in all."""
    register_after: timedelta = timedelta(0)
    pass_after: timedelta = timedelta(0)
    seed: int = 1
    vms: dict[VmId, Vm] = field(default_factory=dict[VmId, Vm])
    parents: dict[VmId, FakeParent] = field(default_factory=dict[VmId, FakeParent])
    entries: dict[tuple[str, str], FakeEntry] = field(default_factory=dict[tuple[str, str], FakeEntry])
    draining: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    intents: dict[str, Intent] = field(default_factory=dict[str, Intent])
    holders: dict[str, LeaseHolder] = field(default_factory=dict[str, LeaseHolder])
    lost: dict[str, threading.Event] = field(default_factory=dict[str, threading.Event])
    fencing: dict[str, int] = field(default_factory=dict[str, int])
    upstreams: dict[str, Upstream] = field(default_factory=dict[str, Upstream])
    connections: dict[str, float] = field(default_factory=dict[str, float])
    """Per child: the monotonic moment at which its last open connection ends."""
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Every call in its order: its name, and the child, parent or service that it was about."""

    def __post_init__(self) -> None:
        """Make the lock, the dice and the empty tables of faults and delays."""
        self.changed = threading.Condition(threading.RLock())
        self._dice = random.Random(self.seed)  # noqa: S311 - a test's dice, not a secret
        self._faults: dict[str, list[Fault]] = {}
        self._delays: dict[str, timedelta] = {}
        self._made = 0

    # What a test says

    def add_parent(self, name: str, *, service: str = "game", frozen: bool = True) -> VmId:
        """Put a parent VM into the world."""
        vm_id = VmId(name)
        with self.changed:
            self.parents[vm_id] = FakeParent(vm_id, service, datetime.now(UTC) if frozen else None)
        return vm_id

    def fail(
        self,
        call: str,
        error: ForkyardError,
        *,
        name: str = "*",
        times: int | None = None,
        rate: float = 1.0,
        after: bool = False,
    ) -> None:
        """Make *call* raise *error* for what matches *name*, the next *times* times, with probability *rate*."""
        with self.changed:
            self._faults.setdefault(_known(call), []).append(Fault(error, name, times, rate, after))

    def delay(self, call: str, pause: timedelta) -> None:
        """Make *call* take at least *pause*."""
        self._delays[_known(call)] = pause

    def mend(self) -> None:
        """Forget all faults and delays."""
        with self.changed:
            self._faults.clear()
            self._delays.clear()

    def lose_lease(self, service: str) -> None:
        """Make the registry no longer honour the lease that is held on *service*."""
        with self.changed:
            self.holders.pop(service)
            self.lost[service].set()
            self.changed.notify_all()

    def register(self, registration: Registration) -> None:
        """Put an entry into the registry, as an agent in a guest does."""
        with self.changed:
            now = time.monotonic()
            passing = now if registration.status == "passing" else float("inf")
            self.entries[registration.key] = FakeEntry(registration, now, passing)
            self.changed.notify_all()

    def counted(self) -> Counter[str]:
        """How often each call was made."""
        with self.changed:
            return Counter(call for call, _ in self.calls)

    # What the fakes say

    def enter(self, call: str, name: str) -> ForkyardError | None:
        """
        Begin a call: note it, wait its delay, and raise the fault that strikes it.

        Returns the fault that must be raised once the call has had its effect.
        """
        with self.changed:
            self.calls.append((_known(call), name))
            pause = self._delays.get(call)
        if pause:
            # Nobody sets this event: it is a pause that stands for the real driver's work.
            threading.Event().wait(pause.total_seconds())
        fault = self._strike(call, name)
        if fault is None:
            return None
        if not fault.after:
            raise fault.error
        return fault.error

    def _strike(self, call: str, name: str) -> Fault | None:
        with self.changed:
            for fault in self._faults.get(call, ()):
                if fault.times == 0 or not fnmatchcase(name, fault.name) or self._dice.random() >= fault.rate:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def next_number(self) -> int:
        """A number that this world never gave before; for addresses and pids."""
        with self.changed:
            self._made += 1
            return self._made

    def find_vm(self, vm_id: VmId) -> Vm:
        """The VM, or NotFound."""
        try:
            return self.vms[vm_id]
        except KeyError as error:
            text = f"{vm_id}: no such VM"
            raise NotFound(text) from error

    def frozen(self, parent: FakeParent) -> FrozenParent:
        """The parent as the contract shows it; only for one that is frozen."""
        if parent.frozen_at is None:
            text = f"{parent.id}: not frozen"
            raise NotFound(text)
        children = sum(vm.parent == parent.id for vm in self.vms.values())
        return FrozenParent(
            id=parent.id,
            name=str(parent.id),
            service=parent.service,
            host="fake",
            frozen_at=parent.frozen_at,
            memory_bytes=parent.memory_bytes,
            fingerprint=f"fake-{parent.id}",
            children=children,
        )

    def agent_registers(self, vm: Vm) -> None:
        """What the agent in a child does as soon as it has a network."""
        now = time.monotonic()
        visible = now + self.register_after.total_seconds()
        entry = Registration(
            # The same in each child, as the agent gives it.
            id=f"forkyard:{vm.stamp.service}:8080",
            service=vm.stamp.service,
            node=vm.name,
            address=vm.address or "",
            port=8080,
            status="critical",
            fork_id=vm.stamp.fork_id,
        )
        self.entries[entry.key] = FakeEntry(entry, visible, visible + self.pass_after.total_seconds())
        self.changed.notify_all()

    def seen(self, service: str) -> list[Registration]:
        """The service's entries as they are by now, by node name."""
        now = time.monotonic()
        with self.changed:
            found = [
                replace(
                    entry.registration,
                    status="passing" if now >= entry.passing else entry.registration.status,
                    draining=(service, entry.registration.node) in self.draining,
                )
                for entry in self.entries.values()
                if entry.registration.service == service and now >= entry.visible
            ]
        return sorted(found, key=lambda r: (r.node, r.id))

    def kill(self, name: str) -> None:
        """Let a child die as a crash does: its VM is left dead and its entry turns critical."""
        with self.changed:
            vm = next(vm for vm in self.vms.values() if vm.name == name)
            self.vms[vm.id] = replace(vm, power=Power.DEAD, pid=None)
            self.fade(name)

    def fade(self, node: str) -> None:
        """What Consul sees of a node that is gone: its entries stay, critical, until somebody removes them."""
        for entry in self.entries.values():
            if entry.registration.node == node:
                entry.passing = float("inf")
        self.changed.notify_all()

    def answers(self, server: Server) -> bool:
        """Whether a request to this server of an upstream would be answered well."""
        vm = next((vm for vm in self.vms.values() if vm.address == server.address), None)
        return vm is not None and vm.identified and vm.pid is not None and not server.down


def _known(call: str) -> str:
    if call not in CALLS:
        text = f"{call}: the contracts have no such call; known are {', '.join(sorted(CALLS))}"
        raise ValueError(text)
    return call
