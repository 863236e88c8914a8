"""Whose a VM is: what a guest can write never makes it a child, moves it, keeps it or calls it identified."""

import json
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkyard.hypervisors.vsphere import guestinfo
from forkyard.hypervisors.vsphere.guestinfo import Mark, option_path
from forkyard.hypervisors.vsphere.vms import VmRow, make_vm_row
from forkyard.model import Stamp

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
FORK = "5d1f0a52-9a3e-4c0e-8d0c-3a0f6b1b7c44"
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
MARK = Mark(Stamp("game", FORK, "request", NOW), "vm-7", "10.78.1.1", NOW)
MAC = "00:50:56:aa:bb:cc"


@dataclass(frozen=True)
class Ref:
    """A VM's reference at vCenter."""

    _moId: str = "vm-9"  # noqa: N815 - pyVmomi's own name

    def _GetMoId(self) -> str:  # noqa: N802 - as above
        return self._moId


def see(stamp: str = "", identified: str = "", note: str = "", bios: str = FORK) -> VmRow:
    """The row of a VM that carries this."""
    values: dict[str, Any] = {
        "name": "some-vm",
        "config.uuid": bios,
        "runtime.powerState": "poweredOn",
        "runtime.connectionState": "connected",
        "config.annotation": note,
        "config.createDate": NOW,
        option_path(guestinfo.STAMP): stamp,
        option_path(guestinfo.IDENTIFIED): identified,
    }
    return make_vm_row(Ref(), values, KEY)


def forge(**changes: object) -> str:
    """A stamp as a guest can write it: it knows all but the key."""
    return json.dumps({**json.loads(guestinfo.render_mark(MARK, OTHER_KEY)), **changes})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("service", "fork_id", "request_id", "expires", "parent", "address", "created", "signature")


def test_what_the_host_signed_counts() -> None:
    row = see(guestinfo.render_mark(MARK, KEY), guestinfo.render_identified(FORK, MAC, KEY))
    assert (row.mark, row.mac) == (MARK, MAC)


def test_a_vm_that_stamps_itself_with_its_own_bios_uuid_is_none_of_ours() -> None:
    for text in (forge(), forge(signature=None), forge(signature=""), forge(signature=7), forge(expires=None)):
        assert see(text).mark is None


@given(st.sampled_from(FIELDS), JSON)
def test_no_change_of_a_signed_stamp_counts(name: str, value: object) -> None:
    signed = json.loads(guestinfo.render_mark(MARK, KEY))
    mark = see(json.dumps({**signed, name: value})).mark
    assert mark == MARK if value == signed[name] else mark is None


@given(st.text(max_size=300) | JSON.map(json.dumps) | st.integers(1, 60_000).map(lambda n: "[" * n))
def test_rubbish_in_one_vm_is_that_vms_alone(text: str) -> None:
    row = see(stamp=text, identified=text, note=text)
    assert (row.mark, row.mac) == (None, None)


@pytest.mark.parametrize("moment", ["2020-01-01T00:00:00", "soon", "9" * 400, ""])
def test_a_moment_without_a_zone_is_none(moment: str) -> None:
    until = guestinfo.render_note(replace(MARK.stamp, expires=None), MARK.address) + f", until {moment}"
    assert see(note=until).mark is None or moment == ""


def test_a_guest_cannot_call_itself_identified() -> None:
    stamp = guestinfo.render_mark(MARK, KEY)
    unsigned = json.dumps({"fork_id": FORK, "mac": MAC})
    asked = guestinfo.render_note(MARK.stamp, MARK.address)
    for text in (unsigned, guestinfo.render_identified(FORK, MAC, OTHER_KEY)):
        assert see(stamp, text, note=asked).mac is None


def test_a_proof_of_another_fork_is_none() -> None:
    other = str(uuid.uuid4())
    row = see(guestinfo.render_mark(MARK, KEY), guestinfo.render_identified(other, MAC, KEY))
    assert row.mac is None


def test_a_member_made_before_stamps_were_signed_stays_one_by_its_annotation() -> None:
    kept = replace(MARK.stamp, expires=None)
    unsigned = json.dumps({"fork_id": FORK, "mac": MAC})
    row = see("", unsigned, note=guestinfo.render_note(kept, MARK.address))
    assert row.mark is not None
    assert (row.mark.stamp, row.mark.address, row.mac) == (kept, MARK.address, MAC)


def test_a_spoilt_stamp_neither_moves_nor_keeps_a_child() -> None:
    note = guestinfo.render_note(MARK.stamp, MARK.address)
    row = see(forge(service="other", expires=(NOW + timedelta(days=999)).isoformat()), note=note)
    assert row.mark is not None
    assert row.mark.stamp == MARK.stamp
