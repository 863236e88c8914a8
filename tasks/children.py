"""Fork children, give them their identity, keep those that serve, destroy those that must go."""

import base64
import os
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from prefect import task

from forkyard.errors import ForkyardError, NotReady, VerificationFailed
from forkyard.model import ForkSpec, Identity, Outcome, Phase, Registration, Stamp, Step, Vm, VmId
from forkyard.names import make_fork_id
from forkyard.settings import Settings
from tasks.options import BATCH
from tasks.work import Batch, Work

_IDENTITIES = uuid.UUID("0f5b1f0e-3f5d-4f6b-9d0e-9a5f7f6d2c11")

CALL_TIMEOUT = timedelta(seconds=20)
"""For restamping or destroying one child, all attempts together; a cancelled run has 30 s for all of its rollback."""


@task(name="fork-children", task_run_name="fork-children {label}", **BATCH)
def fork_children(work: Work, label: str, steps: Batch[Step]) -> Batch[Outcome[Vm]]:
    """Fork each step's child, its network down; none any more once too many have failed."""
    work.pace.enter(label, stop=work.permit.stop)
    return work.each_among_others(steps, lambda step: _fork(work, step))


def _fork(work: Work, step: Step) -> Outcome[Vm]:
    if work.permit.breaker_open:
        return Outcome(step.name, None, f"{step.name}: not forked: too many children of this request failed before it")
    placement = step.placement
    if placement is None:
        text = f"{step.name}: a plan without a placement"
        raise ValueError(text)
    stamp = Stamp(
        service=work.service,
        fork_id=make_fork_id(work.request.id, step.name),
        request_id=work.request.id,
        expires=datetime.now(UTC) + work.world.policy.orphan_after,
    )
    spec = ForkSpec(step.name, stamp, placement)
    outcome = work.attempt(
        step.name,
        Phase.FORKED,
        lambda left: work.world.hypervisor.fork(spec, timeout=left),
        work.world.policy.fork_timeout,
    )
    return _counted(work, outcome)


@task(name="customize-guest", task_run_name="customize-guest {label}", **BATCH)
def customize_guest(work: Work, label: str, forked: Batch[Outcome[Vm]]) -> Batch[Outcome[Vm]]:
    """Give each forked child its identity; what failed before passes through as it is."""
    del label
    return work.each_among_others(forked, lambda outcome: _customize(work, outcome))


def _customize(work: Work, forked: Outcome[Vm]) -> Outcome[Vm]:
    vm = forked.value
    if vm is None or vm.identified:
        return forked

    def call(left: timedelta) -> Vm:
        # Made for each attempt: the wall clock in it must be this moment's.
        report = work.world.hypervisor.identify(vm.id, make_identity(work, vm), timeout=left)
        if not report.proved:
            missing = ", ".join(f"{p.point} ({p.detail})" for p in report.points if not p.proved)
            text = f"{vm.name}: identity not proved: {missing or 'points are missing from the report'}"
            raise VerificationFailed(text)
        return replace(vm, identified=True)

    return _counted(work, work.attempt(vm.name, Phase.IDENTIFIED, call, work.world.policy.identify_timeout))


def make_identity(work: Work, vm: Vm) -> Identity:
    """Make the identity of a forked child of the service that is scaled."""
    return make_bare_identity(work.world.settings, vm)


def make_bare_identity(settings: Settings, vm: Vm) -> Identity:
    """
    Make the identity of a forked child.

    All but clock and seed follow from the fork id, so that a repeated call asks for the same again.
    """
    if vm.address is None or vm.mac is None:
        text = f"{vm.name}: the hypervisor has given it no address or MAC yet"
        raise NotReady(text)
    network, gateway = settings.network_of(vm.stamp.service)
    return Identity(
        fork_id=vm.stamp.fork_id,
        request_id=vm.stamp.request_id,
        service=vm.stamp.service,
        name=vm.name,
        mac=vm.mac,
        address=f"{vm.address}/{network.prefixlen}",
        gateway=None if gateway is None else str(gateway),
        machine_id=uuid.uuid5(_IDENTITIES, f"{vm.stamp.fork_id}/machine").hex,
        consul_node_id=str(uuid.uuid5(_IDENTITIES, f"{vm.stamp.fork_id}/consul")),
        consul_join=settings.consul.join,
        datacenter=settings.consul.datacenter,
        wall_clock=time.time(),
        seed=base64.b64encode(os.urandom(32)).decode(),
    )


@task(name="keep-children", task_run_name="keep-children", **BATCH)
def keep_children(work: Work, vms: Batch[Vm]) -> Batch[Outcome[Vm]]:
    """Make children that serve members of the fleet: their stamps no longer expire."""
    return work.each(vms, lambda vm: _keep(work, vm))


def _keep(work: Work, vm: Vm) -> Outcome[Vm]:
    def call(left: timedelta) -> Vm:
        del left
        return work.world.hypervisor.restamp(vm.id, replace(vm.stamp, expires=None))

    return work.attempt(vm.name, None, call, CALL_TIMEOUT)


@task(name="destroy-children", task_run_name="destroy-children {label}", **BATCH)
def destroy_children(
    work: Work, label: str, children: Batch[tuple[str, VmId]], *, undo: bool = False
) -> Batch[Outcome[bool]]:
    """
    Destroy each child and remove what it left in the registry; with *undo* also after the request was cancelled.

    The VM goes first: a living Consul agent would put its entry back.
    """
    del label
    entries = _entries_by_node(work)

    def destroy(child: tuple[str, VmId]) -> Outcome[bool]:
        name, vm = child

        def call(left: timedelta) -> bool:
            work.world.hypervisor.destroy(vm, timeout=left)
            if name in entries:
                work.world.registry.deregister(entries[name])
            work.world.registry.set_draining(work.service, name, draining=False)
            return True

        return work.attempt(name, Phase.RETIRED, call, CALL_TIMEOUT, undo=undo)

    return work.each(children, destroy)


def _entries_by_node(work: Work) -> dict[str, Registration]:
    try:
        return {entry.node: entry for entry in work.world.registry.registrations(work.service)}
    except ForkyardError as error:
        # The VMs go all the same; their entries turn critical and are the reaper's.
        work.journal.remark(f"registrations could not be read: {error}")
        return {}


def _counted(work: Work, outcome: Outcome[Vm]) -> Outcome[Vm]:
    if not outcome.ok:
        work.permit.note_failure()
    return outcome
