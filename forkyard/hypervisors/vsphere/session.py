"""
One session at vCenter: logged in when it is first needed, and again whenever vCenter has forgotten it.

Every call goes through `Session.call`, which translates faults, counts calls, and repeats exactly what was certainly
not carried out: a call that nobody took, and one that was refused because the session was gone. After an answer that
was lost nothing more is sent until vCenter was asked whether it is there and still knows us: one thread asks for all.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from forkyard.errors import CredentialsRejected, ForkyardError, NotReady, TransientError, Unavailable, Unsupported
from forkyard.hypervisors.vsphere.api import Managed, vim
from forkyard.hypervisors.vsphere.connection import FIRST_VERSION, choose_version, make_context, make_stub
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.faults import NotSent, SessionLost, translated, was_answered
from forkyard.settings import VsphereSettings, read_password
from forkyard.waiting import wait_for

T = TypeVar("T")

logger = logging.getLogger(__name__)

PATIENCE = timedelta(seconds=30)
"""How long a call without a deadline of its own waits for a vCenter that is being restarted."""
CALL_TIMEOUT = 20.0
"""Seconds without a byte of an answer; all calls but the update stream's answer at once."""
REFUSED_FOR = 30.0
"""Seconds for which a refused login is believed: a vCenter that is asked too often locks the account."""
AWAY_FOR = 0.5
"""Seconds for which a vCenter that did not answer one thread is away for all of them."""
STREAM_WAIT = 20
"""Seconds after which vCenter answers the update stream although nothing has changed."""


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    """How a call ended that is not to be repeated."""

    value: T | None = None
    error: TransientError | None = None


