"""The vCenter to test against does what vSphere's documentation says of Instant Clone, for pyVmomi and for govc."""

import json
import ssl
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim

from forkyard.waiting import wait_for
from tests.support.vcenter import RunningVCenter, running_vcenter

PORT = 18081
PARENT = "game-parent-esx-01"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVCenter]:
    with running_vcenter(tmp_path_factory.mktemp("vcenter"), hosts=3, guest_port=PORT) as vcenter:
        yield vcenter


@pytest.fixture
def vcenter(shared: RunningVCenter) -> Iterator[RunningVCenter]:
    yield shared
    shared.calm()


@contextmanager
def logged_in(vcenter: RunningVCenter, *, user: str = "", password: str = "") -> Iterator[Any]:
    door = vcenter.door
    # Checked: the certificate is its own authority.
    context = ssl.create_default_context(cafile=str(door.certificate))
    instance = SmartConnect(
        host="127.0.0.1", port=door.port, user=user or door.user, pwd=password or door.password, sslContext=context
    )
    try:
        yield instance.content
    finally:
        Disconnect(instance)


@pytest.fixture
def content(vcenter: RunningVCenter) -> Iterator[Any]:
    with logged_in(vcenter) as content:
        yield content


def find(content: Any, name: str, kind: Any = vim.VirtualMachine) -> Any:
    view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
    found = [entity for entity in view.view if entity.name == name]
    view.DestroyView()
    return found[0] if found else None


def nic_of(machine: Any) -> Any:
    return next(d for d in machine.config.hardware.device if isinstance(d, vim.vm.device.VirtualEthernetCard))


def clone_spec(parent: Any, name: str, **more: Any) -> Any:
    nic = nic_of(parent)
    nic.connectable.migrateConnect = "disconnect"
    edit = vim.vm.device.VirtualDeviceSpec(operation="edit", device=nic)
    return vim.vm.InstantCloneSpec(name=name, location=vim.vm.RelocateSpec(deviceChange=[edit]), **more)


def fork(content: Any, *, parent: str = PARENT, name: str = "", **more: Any) -> Any:
    source = find(content, parent)
    task = source.InstantClone_Task(clone_spec(source, name or f"child-{uuid.uuid4().hex[:8]}", **more))
    WaitForTask(task)
    return task.info.result


def ask(machine: Any, verb: str, *, edit: Any = None, **more: Any) -> Any:
    """What forkyard's host side says to a guest, and what the guest answers."""
    request = {"id": uuid.uuid4().hex, "verb": verb, **more}
    options = [vim.option.OptionValue(key="guestinfo.forkyard.request", value=json.dumps(request))]
    changes = [vim.vm.device.VirtualDeviceSpec(operation="edit", device=edit)] if edit else []
    WaitForTask(machine.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=options, deviceChange=changes)))

    def answered() -> Any:
        values = {option.key: option.value for option in machine.config.extraConfig}
        answer = json.loads(values.get("guestinfo.forkyard.answer") or "{}")
        return answer if answer.get("id") == request["id"] else None

    return wait_for(answered, what=f"the guest's answer to {verb}", timeout=timedelta(seconds=10))


def make_identity(machine: Any, address: str) -> dict[str, object]:
    return {
        "fork_id": machine.config.uuid,
        "request_id": "r1",
        "service": "game",
        "name": machine.name,
        "mac": nic_of(machine).macAddress,
        "address": f"{address}/8",
        "gateway": None,
        "machine_id": uuid.uuid4().hex,
        "consul_node_id": str(uuid.uuid4()),
        "consul_join": [],
        "datacenter": "dc1",
        "wall_clock": 1.0,
        "seed": "A" * 44,
    }


def test_a_fork_runs_on_its_parents_host_with_the_uuid_and_values_that_were_given(content: Any) -> None:
    bios = str(uuid.uuid4())
    values = [vim.option.OptionValue(key="guestinfo.forkyard.stamp", value="{}")]
    child = fork(content, parent="game-parent-esx-02", biosUuid=bios, config=values)
    assert child.runtime.host.name == "esx-02"
    assert child.runtime.powerState == "poweredOn"
    assert child.config.uuid == bios
    assert content.searchIndex.FindByUuid(None, bios, True) == child
    assert {option.key: option.value for option in child.config.extraConfig}["guestinfo.forkyard.stamp"] == "{}"


def test_a_childs_nic_is_its_own_and_disconnected_as_asked(content: Any) -> None:
    parent, child = find(content, PARENT), fork(content)
    assert nic_of(parent).connectable.connected
    assert not nic_of(child).connectable.connected
    assert nic_of(child).macAddress != nic_of(parent).macAddress


def test_a_guest_plays_only_once_it_is_identified_and_its_nic_is_connected(content: Any) -> None:
    child = fork(content)
    url = f"http://127.31.0.9:{PORT}/"
    identified = ask(child, "identify", identity=make_identity(child, "127.31.0.9"))
    assert all(point["proved"] for point in identified["report"]["points"])
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)
    nic = nic_of(child)
    nic.connectable.connected = True
    assert ask(child, "network", edit=nic)["addresses"] == ["127.31.0.9"]
    played = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - a constant http URL
    with urllib.request.urlopen(played, timeout=5) as answer:  # noqa: S310 - as above
        seen = json.load(answer)
    assert (seen["child"], seen["fork_id"], seen["served"]) == (child.name, child.config.uuid, 1)
