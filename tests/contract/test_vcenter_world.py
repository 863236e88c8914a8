"""What the vCenter to test against lets go wrong, and what others see of it: updates, Consul, Nginx, govc."""

import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from forkyard.model import Server, Upstream
from forkyard.settings import Settings
from forkyard.waiting import wait_for
from lab.network import lab_network
from lab.vsphere import GUEST_PASSWORD, GUEST_USER
from lab.vsphere_build import SOURCES, find_go
from tests.support.outside import Outside
from tests.support.plain_vsphere import (
    Managed,
    ask_guest,
    clone_spec,
    connect_nic,
    destroy,
    extra_config,
    find_entity,
    finish,
    fork,
    logged_in,
    make_identity,
    serve,
    vim,
    vmodl,
)
from tests.support.vcenter import RunningVCenter, find_govc, is_refused, play, running_vcenter

PORT = 18082
PARENT = "game-parent-esx-01"
SOON = timedelta(seconds=10)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVCenter]:
    with running_vcenter(tmp_path_factory.mktemp("vcenter-world"), hosts=3, guest_port=PORT) as vcenter:
        yield vcenter


@pytest.fixture
def vcenter(shared: RunningVCenter) -> Iterator[RunningVCenter]:
    yield shared
    shared.calm()


@pytest.fixture
def content(vcenter: RunningVCenter) -> Iterator[Managed]:
    with logged_in(vcenter.door) as content:
        yield content


def test_a_restart_forgets_sessions_and_keeps_machines_and_guests(vcenter: RunningVCenter) -> None:
    with logged_in(vcenter.door) as content:
        child = fork(content, PARENT)
        serve(child, "127.31.0.20")
        name = child.name
        vcenter.begin_restart(0.4)
        with pytest.raises((OSError, http.client.HTTPException)):
            assert child.name
        assert play("127.31.0.20", PORT)["child"] == name
        wait_for(lambda: vcenter.state()["mode"] == "serving" or None, what="the restart", timeout=SOON)
        with pytest.raises(vim.fault.NotAuthenticated):
            assert child.name
    with logged_in(vcenter.door) as content:
        assert find_entity(content, name).runtime.powerState == "poweredOn"


def test_a_fault_that_is_set_strikes_as_often_as_was_set(content: Managed, vcenter: RunningVCenter) -> None:
    vcenter.fail("InstantClone_Task", "InvalidState", count=1)
    with pytest.raises(vim.fault.InvalidState):
        fork(content, PARENT)
    assert fork(content, PARENT)
    assert vcenter.struck() == 1


def test_every_fault_that_a_fork_may_meet_can_be_read(content: Managed, vcenter: RunningVCenter) -> None:
    parent = find_entity(content, PARENT)
    spec = clone_spec(parent, "never-made")
    for name in (
        "TaskInProgress",
        "InvalidState",
        "InvalidPowerState",
        "InvalidDatastore",
        "InsufficientResourcesFault",
        "DisallowedMigrationDeviceAttached",
        "FileFault",
        "NoDiskSpace",
        "DuplicateName",
        "ConcurrentAccess",
        "NoPermission",
        "NotAuthenticated",
        "ManagedObjectNotFound",
        "HostNotConnected",
        "HostConnectFault",
        "ResourceInUse",
        "RequestCanceled",
        "SystemError",
        "HostCommunication",
        "NotSupported",
        "InvalidArgument",
        "GenericVmConfigFault",
    ):
        vcenter.calm()
        vcenter.fail("InstantClone_Task", name, when="call")
        with pytest.raises(vmodl.MethodFault) as caught:
            parent.InstantClone_Task(spec)
        assert type(caught.value).__name__.endswith(name)