class Session:
    """vCenter under one user's name. Safe to use from several threads."""

    def __init__(self, settings: VsphereSettings) -> None:
        """Take the settings; nothing is sent before the first call."""
        self._settings = settings
        self._lock = threading.Lock()
        self._stub: Any = None
        self._slow_stub: Any = None
        self._context: Any = None
        self._other_stubs: dict[str, Any] = {}
        self._content: Managed = None
        self._connected = False
        self._logins = 0
        self._valid = False
        self._doubted = False
        self._failure: ForkyardError | None = None
        self._failed_until = 0.0
        self.calls: Counter[str] = Counter()
        """How often each of vCenter's methods was called; for who measures."""

    @property
    def refused(self) -> bool:
        """Whether vCenter refused the last login, and nobody has logged in since."""
        return isinstance(self._failure, CredentialsRejected)

    @property
    def content(self) -> Managed:
        """The service content, where everything begins; connects when nobody has yet."""
        if self._content is None:
            self.call("connecting", lambda: None)
        return self._content

    def find(self, kind: Managed, moid: str) -> Managed:
        """The object of that id, unseen; calls on it say whether it is there."""
        if self._stub is None:
            self.call("connecting", lambda: None)
        return kind(moid, self._stub)

    def call(self, what: str, act: Callable[[], T], *, changes: bool = False, deadline: Deadline | None = None) -> T:
        """
        Make one call, logged in; wait for a vCenter that does not answer until *deadline*.

        Raises:
            OutcomeUnknown: with *changes*, when the answer was lost.
            Unavailable: vCenter did not come back in time; nothing was done.
            ForkyardError: as the table of faults says.
        """
        deadline = deadline or Deadline(PATIENCE)

        def look() -> _Done[T]:
            try:
                return _Done(self._call_once(what, act, changes=changes))
            except (NotSent, SessionLost):
                raise
            except TransientError as error:
                if isinstance(error, Unavailable) and not changes:
                    raise
                return _Done(error=error)

        try:
            done = wait_for(look, what=what, timeout=deadline.left, interval=timedelta(milliseconds=100))
        except NotReady as error:
            raise Unavailable(str(error)) from error
        if done.error is not None:
            raise done.error
        return done.value  # type: ignore[return-value]  # T may itself be an optional

    def slow_stub(self) -> Any:  # noqa: ANN401 - pyVmomi's stub
        """The adapter for the one call that may take its time, in the same session."""
        self.call("connecting", lambda: None)
        self._slow_stub.cookie = self._stub.cookie
        return self._slow_stub

    def stub_at(self, path: str, *, version: str, timeout: float) -> Any:  # noqa: ANN401 - pyVmomi's stub
        """
        The adapter to another of vCenter's services, in the same session and under the same check of certificates.

        What fails there says nothing about this session, so calls through it do not belong in `call`.
        """
        self.call("connecting", lambda: None, deadline=Deadline(timedelta(seconds=timeout)))
        with self._lock:
            if path not in self._other_stubs:
                stub = make_stub(self._settings, self._context, version=version, timeout=timeout, path=path)
                self._other_stubs[path] = _counting(stub, self.calls)
            self._other_stubs[path].cookie = self._stub.cookie
            return self._other_stubs[path]

    def close(self) -> None:
        """Log out, if vCenter is there to hear it."""
        with self._lock:
            if self._valid and self._content is not None:
                self._valid = False
                try:
                    with translated("logging out", changes=False):
                        self._content.sessionManager.Logout()
                except TransientError as error:
                    logger.debug("%s", error)
            for stub in (self._stub, self._slow_stub, *self._other_stubs.values()):
                if stub is not None:
                    stub.DropConnections()

    def _call_once(self, what: str, act: Callable[[], T], *, changes: bool) -> T:
        for last in (False, True):
            seen = self._enter()
            try:
                with translated(what, changes=changes):
                    return act()
            except SessionLost:
                with self._lock:
                    # Only the first of many threads that hear it: the next may be logged in anew already.
                    self._valid = self._valid and self._logins != seen
                if last:
                    raise
            except TransientError as error:
                if not was_answered(error):
                    with self._lock:
                        self._doubted = self._doubted or self._logins == seen
                raise
        raise AssertionError  # the second turn returns or raises

    def _enter(self) -> int:
        """See to it that we are logged in, by one thread at a time; raises NotSent while vCenter is away."""
        with self._lock:
            if self._valid and not self._doubted:
                return self._logins
            if self._failure is not None and time.monotonic() < self._failed_until:
                raise type(self._failure)(str(self._failure)) from self._failure
            try:
                if not (self._valid and self._is_known()):
                    self._log_in()
            except CredentialsRejected as error:
                self._valid = False
                self._note(error, REFUSED_FOR)
                raise
            except TransientError as error:
                # Whatever the call was to do, it was not sent.
                away = NotSent(str(error))
                self._note(away, AWAY_FOR)
                raise away from error
            self._doubted, self._failure = False, None
            return self._logins

    def _note(self, failure: ForkyardError, seconds: float) -> None:
        self._failure, self._failed_until = failure, time.monotonic() + seconds

    def _is_known(self) -> bool:
        try:
            with translated(f"looking whether {self._settings.url} is there", changes=False):
                return self._content.sessionManager.currentSession is not None
        except SessionLost:
            return False

    def _log_in(self) -> None:
        self._valid = False
        what = f"{self._settings.user} at {self._settings.url}"
        with translated(what, changes=False):
            # Whole or not at all: a first connection that broke in the middle is made anew.
            if not self._connected:
                self._connect()
            self._stub.cookie = ""
            self._content.sessionManager.Login(self._settings.user, read_password(self._settings), None)
        if self._content.about.apiType != "VirtualCenter":
            text = f"{self._settings.url} is an ESXi host. Instant Clone works through a vCenter: name that."
            raise Unsupported(text)
        if self._logins:
            logger.info("%s: the session was lost; logged in again", what)
        self._logins += 1
        self._valid = True

    def _connect(self) -> None:
        context = self._context = make_context(self._settings)
        asking = make_stub(self._settings, context, version=FIRST_VERSION, timeout=CALL_TIMEOUT)
        about = vim.ServiceInstance("ServiceInstance", asking).RetrieveContent().about
        version = choose_version(about.apiVersion)
        asking.DropConnections()
        self._stub = _counting(make_stub(self._settings, context, version=version, timeout=CALL_TIMEOUT), self.calls)
        slow = make_stub(self._settings, context, version=version, timeout=CALL_TIMEOUT + STREAM_WAIT)
        self._slow_stub = _counting(slow, self.calls)
        self._content = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
        self._connected = True


def _counting(stub: Any, calls: Counter[str]) -> Any:  # noqa: ANN401 - pyVmomi's stub
    """Count what goes through *stub*."""
    invoke = stub.InvokeMethod

    def counted(managed: Managed, info: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - pyVmomi's own
        calls[info.wsdlName] += 1
        return invoke(managed, info, *args, **options)

    stub.InvokeMethod = counted
    return stub
