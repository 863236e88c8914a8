"""
One update stream for any number of tasks and VMs: whoever waits for something waits here.

A list view at vCenter holds what is watched, one filter says which properties count, and one thread asks
`WaitForUpdatesEx` for what has changed. Another thread changes the list, everything that came meanwhile in one call.
A session that has expired costs nothing but a new stream. When vCenter goes away the watches of VMs go on with the
next stream; those of tasks end with OutcomeUnknown: a vCenter that was restarted knows its earlier tasks no more.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Condition, Event, Lock, Thread
from typing import Any, TypeVar

from forkyard.errors import (
    CredentialsRejected,
    ForkyardError,
    NotReady,
    OutcomeUnknown,
    PermanentError,
    TransientError,
)
from forkyard.hypervisors.vsphere.api import Managed, key_of, vim, vmodl
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.faults import SessionLost, translate_fault, translated
from forkyard.hypervisors.vsphere.session import STREAM_WAIT, Session

T = TypeVar("T")

logger = logging.getLogger(__name__)

TASK_PATHS = ("info.state", "info.result", "info.error")
_LOOK_THERE = "Look at the VM's tasks in vCenter."
_LOOK = 0.5
"""Seconds between two looks at the end of the stream while somebody waits."""
_GATHER = 0.02
"""Seconds in which what is to be watched gathers for one change of the list."""
_PAUSE = 0.5
"""Seconds until the next try after vCenter went away."""
_REFUSED_PAUSE = 5.0
"""Seconds until the next try after vCenter refused us; no try before somebody else's login succeeded."""

Values = Mapping[str, Any]


class Watch:
    """What is known of a few objects, as the stream told it last. Used by one thread; the stream's adds to it."""

    def __init__(self, stream: "UpdateStream") -> None:
        """Begin without objects."""
        self._stream = stream
        self._changed = Condition()
        self._values: dict[str, dict[str, Any]] = {}
        self._error: ForkyardError | None = None

    def add(self, *objects: Managed) -> None:
        """Watch these too."""
        with self._changed:
            self._values.update({key_of(one): {} for one in objects})
        self._stream.follow(self, objects)

    def values(self, managed: Managed) -> Values:
        """The object's properties by path; empty while nothing was told."""
        return self._values[key_of(managed)]

    def keys(self) -> Iterable[str]:
        """The objects' names in the stream."""
        return tuple(self._values)

    def wait(self, look: Callable[[], T | None], *, what: str, deadline: Deadline, advice: str = _LOOK_THERE) -> T:
        """
        Wait until *look* finds something in the values; *advice* is what to do when it does not.

        Raises:
            NotReady: the deadline passed first.
            OutcomeUnknown: vCenter went away, or refused us, while a task was watched.
            CredentialsRejected: it refused us while none was.
        """
        with self._changed:
            while True:
                found = look()
                if found is not None:
                    return found
                if self._error is not None:
                    text = f"{what}: {self._error}"
                    kind = OutcomeUnknown if self._has_task() else type(self._error)
                    raise kind(text) from self._error
                if deadline.passed:
                    text = f"{what}: not within its time. {advice}"
                    raise NotReady(text)
                self._changed.wait(min(_LOOK, deadline.left.total_seconds()))

    def wait_for_task(self, task: Managed, *, what: str, deadline: Deadline) -> Any:  # noqa: ANN401 - the task's result
        """
        Wait for the end of a task that is watched; return its result.

        Raises:
            OutcomeUnknown: the deadline passed, or vCenter went away.
            ForkyardError: the task failed; as the table of faults says.
        """
        try:
            state = self.wait(lambda: self.end_of(task), what=what, deadline=deadline)
        except NotReady as error:
            raise OutcomeUnknown(str(error)) from error
        if state == "error":
            fault = self.values(task).get("info.error")
            raise translate_fault(fault, what)
        return self.values(task).get("info.result")

    def end_of(self, task: Managed) -> str | None:
        """`success` or `error` once the task has ended."""
        values = self.values(task)
        state = str(values.get("info.state", ""))
        # State and error may come in two updates.
        if state == "error" and values.get("info.error") is None:
            return None
        return state if state in {"success", "error"} else None

    def tell(self, key: str, changes: Mapping[str, Any]) -> None:
        """Take over what has changed; for the stream."""
        with self._changed:
            if key in self._values:
                self._values[key].update(changes)
                self._changed.notify_all()

    def fail(self, error: ForkyardError) -> None:
        """End the wait if a task is watched, or if no waiting helps; for the stream."""
        with self._changed:
            if self._has_task() or isinstance(error, PermanentError):
                self._error = error
                self._changed.notify_all()

    def _has_task(self) -> bool:
        return any(key.startswith("Task:") for key in self._values)


