"""
vSphere by plain pyVmomi, one call after the other: what tests compare with, and how they look from outside.

pyVmomi makes its classes while it is imported and publishes types for few of them: its objects are `Managed` here.
"""

import json
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeAlias

import pyVim.connect
import pyVim.task
import pyVmomi

from forkyard.waiting import wait_for
from lab.vsphere import Door

Managed: TypeAlias = Any

vim: Managed = pyVmomi.vim
vmodl: Managed = pyVmomi.vmodl
_connect: Managed = pyVim.connect
_task: Managed = pyVim.task


@contextmanager
def logged_in(door: Door, *, user: str = "", password: str = "") -> Iterator[Managed]:
    """The service's content, as the administrator or as *user*; logged out at the end."""
    # Checked: the certificate is its own authority.
    context = ssl.create_default_context(cafile=str(door.certificate))
    instance = _connect.SmartConnect(
        host="127.0.0.1", port=door.port, user=user or door.user, pwd=password or door.password, sslContext=context
    )
    try:
        yield instance.content
    finally:
        _connect.Disconnect(instance)


def finish(task: Managed) -> Managed:
    """The task's result; its fault is raised."""
    _task.WaitForTask(task)
    return task.info.result


def find_entity(content: Managed, name: str, kind: Managed = vim.VirtualMachine) -> Managed:
    """The entity of this name and kind, None when there is none."""
    view = content.viewManager.CreateContainerView(container=content.rootFolder, type=[kind], recursive=True)
    found = [entity for entity in view.view if entity.name == name]
    view.DestroyView()
    return found[0] if found else None


def nic_of(machine: Managed) -> Managed:
    """The machine's first network card, as it is now."""
    return next(d for d in machine.config.hardware.device if isinstance(d, vim.vm.device.VirtualEthernetCard))


def clone_spec(parent: Managed, name: str, **more: Managed) -> Managed:
    """A fork of the parent whose NIC stays disconnected."""
    nic = nic_of(parent)
    nic.connectable.migrateConnect = "disconnect"
    # The parent's own port on its switch is taken: by the parent.
    nic.backing.port.portKey = nic.backing.port.connectionCookie = None
    edit = vim.vm.device.VirtualDeviceSpec(operation="edit", device=nic)
    return vim.vm.InstantCloneSpec(name=name, location=vim.vm.RelocateSpec(deviceChange=[edit]), **more)


def fork(content: Managed, parent: str, *, name: str = "", **more: Managed) -> Managed:
    """Fork the parent of this name, and wait for the child."""
    source = find_entity(content, parent)
    return finish(source.InstantClone_Task(clone_spec(source, name or f"child-{uuid.uuid4().hex[:8]}", **more)))


def ask_guest(machine: Managed, verb: str, *, edit: Managed = None, **more: Managed) -> Managed:
    """Set a request in guestinfo, with a device's edit in the same call, and wait for the guest's answer."""
    request = {"id": uuid.uuid4().hex, "verb": verb, **more}
    options = [vim.option.OptionValue(key="guestinfo.forkyard.request", value=json.dumps(request))]
    changes = [vim.vm.device.VirtualDeviceSpec(operation="edit", device=edit)] if edit else []
    finish(machine.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=options, deviceChange=changes)))

    def answered() -> Managed:
        answer = json.loads(extra_config(machine).get("guestinfo.forkyard.answer") or "{}")
        return answer if answer.get("id") == request["id"] else None

    return wait_for(answered, what=f"the guest's answer to {verb}", timeout=timedelta(seconds=10))


def extra_config(machine: Managed) -> dict[str, str]:
    """The machine's extra configuration, guestinfo included."""
    return {option.key: option.value for option in machine.config.extraConfig}


def make_identity(machine: Managed, address: str) -> dict[str, object]:
    """An identity that the machine's guest can prove."""
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


def connect_nic(machine: Managed) -> Managed:
    """The edit that connects the machine's NIC."""
    nic = nic_of(machine)
    nic.connectable.connected = True
    return nic


def serve(machine: Managed, address: str) -> None:
    """Give the machine's guest an identity and its network."""
    assert ask_guest(machine, "identify", identity=make_identity(machine, address))["ok"]
    assert ask_guest(machine, "network", edit=connect_nic(machine))["ok"]


def destroy(machine: Managed) -> None:
    """Power off and delete."""
    finish(machine.PowerOffVM_Task())
    finish(machine.Destroy_Task())
