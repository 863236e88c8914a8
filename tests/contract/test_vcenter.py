"""The vCenter to test against does what vSphere's documentation says of Instant Clone, for pyVmomi and for govc."""

import http.client
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from forkyard.model import Server, Upstream
from forkyard.waiting import wait_for
from lab.network import lab_network
from lab.vsphere import GUEST_PASSWORD, GUEST_USER
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
    nic_of,
    serve,
    vim,
    vmodl,
)
from tests.support.vcenter import RunningVCenter, find_govc, running_vcenter

PORT = 18081
PARENT = "game-parent-esx-01"
SOON = timedelta(seconds=10)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVCenter]:
    with running_vcenter(tmp_path_factory.mktemp("vcenter"), hosts=3, guest_port=PORT) as vcenter:
        yield vcenter


@pytest.fixture
def vcenter(shared: RunningVCenter) -> Iterator[RunningVCenter]:
    yield shared
    shared.calm()


@pytest.fixture
def content(vcenter: RunningVCenter) -> Iterator[Managed]:
    with logged_in(vcenter.door) as content:
        yield content


def play(address: str) -> Managed:
    answer = httpx.get(f"http://{address}:{PORT}/", headers={"Accept": "application/json"}, timeout=5, trust_env=False)
    answer.raise_for_status()
    return answer.json()


def is_refused(address: str) -> bool:
    try:
        play(address)
    except httpx.ConnectError:
        return True
    return False


def test_a_fork_runs_on_its_parents_host_with_the_uuid_and_values_that_were_given(content: Managed) -> None:
    bios = str(uuid.uuid4())
    values = [vim.option.OptionValue(key="guestinfo.forkyard.stamp", value="{}")]
    child = fork(content, "game-parent-esx-02", biosUuid=bios, config=values)
    assert child.runtime.host.name == "esx-02"
    assert child.runtime.powerState == "poweredOn"
    assert not child.runtime.instantCloneFrozen
    assert child.config.uuid == bios
    assert content.searchIndex.FindByUuid(uuid=bios, vmSearch=True) == child
    assert extra_config(child)["guestinfo.forkyard.stamp"] == "{}"


def test_a_childs_nic_is_its_own_and_disconnected_as_asked(content: Managed) -> None:
    parent, child = find_entity(content, PARENT), fork(content, PARENT)
    assert nic_of(parent).connectable.connected
    assert not nic_of(child).connectable.connected
    assert nic_of(child).macAddress != nic_of(parent).macAddress


def test_a_guest_plays_only_once_it_is_identified_and_its_nic_is_connected(content: Managed) -> None:
    child = fork(content, PARENT)
    identified = ask_guest(child, "identify", identity=make_identity(child, "127.31.0.9"))
    assert all(point["proved"] for point in identified["report"]["points"])
    assert is_refused("127.31.0.9")
    assert ask_guest(child, "network", edit=connect_nic(child))["addresses"] == ["127.31.0.9"]
    seen = play("127.31.0.9")
    assert (seen["child"], seen["fork_id"], seen["served"]) == (child.name, child.config.uuid, 1)
    destroy(child)
    assert is_refused("127.31.0.9")
    assert find_entity(content, seen["child"]) is None


def test_a_guest_whose_nic_has_another_mac_cannot_prove_its_identity(content: Managed) -> None:
    child = fork(content, PARENT)
    identity = make_identity(child, "127.31.0.10") | {"mac": "00:50:56:3f:ff:ff"}
    answer = ask_guest(child, "identify", identity=identity)
    assert not answer["ok"]
    assert answer["error"].startswith("mac: ")
    assert not ask_guest(child, "network", edit=connect_nic(child))["ok"]
    assert is_refused("127.31.0.10")


def test_the_same_name_twice_is_a_duplicate(content: Managed) -> None:
    child = fork(content, PARENT)
    with pytest.raises(vim.fault.DuplicateName) as caught:
        fork(content, PARENT, name=child.name)
    assert caught.value.object == child


def test_a_check_finds_what_a_fork_would_stumble_over_and_makes_nothing(content: Managed) -> None:
    parent, child = find_entity(content, PARENT), fork(content, PARENT)
    checker = content.vmProvisioningChecker
    (fine,) = finish(checker.CheckInstantClone_Task(vm=parent, spec=clone_spec(parent, "not-made")))
    assert not fine.error
    (wrong,) = finish(checker.CheckInstantClone_Task(vm=parent, spec=clone_spec(parent, child.name)))
    assert isinstance(wrong.error[0], vim.fault.DuplicateName)
    assert find_entity(content, "not-made") is None