def test_a_guest_without_our_agent_is_customized_by_its_tools(content: Managed) -> None:
    child = fork(content, PARENT)
    auth = vim.vm.guest.NamePasswordAuthentication(username=GUEST_USER, password=GUEST_PASSWORD)
    kinds = vim.vm.customization
    spec = kinds.Specification(
        identity=kinds.LinuxPrep(hostName=kinds.FixedName(name="plain-1"), domain="test"),
        globalIPSettings=kinds.GlobalIPSettings(),
        nicSettingMap=[
            kinds.AdapterMapping(
                adapter=kinds.IPSettings(ip=kinds.FixedIp(ipAddress="127.31.0.40"), subnetMask="255.0.0.0")
            )
        ],
    )
    manager = content.guestCustomizationManager
    finish(manager.CustomizeGuest_Task(vm=child, auth=auth, spec=spec))
    assert child.guest.hostName == "plain-1"
    assert is_refused("127.31.0.40", PORT)
    with pytest.raises(vim.fault.InvalidState):
        finish(manager.StartGuestNetwork_Task(vm=child, auth=auth))
    # After a failure the engine in the guest keeps its lock until it is aborted.
    with pytest.raises(vim.fault.CustomizationFault):
        finish(manager.StartGuestNetwork_Task(vm=child, auth=auth))
    finish(manager.AbortCustomization_Task(vm=child, auth=auth))
    edit = vim.vm.device.VirtualDeviceSpec(operation="edit", device=connect_nic(child))
    finish(child.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[edit])))
    finish(manager.StartGuestNetwork_Task(vm=child, auth=auth))
    assert child.guest.ipAddress == "127.31.0.40"
    assert play("127.31.0.40", PORT)["child"] == "plain-1"


@pytest.mark.parametrize("when", ["late", "lost"])
def test_a_fork_may_fail_although_its_child_lives(content: Managed, vcenter: RunningVCenter, when: str) -> None:
    vcenter.fail("InstantClone_Task", "GenericVmConfigFault", when=when, count=1)
    with pytest.raises((vim.fault.GenericVmConfigFault, OSError, http.client.HTTPException)):
        fork(content, PARENT, name=f"orphan-{when}")
    wait_for(lambda: f"orphan-{when}" in vcenter.machines() or None, what="the orphan", timeout=SOON)


def test_a_silent_guest_answers_nothing(content: Managed, vcenter: RunningVCenter) -> None:
    vcenter.trouble("silent", count=1)
    mute, well = fork(content, PARENT), fork(content, PARENT)
    options = [vim.option.OptionValue(key="guestinfo.forkyard.request", value='{"id": "1", "verb": "hello"}')]
    finish(mute.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=options)))
    assert ask_guest(well, "hello")["ok"]
    assert "guestinfo.forkyard.answer" not in extra_config(mute)


def test_an_unknown_fault_cannot_be_set(vcenter: RunningVCenter) -> None:
    with pytest.raises(AssertionError, match="NoSuchFault"):
        vcenter.fail("InstantClone_Task", "NoSuchFault")


def test_one_stream_of_updates_tells_of_tasks_and_machines(content: Managed) -> None:
    collector = content.propertyCollector.CreatePropertyCollector()
    parent = find_entity(content, PARENT)
    view = content.viewManager.CreateListView(obj=[parent])
    query = vmodl.query.PropertyCollector
    answer = 'config.extraConfig["guestinfo.forkyard.answer"]'
    spec = query.FilterSpec(
        objectSet=[
            query.ObjectSpec(
                obj=view,
                skip=True,
                selectSet=[query.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ListView)],
            )
        ],
        propSet=[
            query.PropertySpec(type=vim.Task, pathSet=["info.state"]),
            query.PropertySpec(type=vim.VirtualMachine, pathSet=["runtime.powerState", answer]),
        ],
    )
    collector.CreateFilter(spec, partialUpdates=False)
    version, known = "", dict[tuple[str, str], object]()
    options = query.WaitOptions(maxWaitSeconds=2)

    def follow(found: tuple[str, str], wanted: object) -> None:
        nonlocal version

        def look() -> bool | None:
            nonlocal version
            update = collector.WaitForUpdatesEx(version, options)
            for change in (o for f in update.filterSet for o in f.objectSet) if update else ():
                known.update({(change.obj._moId, c.name): c.val for c in change.changeSet})  # noqa: SLF001 - its only id
            version = update.version if update else version
            return known.get(found) == wanted or None

        wait_for(look, what=str(found), timeout=SOON)

    follow((parent._moId, "runtime.powerState"), "poweredOn")  # noqa: SLF001 - as above
    task = parent.InstantClone_Task(clone_spec(parent, "followed"))
    view.ModifyListView(add=[task])
    follow((task._moId, "info.state"), "success")  # noqa: SLF001 - as above
    child = task.info.result
    view.ModifyListView(add=[child], remove=[task])
    follow((child._moId, "runtime.powerState"), "poweredOn")  # noqa: SLF001 - as above
    ask_guest(child, "hello")
    found = collector.WaitForUpdatesEx(version, options)
    changes = [c for f in found.filterSet for o in f.objectSet if o.obj == child for c in o.changeSet]
    assert json.loads(next(c.val.value for c in changes if c.name == answer))["ok"]
    collector.DestroyPropertyCollector()


