"""Who may in at a vCenter, and which vCenter we believe."""

import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from forkyard.errors import (
    CredentialsRejected,
    Unavailable,
    Unsupported,
)
from forkyard.hypervisors.vsphere.api import moid, vim
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.session import Session
from tests.support.vsphere import VsphereWorld, fork, vsphere_world

SERVICE = "game"
SOON = timedelta(seconds=3)
CLONE = "VirtualMachine.Provisioning.Clone"


def test_a_wrong_password_is_told_and_not_shown(world: VsphereWorld, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("opensesame\n")
    with pytest.raises(CredentialsRejected, match=r"administrator@vsphere.local.*vsphere.user") as caught:
        world.open(password_file=wrong).list_vms()
    assert "opensesame" not in str(caught.value)


def test_a_certificate_that_nobody_vouches_for_is_refused(world: VsphereWorld) -> None:
    with pytest.raises(CredentialsRejected, match=r"not trusted.*vsphere.ca_file.*vsphere.thumbprint"):
        world.open(thumbprint="").list_vms()


def test_another_certificate_than_the_pinned_is_refused(world: VsphereWorld) -> None:
    with pytest.raises(CredentialsRejected, match=r"not the one of vsphere\.thumbprint"):
        world.open(thumbprint="ab" * 32).list_vms()


def test_every_new_connection_is_compared_with_the_pin(world: VsphereWorld) -> None:
    hypervisor = world.open()
    hypervisor.list_vms()
    # As if the first connection had been to the right server, and the next one to a stranger's.
    stub = hypervisor.session.slow_stub()
    stub.schemeArgs["pin"] = "ab" * 32
    stub.DropConnections()
    index = vim.SearchIndex(moid(hypervisor.session.content.searchIndex), stub)
    with pytest.raises(CredentialsRejected, match=r"not the one of vsphere\.thumbprint"):
        hypervisor.session.call("looking", lambda: index.FindByInventoryPath("yard"))


def test_a_certificate_of_a_known_authority_is_taken(world: VsphereWorld) -> None:
    hypervisor = world.open(thumbprint="", ca_file=world.vcenter.door.certificate)
    assert hypervisor.list_vms() == []


def test_no_check_at_all_works_and_is_loud(world: VsphereWorld, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert world.open(thumbprint="", verify=False).list_vms() == []
    assert "CERTIFICATE IS NOT CHECKED" in caplog.text


def test_a_missing_privilege_is_named(world: VsphereWorld, tmp_path: Path) -> None:
    world.vcenter.add_person("guest@vsphere.local", "guestpass", lacks=(CLONE,))
    password = tmp_path / "password"
    password.write_text("guestpass\n")
    hypervisor = world.open(user="guest@vsphere.local", password_file=password)
    with pytest.raises(CredentialsRejected, match=CLONE):
        fork(hypervisor, "game-a-1")


def test_an_esxi_host_by_itself_is_refused(tmp_path: Path) -> None:
    with vsphere_world(tmp_path, esx=True, hosts=1) as world, pytest.raises(Unsupported, match="vCenter"):
        world.open().list_vms()


def test_nobody_at_the_door_is_unavailable(world: VsphereWorld) -> None:
    closed = Session(replace(world.settings.vsphere, url="https://127.0.0.1:9/sdk"))
    with pytest.raises(Unavailable, match="does not answer"):
        closed.call("looking", lambda: None, deadline=Deadline(timedelta(seconds=0.5)))
