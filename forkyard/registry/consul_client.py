"""Talk to Consul: one client a thread, a time limit on every call, foreign errors translated in one table."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

import consul
import requests
from consul.exceptions import ACLDisabled, ACLPermissionDenied, BadRequest, ClientError, ConsulException
from consul.exceptions import NotFound as ConsulNotFound
from consul.exceptions import Timeout as ConsulTimeout

from forkyard.errors import (
    CredentialsRejected,
    ForkyardError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    PermanentError,
    Unavailable,
)
from forkyard.settings import ConsulSettings

T = TypeVar("T")

CALL_SECONDS = 5.0
"""How long one call may take to connect or to answer, a blocking query's own wait not counted."""

# Most specific first: every class of py-consul descends from ConsulException, and requests' ConnectTimeout
# is both a ConnectionError and a Timeout. A 5xx is how Consul says that it has no leader.
_TRANSLATIONS: tuple[tuple[type[Exception], type[ForkyardError]], ...] = (
    (ACLPermissionDenied, CredentialsRejected),
    (ACLDisabled, CredentialsRejected),
    (ConsulNotFound, NotFound),
    (BadRequest, PermanentError),
    (ClientError, PermanentError),
    (ConsulTimeout, Unavailable),
    (ConsulException, Unavailable),
    (requests.exceptions.ReadTimeout, OutcomeUnknown),
    (requests.exceptions.RequestException, Unavailable),
)


# What Consul calls an internal error and is an answer.
_TELLTALES = (("No node found with name", NotFound),)


class ConsulClient:
    """Calls to one Consul agent; safe to use from several threads."""

    def __init__(self, settings: ConsulSettings) -> None:
        """Talk to the agent at the settings' URL; nothing is sent before the first call."""
        address = urlsplit(settings.url)
        if address.scheme not in {"http", "https"} or address.hostname is None:
            text = f"consul.url: {settings.url!r} is no address of an HTTP API. Write one like http://127.0.0.1:8500."
            raise InvalidRequest(text)
        self._url = settings.url
        self._scheme, self._host = address.scheme, address.hostname
        self._port = address.port or (443 if address.scheme == "https" else 80)
        self._token_file = settings.token_file
        self._local = threading.local()
        self._sessions: WeakSet[requests.Session] = WeakSet()

    # Any: py-consul publishes no types; its answers are checked where they become our own.
    def call(self, function: Callable[[Any], T]) -> T:
        """Call *function* with this thread's client; raises only `forkyard.errors`."""
        try:
            return function(self._client())
        except tuple(foreign for foreign, _ in _TRANSLATIONS) as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Close every connection; a later call opens new ones."""
        for session in list(self._sessions):
            session.close()

    def _client(self) -> Any:  # noqa: ANN401 - as in `call`
        client: Any = getattr(self._local, "client", None)
        if client is None:
            client = consul.Consul(
                host=self._host, port=self._port, scheme=self._scheme, connections_timeout=CALL_SECONDS
            )
            # The library would let CONSUL_HTTP_TOKEN win, and requests would use a proxy named in the environment:
            # what forkyard does is written in forkyard.toml alone.
            client.token = _read_token(self._token_file)
            client.http.session.trust_env = False
            self._local.client = client
            self._sessions.add(client.http.session)
        return client

    def _translated(self, error: Exception) -> ForkyardError:
        told = (ours for text, ours in _TELLTALES if text in str(error))
        kind = next(told, None) or next(ours for foreign, ours in _TRANSLATIONS if isinstance(error, foreign))
        return kind(f"consul at {self._url}: {_tell(error)}")


def _tell(error: Exception) -> str:
    """What Consul said; of a connection only what broke it, without the layers of libraries around that."""
    if not isinstance(error, requests.exceptions.RequestException):
        return str(error)
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {CALL_SECONDS:g} s"
    cause: BaseException = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    return f"no answer ({getattr(cause, 'strerror', None) or cause})"


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text().strip()
    except OSError as error:
        text = f"consul.token_file: {path} cannot be read ({error.strerror})."
        raise InvalidRequest(text) from error