def test_another_host_than_the_parents_cannot_be_asked_for(content: Managed) -> None:
    parent = find_entity(content, PARENT)
    spec = clone_spec(parent, "elsewhere")
    spec.location.host = find_entity(content, "esx-03", vim.HostSystem)
    with pytest.raises(vmodl.fault.NotSupported):
        finish(parent.InstantClone_Task(spec))


def test_a_parent_that_is_off_cannot_be_forked(content: Managed) -> None:
    child = fork(content, PARENT)
    finish(child.PowerOffVM_Task())
    with pytest.raises(vim.fault.InvalidPowerState):
        fork(content, child.name)


def test_a_host_in_maintenance_forks_nothing(content: Managed, vcenter: RunningVCenter) -> None:
    vcenter.set_host("esx-03", maintenance=True)
    assert find_entity(content, "esx-03", vim.HostSystem).runtime.inMaintenanceMode
    with pytest.raises(vim.fault.InvalidState):
        fork(content, "game-parent-esx-03")


def test_a_full_datastore_and_a_full_host_are_told_apart(content: Managed, vcenter: RunningVCenter) -> None:
    vcenter.set_datastore(free_bytes=1)
    with pytest.raises(vim.fault.NoDiskSpace, match="vsanDatastore"):
        fork(content, PARENT)
    vcenter.calm()
    vcenter.set_host("esx-01", memory_bytes=1 << 30)
    with pytest.raises(vim.fault.InsufficientMemoryResourcesFault):
        fork(content, PARENT)
    assert fork(content, "game-parent-esx-02")


def test_a_missing_privilege_is_named(vcenter: RunningVCenter) -> None:
    vcenter.add_person("viewer", "v1", lacks=("VirtualMachine.Provisioning.Clone",))
    with logged_in(vcenter.door, user="viewer", password="v1") as content:  # noqa: S106 - of a simulator
        with pytest.raises(vim.fault.NoPermission) as caught:
            fork(content, PARENT)
        assert caught.value.privilegeId == "VirtualMachine.Provisioning.Clone"


def test_a_wrong_password_is_refused(vcenter: RunningVCenter) -> None:
    with pytest.raises(vim.fault.InvalidLogin), logged_in(vcenter.door, password="wrong"):  # noqa: S106 - as it says
        pass


def test_a_session_that_expired_reads_nothing(content: Managed, vcenter: RunningVCenter) -> None:
    parent = find_entity(content, PARENT)
    vcenter.expire_sessions()
    with pytest.raises(vim.fault.NotAuthenticated):
        assert parent.name


def test_a_restart_forgets_sessions_and_keeps_machines_and_guests(vcenter: RunningVCenter) -> None:
    with logged_in(vcenter.door) as content:
        child = fork(content, PARENT)
        serve(child, "127.31.0.20")
        name = child.name
        vcenter.begin_restart(0.4)
        with pytest.raises((OSError, http.client.HTTPException)):
            assert child.name
        assert play("127.31.0.20")["child"] == name
        wait_for(lambda: vcenter.state()["mode"] == "serving" or None, what="the restart", timeout=SOON)
        with pytest.raises(vim.fault.NotAuthenticated):
            assert child.name
    with logged_in(vcenter.door) as content:
        assert find_entity(content, name).runtime.powerState == "poweredOn"


def test_a_running_parent_is_frozen_by_its_guest_and_then_no_longer_answers(vcenter: RunningVCenter) -> None:
    with (
        running_vcenter(vcenter.vcenter.directory.parent / "running", hosts=1, frozen=False) as running,
        logged_in(running.door) as content,
    ):
        parent = find_entity(content, PARENT)
        processes = content.guestOperationsManager.processManager
        auth = vim.vm.guest.NamePasswordAuthentication(username=GUEST_USER, password=GUEST_PASSWORD)
        program = vim.vm.guest.ProcessManager.ProgramSpec(
            programPath="/usr/bin/vmware-rpctool", arguments="instantclone.freeze"
        )
        assert not parent.runtime.instantCloneFrozen
        assert parent.guest.toolsRunningStatus == "guestToolsRunning"
        pid = processes.StartProgramInGuest(vm=parent, auth=auth, spec=program)
        wait_for(lambda: parent.runtime.instantCloneFrozen or None, what="the freeze", timeout=SOON)
        assert parent.guest.toolsRunningStatus == "guestToolsNotRunning"
        with pytest.raises(vim.fault.GuestOperationsUnavailable):
            processes.ListProcessesInGuest(vm=parent, auth=auth, pids=[pid])
        assert ask_guest(fork(content, PARENT), "hello")["state"] == "waiting"


