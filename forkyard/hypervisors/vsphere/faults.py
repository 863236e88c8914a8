"""
What vSphere's faults are to us: one table, most specific first, and the few errors of the connection itself.

Order matters: in pyVmomi `NotAuthenticated` is a kind of `NoPermission`, and `NoDiskSpace` a kind of `FileFault`.
A fault that stands in no row is permanent, under its own name: repeating what is not understood helps nobody.
"""

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from xml.parsers.expat import ExpatError

from forkyard.errors import (
    CapacityExhausted,
    CredentialsRejected,
    ForkyardError,
    NotFound,
    NotReady,
    OutcomeUnknown,
    PermanentError,
    Unavailable,
    Unsupported,
    VerificationFailed,
)
from forkyard.hypervisors.vsphere.api import Managed, moid, vim, vmodl
from forkyard.hypervisors.vsphere.connection import NotConnected, WrongCertificate


class DuplicateName(PermanentError):
    """Something of that name is there already; the driver looks whether it is ours."""


class SessionLost(Unavailable):
    """vCenter knows our session no more; the call was not carried out."""


class NotSent(Unavailable):
    """Nobody took the call, so it may be sent again without a look."""


_Kind = type[ForkyardError]

_TABLE: tuple[tuple[Managed, _Kind, str], ...] = (
    (vim.fault.NotAuthenticated, SessionLost, ""),
    (vim.fault.PasswordExpired, CredentialsRejected, "Set a new password for vsphere.user."),
    (vim.fault.InvalidLogin, CredentialsRejected, "Check vsphere.user and its password."),
    (vim.fault.NoPermission, CredentialsRejected, "Give the role of vsphere.user this privilege there."),
    (vim.fault.InvalidGuestLogin, CredentialsRejected, "Check vsphere.guest_user and its password."),
    (vim.fault.GuestPermissionDenied, CredentialsRejected, "vsphere.guest_user may not do this in the guest."),
    (vim.fault.RestrictedVersion, Unsupported, "This licence does not open the API for changes."),
    (
        vmodl.fault.ManagedObjectNotFound,
        NotFound,
        "Somebody removed it: ask again, and what is there is looked at anew.",
    ),
    (vmodl.fault.MethodNotFound, Unsupported, "Instant Clone needs vCenter 6.7 or newer."),
    (
        vmodl.fault.NotSupported,
        Unsupported,
        "Look at the VM's devices, its hardware version, and its host's ESXi (6.7).",
    ),
    (vmodl.fault.NotEnoughLicenses, CapacityExhausted, "Add licences, or ask for fewer children."),
    (vmodl.fault.HostCommunication, Unavailable, ""),
    (vmodl.fault.RequestCanceled, OutcomeUnknown, ""),
    (vmodl.fault.SystemError, OutcomeUnknown, ""),
    (vim.fault.DuplicateName, DuplicateName, "Rename or remove what has it."),
    (vim.fault.NotFound, NotFound, "Look in vCenter whether it is still there."),
    (vim.fault.TaskInProgress, NotReady, "Another task is at work on it: ask again once that has ended."),
    (vim.fault.InvalidPowerState, NotReady, "It was powered on or off meanwhile: look at it in vCenter."),
    (vim.fault.InvalidState, NotReady, "Is its host in maintenance mode, or on its way there?"),
    (vim.fault.ToolsUnavailable, NotReady, "Is open-vm-tools running in it?"),
    (vim.fault.GuestOperationsUnavailable, NotReady, "Is open-vm-tools running in it?"),
    (vim.fault.CustomizationFault, VerificationFailed, "Its log in the guest: /var/log/vmware-gosc."),
    (vim.fault.Timedout, OutcomeUnknown, ""),
    (vim.fault.ConcurrentAccess, Unavailable, ""),
    (vim.fault.HostConnectFault, Unavailable, ""),
    (vim.fault.NoDiskSpace, CapacityExhausted, "Free room on the datastore, or name another in vsphere.datastore."),
    (vim.fault.InsufficientResourcesFault, CapacityExhausted, "Add hosts, or ask for fewer children."),
    (vim.fault.LimitExceeded, CapacityExhausted, "Ask for fewer children."),
    (vim.fault.FileLocked, Unavailable, ""),
    (vim.fault.InaccessibleDatastore, Unavailable, "The host does not reach its datastore."),
)


def translate_fault(fault: Managed, what: str) -> ForkyardError:
    """
    Make our error of a fault of vSphere's.

    *what* says which call on which thing it was.
    """
    for kind, ours, advice in _TABLE:
        if isinstance(fault, kind):
            return ours(f"{what}: {_describe(fault)}" + (f" {advice}" if advice else ""))
    return PermanentError(f"{what}: {_describe(fault)} Its task in vCenter says more.")


def was_answered(error: ForkyardError) -> bool:
    """Whether the error is a fault that vCenter itself has told, and not its silence."""
    return isinstance(error.__cause__, vmodl.MethodFault)


def _is_starting(error: Exception) -> bool:
    # Its proxy says so while vpxd behind it does not run. Should vpxd have begun after all, a repeat does no harm:
    # each of our calls looks, or names what it makes.
    return isinstance(error, http.client.HTTPException) and str(error).startswith("503 ")


def _describe(fault: Managed) -> str:
    name = type(fault).__name__.rpartition(".")[2]
    if isinstance(fault, vim.fault.NoPermission):
        where = f" on {moid(fault.object)}" if fault.object is not None else ""
        return f"privilege {fault.privilegeId} is missing{where}."
    words = str(fault.msg or "").strip().rstrip(".")
    details = [str(getattr(fault, field)) for field in ("name", "reason", "datastore") if getattr(fault, field, None)]
    text = ", ".join([*([words] if words else []), *details])
    return f"{name} ({text})." if text and text != name else f"{name}."


@contextmanager
def translated(what: str, *, changes: bool) -> Iterator[None]:
    """
    Raise our errors for whatever the block meets at vCenter.

    With *changes* a call whose answer was lost becomes OutcomeUnknown; without, only Unavailable.
    """
    try:
        yield
    except vmodl.MethodFault as fault:
        raise translate_fault(fault, what) from fault
    except WrongCertificate as error:
        text = f"{what}: vCenter's certificate is not the one of vsphere.thumbprint; its fingerprint is {error}."
        raise CredentialsRejected(text) from error
    except ssl.SSLCertVerificationError as error:
        text = (
            f"{what}: vCenter's certificate is not trusted: {error.verify_message}. "
            f"Name its CA in vsphere.ca_file, or its fingerprint in vsphere.thumbprint."
        )
        raise CredentialsRejected(text) from error
    except NotConnected as error:
        text = f"{what}: vCenter does not answer: {error.strerror or error}."
        raise NotSent(text) from error
    except (OSError, http.client.HTTPException, ExpatError) as error:
        if _is_starting(error):
            text = f"{what}: vCenter is starting: {error}."
            raise NotSent(text) from error
        text = f"{what}: vCenter's answer was lost: {type(error).__name__}: {error}."
        lost: _Kind = OutcomeUnknown if changes else Unavailable
        raise lost(text) from error
