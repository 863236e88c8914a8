"""What is sent to vCenter for a fork, and what is written on a VM and read back from it."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from forkyard.errors import InvalidRequest, NotReady, Unsupported
from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.adapters import OwnAdapters, find_connected, find_wrong
from forkyard.hypervisors.vsphere.api import vim
from forkyard.hypervisors.vsphere.connection import choose_version, make_context, make_stub
from forkyard.hypervisors.vsphere.deadline import Deadline
from forkyard.hypervisors.vsphere.guestinfo import Mark
from forkyard.hypervisors.vsphere.inventory import Devices, InventoryReader
from forkyard.hypervisors.vsphere.specs import Location, make_change, make_clone_spec
from forkyard.model import Stamp
from forkyard.settings import VsphereSettings, parse_settings, read_password

KEY = bytes(32)
FORK = "5d1f0a52-9a3e-4c0e-8d0c-3a0f6b1b7c44"
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
MARK = Mark(Stamp("game", FORK, "request", NOW), "vm-7", "10.78.1.1", NOW)
CARD = vim.vm.device.VirtualVmxnet3(
    key=4000,
    macAddress="00:50:56:aa:bb:cc",
    backing=vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName="games"),
)


def test_a_clone_starts_without_network_and_with_its_stamp() -> None:
    folder = vim.Folder("group-v3", None)
    spec = make_clone_spec("game-1", FORK, {guestinfo.STAMP: "x"}, [CARD], Location(folder))
    assert (spec.name, spec.biosUuid) == ("game-1", FORK)
    assert [(option.key, option.value) for option in spec.config] == [(guestinfo.STAMP, "x")]
    (edit,) = spec.location.deviceChange
    assert (edit.operation, edit.device.key) == ("edit", 4000)
    connect = edit.device.connectable
    assert (connect.migrateConnect, connect.connected, connect.startConnected) == ("disconnect", False, False)
    assert connect.allowGuestControl is False
    assert spec.location.folder is folder
    assert spec.location.host is None


def test_a_clone_never_asks_for_its_parents_mac() -> None:
    spec = make_clone_spec("game-1", FORK, {}, [CARD], Location(None))
    assert spec.location.deviceChange[0].device.macAddress is None


def test_a_clone_asks_for_its_parents_switch_and_not_for_its_parents_port() -> None:
    port = vim.dvs.PortConnection(portgroupKey="group-7", switchUuid="aa bb", portKey="12", connectionCookie=99)
    backing = vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)
    spec = make_clone_spec(
        "game-1", FORK, {}, [vim.vm.device.VirtualVmxnet3(key=4000, backing=backing)], Location(None)
    )
    asked = spec.location.deviceChange[0].device.backing.port
    assert (asked.portgroupKey, asked.switchUuid) == ("group-7", "aa bb")
    assert (asked.portKey, asked.connectionCookie) == (None, None)


def test_connecting_the_cable_sends_the_adapter_as_it_is_and_leaves_ours_alone() -> None:
    (edit,) = make_change({}, adapters=[CARD], connected=True).deviceChange
    assert (edit.operation, edit.device.key, edit.device.macAddress) == ("edit", CARD.key, CARD.macAddress)
    assert edit.device.backing is CARD.backing
    assert edit.device.connectable.connected is True
    assert CARD.connectable is None


def test_an_adapter_that_is_not_connected_or_has_another_mac_is_told() -> None:
    out = vim.vm.device.VirtualDevice.ConnectInfo(connected=False, startConnected=False, allowGuestControl=False)
    unplugged = vim.vm.device.VirtualVmxnet3(key=4001, macAddress="00:50:56:AA:BB:DD", connectable=out)
    assert find_wrong([unplugged], "00:50:56:aa:bb:dd") == ["adapter 4001 is not connected"]
    assert find_wrong([], "00:50:56:aa:bb:dd") == ["its MAC is none, not 00:50:56:aa:bb:dd"]
    assert find_connected([unplugged]) == []
    # What says nothing is not known to be out.
    assert find_connected([CARD, unplugged]) == ["adapter 4000"]


class NoDevices(InventoryReader):
    """Reads a VM whose configuration vCenter does not give."""

    def __init__(self) -> None:
        """Read through no session."""

    def read_devices(self, vm: str, *, deadline: Deadline | None = None) -> Devices | None:
        del vm, deadline
        return Devices((), 0)


def test_adapters_that_vcenter_does_not_tell_of_are_not_taken_for_none() -> None:
    with pytest.raises(NotReady, match="vm-7: vCenter tells of 0 network adapters, and its parent has 1"):
        OwnAdapters(NoDevices(), "vm-7", 1).read({}, Deadline(timedelta(seconds=1)))


def test_a_change_without_adapters_leaves_cables_and_note_alone() -> None:
    change = make_change({guestinfo.REQUEST: "x"})
    assert list(change.deviceChange) == []
    assert change.annotation is None


def test_a_mark_is_read_back() -> None:
    for stamp in (MARK.stamp, replace(MARK.stamp, expires=None)):
        mark = replace(MARK, stamp=stamp)
        assert guestinfo.parse_mark(guestinfo.render_mark(mark, KEY), FORK.upper(), KEY) == mark


def test_an_annotation_is_read_back_among_what_people_wrote() -> None:
    for stamp in (MARK.stamp, replace(MARK.stamp, expires=None)):
        note = f"Ask Eve.\n{guestinfo.render_note(stamp, MARK.address)}\n"
        assert guestinfo.parse_note(note, FORK.upper(), NOW) == Mark(stamp, "", MARK.address, NOW)


def test_an_annotation_on_a_vm_of_another_fork_is_none_of_ours() -> None:
    assert guestinfo.parse_note(guestinfo.render_note(MARK.stamp, MARK.address), str(uuid.uuid4()), NOW) is None


def test_a_mark_on_a_vm_of_another_fork_is_none_of_ours() -> None:
    assert guestinfo.parse_mark(guestinfo.render_mark(MARK, KEY), str(uuid.uuid4()), KEY) is None


@pytest.mark.parametrize("text", ["", "nothing", "[]", "{}", '{"service": "game"}'])
def test_what_is_no_mark_is_none(text: str) -> None:
    assert guestinfo.parse_mark(text, FORK, KEY) is None


def test_a_fork_id_that_is_no_uuid_has_one_all_the_same() -> None:
    assert guestinfo.make_bios_uuid(FORK) == FORK
    assert guestinfo.make_bios_uuid("one") == guestinfo.make_bios_uuid("one")
    assert guestinfo.make_bios_uuid("one") != guestinfo.make_bios_uuid("two")


def test_only_the_answer_to_this_request_is_one() -> None:
    assert guestinfo.parse_answer('{"id":"a","ok":true}', "a") == {"id": "a", "ok": True}
    assert guestinfo.parse_answer('{"id":"b","ok":true}', "a") is None
    assert guestinfo.parse_answer("", "a") is None


@pytest.mark.parametrize(
    ("api", "chosen"),
    [("6.7", "vim.version.version12"), ("8.0.3.0", "vim.version.v8_0_3_0"), ("99.0", "vim.version.v9_1_1_0")],
)
def test_the_newest_version_that_both_know_is_spoken(api: str, chosen: str) -> None:
    assert choose_version(api) == chosen


def test_a_vcenter_without_instant_clone_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"6\.5.*6\.7"):
        choose_version("6.5")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (VsphereSettings(url="http://vc/sdk"), "https"),
        (VsphereSettings(url="https://vc/sdk", thumbprint="ab:cd"), "64 hexadecimal digits"),
        (VsphereSettings(url="https://vc/sdk", ca_file=Path("/nowhere")), "vsphere.ca_file"),
    ],
)
def test_a_connection_that_cannot_be_made_is_refused_at_once(settings: VsphereSettings, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        make_stub(settings, make_context(settings), version="vim.version.version12", timeout=1.0)


def test_an_unchecked_certificate_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    make_context(VsphereSettings(url="https://vc/sdk", verify=False))
    assert "CERTIFICATE IS NOT CHECKED" in caplog.text


def test_the_password_comes_from_its_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    settings = VsphereSettings(url="https://vc/sdk", password_file=file)
    assert read_password(settings) == "secret"
    monkeypatch.setenv("FORKYARD_VCENTER_PASSWORD", "other")
    assert read_password(replace(settings, password_file=None)) == "other"
    monkeypatch.delenv("FORKYARD_VCENTER_PASSWORD")
    with pytest.raises(InvalidRequest, match="FORKYARD_VCENTER_PASSWORD"):
        read_password(replace(settings, password_file=None))
    with pytest.raises(InvalidRequest, match="No such file"):
        read_password(replace(settings, password_file=tmp_path / "none"))


def test_a_service_on_vsphere_needs_a_vcenter() -> None:
    with pytest.raises(InvalidRequest, match=r"services.game.hypervisor.*vsphere.url is not set"):
        parse_settings('[services.game]\nhypervisor = "vsphere"\n')


def test_a_services_network_is_its_hypervisors() -> None:
    settings = parse_settings(
        '[vsphere]\nurl = "https://vc/sdk"\nnetwork = "10.80.0.0/24"\nfirst_address = "10.80.0.9"\n'
        'gateway = "10.80.0.1"\n[services.game]\nhypervisor = "vsphere"\n[services.shop]\n'
    )
    assert settings.network_of("game") == (IPv4Network("10.80.0.0/24"), IPv4Address("10.80.0.1"))
    assert settings.network_of("shop") == (settings.qemu.network, None)