def test_a_parent_quiesces_and_freezes_by_its_agent(vcenter: RunningVCenter) -> None:
    with (
        running_vcenter(vcenter.vcenter.directory.parent / "agent", hosts=1, frozen=False) as running,
        logged_in(running.door) as content,
    ):
        parent = find_entity(content, PARENT)
        assert ask_guest(parent, "quiesce")["state"] == "quiesced"
        assert ask_guest(parent, "freeze")["ok"]
        wait_for(lambda: parent.runtime.instantCloneFrozen or None, what="the freeze", timeout=SOON)
        assert ask_guest(fork(content, PARENT), "hello")["state"] == "quiesced"


def test_a_wrong_password_of_the_guest_is_refused(vcenter: RunningVCenter, content: Managed) -> None:
    child = fork(content, PARENT)
    auth = vim.vm.guest.NamePasswordAuthentication(username=GUEST_USER, password="wrong")  # noqa: S106 - as it says
    with pytest.raises(vim.fault.InvalidGuestLogin):
        content.guestOperationsManager.processManager.ListProcessesInGuest(vm=child, auth=auth)
    assert vcenter.machines()[child.name]["frozen"] is False


def test_a_running_parent_gains_a_disk_with_each_fork_and_stops_at_255(vcenter: RunningVCenter) -> None:
    def count_levels(machine: Managed) -> int:
        disk = next(d for d in machine.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk))
        level, backing = 0, disk.backing
        while backing.parent:
            level, backing = level + 1, backing.parent
        return level

    with (
        running_vcenter(vcenter.vcenter.directory.parent / "chain", hosts=1, frozen=False) as running,
        logged_in(running.door) as content,
    ):
        parent = find_entity(content, PARENT)
        spec = vim.vm.InstantCloneSpec(location=vim.vm.RelocateSpec())
        for number in range(3):
            spec.name = f"child-{number}"
            finish(parent.InstantClone_Task(spec))
        assert count_levels(parent) == 3
        tasks = []
        for number in range(3, 256):
            spec.name = f"child-{number}"
            tasks.append(parent.InstantClone_Task(spec))
        ended = {"success", "error"}
        wait_for(lambda: {t.info.state for t in tasks} <= ended or None, what="all forks", timeout=SOON)
        (wrong,) = (task.info.error for task in tasks if task.info.state == "error")
        assert "255" in wrong.reason
        assert len(running.machines()) == 256


def test_a_host_alone_does_not_fork(vcenter: RunningVCenter) -> None:
    with (
        running_vcenter(vcenter.vcenter.directory.parent / "esx", esx=True) as running,
        logged_in(running.door) as content,
    ):
        assert content.about.apiType == "HostAgent"
        view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], recursive=True)
        with pytest.raises(vmodl.fault.NotSupported):
            view.view[0].InstantClone_Task(vim.vm.InstantCloneSpec(name="c", location=vim.vm.RelocateSpec()))


def test_forks_of_one_parent_wait_for_each_other_and_those_of_several_do_not(
    content: Managed, vcenter: RunningVCenter
) -> None:
    vcenter.delay("InstantClone_Task", seconds=0.4, serialized=0.2)
    parents = [find_entity(content, f"game-parent-esx-0{number}") for number in (1, 1, 2)]
    tasks = [parent.InstantClone_Task(clone_spec(parent, f"timed-{n}")) for n, parent in enumerate(parents)]
    for task in tasks:
        finish(task)
    first, second, elsewhere = (task.info for task in tasks)
    assert (second.completeTime - first.startTime).total_seconds() >= 0.6
    assert first.completeTime < second.completeTime
    assert elsewhere.completeTime < second.completeTime


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
    assert is_refused("127.31.0.40")
    with pytest.raises(vim.fault.InvalidState):
        finish(manager.StartGuestNetwork_Task(vm=child, auth=auth))
    edit = vim.vm.device.VirtualDeviceSpec(operation="edit", device=connect_nic(child))
    finish(child.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[edit])))
    finish(manager.StartGuestNetwork_Task(vm=child, auth=auth))
    assert child.guest.ipAddress == "127.31.0.40"
    assert play("127.31.0.40")["child"] == "plain-1"


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