def test_a_child_stands_in_consul_as_its_agent_would_put_it_there(outside: Outside, tmp_path: Path) -> None:
    consul = f"http://{lab_network(outside.settings).load_balancer}:8500"
    registry, balancer = outside.make_registry(), outside.make_balancer()
    with (
        running_vcenter(tmp_path, hosts=1, namespace=outside.namespace, consul_url=consul) as vcenter,
        logged_in(vcenter.door) as content,
    ):
        child = fork(content, PARENT, name="shop-1")
        identity = make_identity(child, "127.31.0.30") | {"service": "shop"}
        assert ask_guest(child, "identify", identity=identity)["ok"]
        assert registry.registrations("shop") == []
        assert ask_guest(child, "network", edit=connect_nic(child))["ok"]
        (found,) = registry.registrations("shop")
        assert (found.node, found.address, found.port) == ("shop-1", "127.31.0.30", 8080)
        assert (found.status, found.fork_id) == ("passing", child.config.uuid)
        balancer.apply(Upstream("shop", (Server(found.node, found.address, found.port),)))
        answer = outside.ask(service="shop")
        assert (answer.status_code, "shop-1" in answer.text) == (200, True)
        destroy(child)
        wait_for(
            lambda: not registry.registrations("shop") or None, what="the child's registration to go", timeout=SOON
        )
    balancer.apply(Upstream("shop", ()))
    registry.close()


def test_a_sick_game_is_critical_in_consul(outside: Outside, tmp_path: Path) -> None:
    consul = f"http://{lab_network(outside.settings).load_balancer}:8500"
    registry = outside.make_registry()
    with (
        running_vcenter(tmp_path, hosts=1, namespace=outside.namespace, consul_url=consul) as vcenter,
        logged_in(vcenter.door) as content,
    ):
        vcenter.trouble("sick", count=1)
        child = fork(content, PARENT, name="shop-2")
        assert ask_guest(child, "identify", identity=make_identity(child, "127.31.0.31") | {"service": "shop"})["ok"]
        assert ask_guest(child, "network", edit=connect_nic(child))["ok"]
        (found,) = registry.registrations("shop")
        assert found.status == "critical"
        destroy(child)
        wait_for(
            lambda: not registry.registrations("shop") or None, what="the child's registration to go", timeout=SOON
        )
    registry.close()


def test_the_go_sources_are_formatted() -> None:
    go = find_go(Settings().cache_dir)
    files = [str(path) for path in SOURCES.rglob("*.go")]
    done = subprocess.run([go.parent / "gofmt", "-l", *files], check=True, capture_output=True, text=True)
    assert files
    assert done.stdout == ""


def test_calls_are_counted(content: Managed, vcenter: RunningVCenter) -> None:
    vcenter.calls(reset=True)
    fork(content, PARENT)
    assert vcenter.calls()["InstantClone_Task"] == 1


def test_govc_lists_forks_and_powers_off(vcenter: RunningVCenter, tmp_path: Path) -> None:
    program = find_govc()
    environment = {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "GOVC_URL": vcenter.door.url,
        "GOVC_USERNAME": vcenter.door.user,
        "GOVC_PASSWORD": vcenter.door.password,
        "GOVC_TLS_CA_CERTS": str(vcenter.door.certificate),
    }

    def govc(*words: str) -> str:
        return subprocess.run(
            [program, *words], env=environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    govc("vm.instantclone", "-vm", PARENT, "-e", "guestinfo.colour=red", "by-govc")
    assert "/yard/vm/game/by-govc" in govc("find", "/", "-type", "m")
    assert json.loads(govc("vm.info", "-json", "by-govc"))["virtualMachines"][0]["runtime"]["powerState"] == "poweredOn"
    govc("vm.power", "-off", "by-govc")
    assert vcenter.machines()["by-govc"]["power"] == "poweredOff"
    govc("vm.destroy", "by-govc")
    assert "by-govc" not in vcenter.machines()
