"""
HTTPS to vCenter: whose certificate is believed, and which version of the API is spoken.

Certificates are checked unless forkyard.toml says otherwise. A pinned one is compared at every single connection:
pyVmomi compares it at the first one only, and from then on takes whatever comes.
"""

import hashlib
import hmac
import http.client
import logging
import re
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

from forkyard.errors import InvalidRequest, Unsupported
from forkyard.hypervisors.vsphere.api import SoapStub, versions
from forkyard.hypervisors.vsphere.readable import ReadableResponse
from forkyard.settings import VsphereSettings

logger = logging.getLogger(__name__)

FIRST_VERSION = "vim.version.version12"
"""vSphere 6.7, the first with Instant Clone; asking a server what it is works with any."""
_OLDEST = (6, 7)
_ALGORITHMS = {40: "sha1", 64: "sha256"}
_POOL = 512
"""Idle connections that are kept: as many as calls are ever in flight, because each new one costs a handshake."""


class WrongCertificate(Exception):
    """The server shows another certificate than the pinned one; the text is what it shows."""


class NotConnected(OSError):
    """No connection came about, so nothing of ours was sent."""


class Connection(http.client.HTTPSConnection):
    """A connection that tells what failed before anything was sent from what failed afterwards."""

    response_class = ReadableResponse

    def connect(self) -> None:
        """Connect; raises NotConnected, or what the certificate is refused for."""
        try:
            super().connect()
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:
            raise NotConnected(*error.args) from error


class PinnedConnection(Connection):
    """A connection to the one server whose certificate has the pinned fingerprint."""

    def __init__(self, *args: Any, pin: str, **options: Any) -> None:  # noqa: ANN401 - http.client's own
        """Take the fingerprint besides what http.client takes."""
        super().__init__(*args, **options)
        self._pin = pin

    def connect(self) -> None:
        """Connect, and compare before a byte of ours is sent."""
        super().connect()
        shown = self.sock.getpeercert(binary_form=True) or b""
        found = hashlib.new(_ALGORITHMS[len(self._pin)], shown).hexdigest()
        if not hmac.compare_digest(found, self._pin):
            self.close()
            raise WrongCertificate(found)


class Stub(SoapStub):  # type: ignore[misc]  # pyVmomi has no types
    """
    pyVmomi's adapter, whose session changes by a login only.

    vCenter gives a cookie to every call in a session that it does not know, and pyVmomi takes each. The late answer to
    a call of the session before would log everybody out, and leave another session at vCenter until it ends idle.
    """

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - pyVmomi's own
        """Take what pyVmomi's takes."""
        self._cookie = ""
        self._answering = threading.local()
        super().__init__(*args, **options)

    @property
    def cookie(self) -> str:
        """The session's."""
        return self._cookie

    @cookie.setter
    def cookie(self, cookie: str) -> None:
        if not getattr(self._answering, "no_login", False):
            self._cookie = cookie

    def InvokeMethod(self, managed: Any, info: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401, N802 - as above
        """Make the call."""
        self._answering.no_login = info.wsdlName != "Login"
        try:
            return SoapStub.InvokeMethod(self, managed, info, *args, **options)
        finally:
            self._answering.no_login = False


def make_stub(
    settings: VsphereSettings, context: ssl.SSLContext, *, version: str, timeout: float, path: str = ""
) -> Any:  # noqa: ANN401 - pyVmomi's stub
    """
    Make the adapter that calls go through; nothing is sent yet.

    *path* is that of another of vCenter's services than the one that vsphere.url names.

    Raises:
        InvalidRequest: vsphere.url or vsphere.thumbprint is none.
    """
    host, port, own_path = _split(settings.url)
    pin = _read_pin(settings.thumbprint)
    stub = Stub(
        host=host,
        port=port,
        path=path or own_path,
        version=version,
        poolSize=_POOL,
        sslContext=context,
        httpConnectionTimeout=timeout,
        # Packing a few kilobytes costs both sides more time than it saves on a network of a data centre.
        acceptCompressedResponses=False,
    )
    stub.scheme = Connection
    if pin:
        stub.scheme = PinnedConnection
        stub.schemeArgs["pin"] = pin
    return stub


def choose_version(api_version: str) -> str:
    """The newest version of the API that both pyVmomi and the server know; raises Unsupported below 6.7."""
    offered = _numbers(api_version)
    if offered < _OLDEST:
        text = f"vCenter speaks API {api_version}; Instant Clone needs 6.7 or newer."
        raise Unsupported(text)
    for version in versions.GetServiceVersions("vim25"):
        known = _numbers(versions.versionIdMap.get(version, ""))
        if known and known <= offered:
            return str(version)
    return FIRST_VERSION


def _numbers(version: str) -> tuple[int, ...]:
    # Versions that are still in the making have ids of another form: they are passed over.
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)+", version) else ()


def _split(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        text = f'vsphere.url = "{url}": an https URL is wanted, such as "https://vcenter.example/sdk".'
        raise InvalidRequest(text)
    return parts.hostname, parts.port or 443, parts.path if parts.path.strip("/") else "/sdk"


def _read_pin(thumbprint: str) -> str:
    pin = thumbprint.replace(":", "").replace(" ", "").lower()
    if pin and (len(pin) not in _ALGORITHMS or not re.fullmatch(r"[0-9a-f]+", pin)):
        text = f'vsphere.thumbprint = "{thumbprint}": 64 hexadecimal digits (SHA-256) or 40 (SHA-1) are wanted.'
        raise InvalidRequest(text)
    return pin


def make_context(settings: VsphereSettings) -> ssl.SSLContext:
    """
    Make what decides whose certificate is believed; one for all connections, because reading the CAs takes a while.

    Raises:
        InvalidRequest: vsphere.ca_file cannot be read, or vsphere.thumbprint is none.
    """
    pin = _read_pin(settings.thumbprint)
    if settings.verify and not pin:
        return _make_strict_context(settings)
    if not pin:
        logger.warning(
            "%s: ITS CERTIFICATE IS NOT CHECKED (vsphere.verify = false): anybody on the way can read the password. "
            "Name its CA in vsphere.ca_file, or its fingerprint in vsphere.thumbprint.",
            settings.url,
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _make_strict_context(settings: VsphereSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        text = f"vsphere.ca_file: {settings.ca_file} holds no certificates that can be read: {error}."
        raise InvalidRequest(text) from error
