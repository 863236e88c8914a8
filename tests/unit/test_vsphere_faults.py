"""vSphere's faults as our errors: most specific first, with what is missing and what to do."""

import http.client
import re
import ssl

import pytest

from forkyard.errors import (
    CapacityExhausted,
    CredentialsRejected,
    ForkyardError,
    NotFound,
    NotReady,
    OutcomeUnknown,
    PermanentError,
    TransientError,
    Unavailable,
    Unsupported,
)
from forkyard.hypervisors.vsphere.api import vim, vmodl
from forkyard.hypervisors.vsphere.connection import NotConnected
from forkyard.hypervisors.vsphere.faults import DuplicateName, NotSent, SessionLost, translate_fault, translated


@pytest.mark.parametrize(
    ("fault", "ours"),
    [
        (vim.fault.NotAuthenticated(), SessionLost),
        (vim.fault.NoPermission(), CredentialsRejected),
        (vim.fault.InvalidLogin(), CredentialsRejected),
        (vim.fault.InvalidGuestLogin(), CredentialsRejected),
        (vmodl.fault.ManagedObjectNotFound(), NotFound),
        (vim.fault.NotFound(), NotFound),
        (vim.fault.DuplicateName(), DuplicateName),
        (vim.fault.InvalidPowerState(), NotReady),
        (vim.fault.TaskInProgress(), NotReady),
        (vim.fault.ToolsUnavailable(), NotReady),
        (vim.fault.NoDiskSpace(), CapacityExhausted),
        (vim.fault.FileLocked(), Unavailable),
        (vim.fault.InsufficientMemoryResourcesFault(), CapacityExhausted),
        (vim.fault.LicenseRestricted(), CapacityExhausted),
        (vim.fault.RestrictedVersion(), Unsupported),
        (vmodl.fault.NotSupported(), Unsupported),
        (vmodl.fault.MethodNotFound(), Unsupported),
        (vmodl.fault.HostNotConnected(), Unavailable),
        (vmodl.fault.RequestCanceled(), OutcomeUnknown),
        (vim.fault.Timedout(), OutcomeUnknown),
        (vim.fault.FileFault(), PermanentError),
        (vim.fault.GenericVmConfigFault(), PermanentError),
        (vmodl.fault.InvalidArgument(), PermanentError),
    ],
)
def test_each_fault_has_one_error(fault: object, ours: type[ForkyardError]) -> None:
    error = translate_fault(fault, "game-1: fork")
    assert type(error) is ours
    if issubclass(ours, (PermanentError, NotReady)):
        # Behind its name stands what to do.
        assert re.match(r"game-1: fork: .+?\. \S+", str(error))


def test_a_missing_privilege_is_named_with_its_object() -> None:
    fault = vim.fault.NoPermission(object=vim.Folder("group-v3", None), privilegeId="VirtualMachine.Inventory.Create")
    text = str(translate_fault(fault, "game-1: fork"))
    assert "VirtualMachine.Inventory.Create" in text
    assert "group-v3" in text
    assert text.startswith("game-1: fork: ")


def test_a_fault_keeps_its_words_and_says_what_to_do() -> None:
    text = str(translate_fault(vim.fault.NoDiskSpace(msg="The datastore is full.", datastore="vsan"), "fork"))
    assert text == (
        "fork: NoDiskSpace (The datastore is full, vsan). "
        "Free room on the datastore, or name another in vsphere.datastore."
    )


@pytest.mark.parametrize(
    "error", [NotConnected(111, "refused"), http.client.HTTPException("503 Service Unavailable")], ids=str
)
def test_what_nobody_took_may_be_sent_again(error: Exception) -> None:
    with pytest.raises(NotSent), translated("fork", changes=True):
        raise error


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "reset"), TimeoutError("timed out"), http.client.RemoteDisconnected("gone")]
)
def test_a_lost_answer_is_unknown_only_when_something_was_to_change(error: Exception) -> None:
    for changes, ours in ((True, OutcomeUnknown), (False, Unavailable)):
        with pytest.raises(TransientError) as caught, translated("fork", changes=changes):
            raise error
        assert type(caught.value) is ours
        assert caught.value.__cause__ is error


def test_an_untrusted_certificate_is_no_matter_of_time() -> None:
    error = ssl.SSLCertVerificationError("bad")
    error.verify_message = "self-signed certificate"
    with (
        pytest.raises(CredentialsRejected, match=r"self-signed certificate.*vsphere.ca_file"),
        translated("login", changes=False),
    ):
        raise error