class UpdateStream:
    """The one stream of a session; begins with its first watch."""

    def __init__(self, session: Session, vm_paths: Iterable[str]) -> None:
        """Follow *vm_paths* of VMs besides the tasks; nothing is sent yet."""
        self._session = session
        self._vm_paths = list(vm_paths)
        self._lock = Lock()
        self._watches: dict[str, list[Watch]] = {}
        self._objects: dict[str, Managed] = {}
        self._wanted: set[str] = set()
        self._listed: set[str] = set()
        self._latest: dict[str, dict[str, Any]] = {}
        self._view: Managed = None
        self._collector: Managed = None
        self._refusal: CredentialsRejected | None = None
        self._stop = Event()
        self._news = Event()
        self._threads: list[Thread] = []

    @contextmanager
    def watching(self, *objects: Managed) -> Iterator[Watch]:
        """Watch objects, more of them by and by, until the block ends."""
        watch = Watch(self)
        if objects:
            watch.add(*objects)
        try:
            yield watch
        finally:
            self._leave(watch)

    def follow(self, watch: Watch, objects: Iterable[Managed]) -> None:
        """Have the stream tell *watch* of these."""
        known: dict[str, Values] = {}
        with self._lock:
            for one in objects:
                key = key_of(one)
                self._watches.setdefault(key, []).append(watch)
                self._objects[key] = one
                self._wanted.add(key)
                # Listed still for somebody else, or for a watch that has just ended: vCenter tells its changes only.
                known[key] = dict(self._latest.get(key, ()))
            # Once somebody was let in again the stream is about to open: what is begun now must not count as lost.
            refusal = self._refusal if self._session.refused else None
            if not self._threads and not self._stop.is_set():
                self._start()
        for key, values in known.items():
            watch.tell(key, values)
        if refusal is not None:
            watch.fail(refusal)
        self._news.set()

    def close(self) -> None:
        """End both threads."""
        self._stop.set()
        self._news.set()
        collector = self._collector
        if collector is not None:
            # A stream that waits is woken; one whose vCenter is gone ends by its own timeout.
            with suppress(ForkyardError), translated("closing the update stream", changes=False):
                collector.CancelWaitForUpdates()
        for thread in self._threads:
            thread.join(STREAM_WAIT + 5.0)

    def _start(self) -> None:
        for name, work in (("updates", self._read), ("watches", self._list)):
            thread = Thread(target=work, name=f"forkyard-vsphere-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _leave(self, watch: Watch) -> None:
        with self._lock:
            for key in watch.keys():  # noqa: SIM118 - a method, not a dictionary's
                left = [other for other in self._watches.get(key, ()) if other is not watch]
                if left:
                    self._watches[key] = left
                    continue
                self._watches.pop(key, None)
                self._objects.pop(key, None)
                self._wanted.discard(key)
        self._news.set()

    # The reading thread

    def _read(self) -> None:
        while not self._stop.is_set():
            refused = False
            try:
                self._read_until_lost()
            except SessionLost as error:
                # The tasks go on without us; one that is not known to the next stream is told by the other thread.
                logger.info("the update stream's session was lost, it is opened again: %s", error)
            except TransientError as error:
                self._end_watches(error)
                logger.info("the update stream broke and is opened again: %s", error)
            except CredentialsRejected as error:
                with self._lock:
                    self._refusal = error
                self._end_watches(error)
                logger.warning("the update stream ended, and is opened again once vCenter lets us in: %s", error)
                refused = True
            except Exception as error:
                # Whoever waits must not wait for a thread that is dead.
                self._end_watches(OutcomeUnknown(f"the update stream broke: {error}"))
                logger.exception("the update stream broke and is opened again")
            finally:
                with self._lock:
                    self._view = self._collector = None
                    self._listed = set()
                    self._latest.clear()
            self._stop.wait(_REFUSED_PAUSE if refused else _PAUSE)
            while refused and self._session.refused and not self._stop.wait(_PAUSE):
                pass

    def _read_until_lost(self) -> None:
        # By a call that logs in anew: when the session was lost, nobody else may have noticed yet.
        collector, view = self._session.call("opening the update stream", self._open)
        slow = vmodl.query.PropertyCollector(collector._moId, self._session.slow_stub())  # noqa: SLF001 - no public word
        with self._lock:
            self._collector, self._view = collector, view
            self._refusal = None
        self._news.set()
        version = ""
        options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=STREAM_WAIT)
        while not self._stop.is_set():
            with translated("the update stream", changes=False):
                update = slow.WaitForUpdatesEx(version, options)
            if update is None:
                continue
            version = update.version
            for part in update.filterSet or ():
                for change in part.objectSet:
                    self._tell(change)

    def _open(self) -> tuple[Managed, Managed]:
        content = self._session.content
        collector = content.propertyCollector.CreatePropertyCollector()
        view = content.viewManager.CreateListView([])
        collector.CreateFilter(self._make_filter(view), partialUpdates=False)
        return collector, view

    def _make_filter(self, view: Managed) -> Managed:
        query = vmodl.query.PropertyCollector
        members = query.TraversalSpec(name="members", path="view", skip=False, type=vim.view.ListView)
        return query.FilterSpec(
            objectSet=[query.ObjectSpec(obj=view, skip=True, selectSet=[members])],
            propSet=[
                query.PropertySpec(type=vim.Task, pathSet=list(TASK_PATHS)),
                query.PropertySpec(type=vim.VirtualMachine, pathSet=self._vm_paths),
            ],
            reportMissingObjectsInResults=True,
        )

    def _tell(self, change: Managed) -> None:
        key = key_of(change.obj)
        if change.kind == "leave":
            return
        changes = {str(one.name): one.val for one in change.changeSet}
        with self._lock:
            self._latest.setdefault(key, {}).update(changes)
            watches = list(self._watches.get(key, ()))
        for watch in watches:
            watch.tell(key, changes)

    def _end_watches(self, error: ForkyardError) -> None:
        with self._lock:
            watches = {id(watch): watch for some in self._watches.values() for watch in some}
        for watch in watches.values():
            watch.fail(error)

    # The listing thread

    def _list(self) -> None:
        while not self._stop.is_set():
            self._news.wait()
            self._news.clear()
            with self._lock:
                view = self._view
                missing = [self._objects[key] for key in self._wanted - self._listed]
                gone = self._listed - self._wanted
                listed = set(self._wanted)
            if view is None or not (missing or gone):
                continue
            try:
                with translated("changing what is watched", changes=False):
                    unknown = view.ModifyListView(missing, [self._as_reference(key) for key in gone])
            except ForkyardError as error:
                # Most likely vCenter is gone; the reading thread opens another view and then calls for us again.
                logger.info("%s", error)
                self._news.set()
                self._stop.wait(_PAUSE)
                continue
            self._end_unknown(unknown or ())
            with self._lock:
                if self._view is view:
                    self._listed = listed
                for key in gone - self._wanted:
                    self._latest.pop(key, None)
            self._stop.wait(_GATHER)

    def _end_unknown(self, unknown: Iterable[Managed]) -> None:
        """Whoever waits for a task that vCenter does not know would wait in vain."""
        for one in unknown:
            key = key_of(one)
            with self._lock:
                watches = list(self._watches.get(key, ())) if key.startswith("Task:") else []
            for watch in watches:
                watch.fail(OutcomeUnknown(f"vCenter does not know {key} any more"))

    def _as_reference(self, key: str) -> Managed:
        kind, _, moid = key.partition(":")
        return (vim.Task if kind == "Task" else vim.VirtualMachine)(moid, None)
