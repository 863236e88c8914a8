"""See children register themselves in Consul and pass their checks; seen by one blocking query for all of them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Condition, Event, Thread
from typing import TypeVar

from prefect import task

from forkyard.errors import NotReady
from forkyard.model import Outcome, Phase, Registration, Vm
from forkyard.registry import Registry
from tasks.options import BATCH
from tasks.work import Batch, Work

T = TypeVar("T")


class RegistrationWatch:
    """The service's registrations as the registry last told them; many threads wait on one watcher."""

    def __init__(self) -> None:
        """Begin without any."""
        self.changed = Condition()
        self._by_node: dict[str, list[Registration]] = {}
        self._error: BaseException | None = None

    def follow(self, registry: Registry, service: str, stop: Event) -> None:
        """Take over what the registry tells until *stop*; an error is passed on to all who wait."""
        try:
            for entries in registry.watch(service, stop=stop):
                by_node: dict[str, list[Registration]] = {}
                for entry in entries:
                    by_node.setdefault(entry.node, []).append(entry)
                with self.changed:
                    self._by_node = by_node
                    self.changed.notify_all()
        except BaseException as error:  # whatever it is, those who wait must not wait for a dead thread
            with self.changed:
                self._error = error
                self.changed.notify_all()
            raise

    def wait(self, node: str, look: Callable[[list[Registration]], T | None], *, timeout: timedelta, stop: Event) -> T:
        """Wait until *look* finds something in the node's entries; raises NotReady when *timeout* passes first."""
        deadline = time.monotonic() + timeout.total_seconds()
        with self.changed:
            while True:
                found = look(self._by_node.get(node, []))
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if self._error is not None:
                    text = f"{node}: the registry can no longer be watched: {self._error}"
                    raise NotReady(text) from self._error
                if left <= 0 or stop.is_set():
                    text = f"{node}: {self._describe(node)} after {timeout.total_seconds():.0f} s"
                    raise NotReady(text)
                # Half a second: `stop` does not notify this condition.
                self.changed.wait(min(left, 0.5))

    def _describe(self, node: str) -> str:
        entries = self._by_node.get(node, [])
        return f"registered, but {entries[0].status}" if entries else "not registered in Consul"


@contextmanager
def watching(work: Work) -> Iterator[None]:
    """Watch the service's registrations while the block runs."""
    stop = Event()
    watch = work.watch = RegistrationWatch()
    thread = Thread(
        target=watch.follow, args=(work.world.registry, work.service, stop), name=f"watch-{work.service}", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        # Not joined: a blocking query may be under way for minutes; it ends with the process and changes nothing.
        stop.set()
        work.watch = None


@task(name="verify-consul-registration", task_run_name="verify-consul-registration {label}", **BATCH)
def verify_registration(work: Work, label: str, identified: Batch[Outcome[Vm]]) -> Batch[Outcome[Vm]]:
    """Wait until each identified child is registered and passes its checks; then others may begin."""
    try:
        return work.each_among_others(identified, lambda outcome: _verify(work, outcome))
    finally:
        work.pace.leave(label)


def _verify(work: Work, identified: Outcome[Vm]) -> Outcome[Vm]:
    vm, watch, stop = identified.value, work.watch, work.permit.stop
    if vm is None or watch is None:
        return identified

    def own(entries: list[Registration]) -> list[Registration]:
        # A name may come again: an entry of an earlier fork is not this child's.
        return [entry for entry in entries if entry.fork_id in (None, vm.stamp.fork_id)]

    def is_registered(entries: list[Registration]) -> bool | None:
        return True if own(entries) else None

    def is_passing(entries: list[Registration]) -> bool | None:
        found = own(entries)
        return True if found and all(entry.status == "passing" for entry in found) else None

    timeout = work.world.policy.register_timeout
    registered = work.attempt(
        vm.name, Phase.REGISTERED, lambda left: watch.wait(vm.name, is_registered, timeout=left, stop=stop), timeout
    )
    if not registered.ok:
        work.permit.note_failure()
        return replace(identified, value=None, error=registered.error, transient=registered.transient)
    ready = work.attempt(
        vm.name,
        Phase.READY,
        lambda left: watch.wait(vm.name, is_passing, timeout=left, stop=stop),
        timeout - timedelta(seconds=registered.seconds),
    )
    if not ready.ok:
        work.permit.note_failure()
        return replace(identified, value=None, error=ready.error, transient=ready.transient)
    return identified
