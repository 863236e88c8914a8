"""The vCenter to test against does what vSphere's documentation says of Instant Clone, for pyVmomi and for govc."""

import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest

from forkyard.waiting import wait_for
from lab.vsphere import GUEST_PASSWORD, GUEST_USER
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
    vim,
    vmodl,
)
from tests.support.vcenter import RunningVCenter, is_refused, play, running_vcenter

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
    assert is_refused("127.31.0.9", PORT)
    assert ask_guest(child, "network", edit=connect_nic(child))["addresses"] == ["127.31.0.9"]
    seen = play("127.31.0.9", PORT)
    assert (seen["child"], seen["fork_id"], seen["served"]) == (child.name, child.config.uuid, 1)
    destroy(child)
    assert is_refused("127.31.0.9", PORT)
    assert find_entity(content, seen["child"]) is None


def test_a_guest_whose_nic_has_another_mac_cannot_prove_its_identity(content: Managed) -> None:
    child = fork(content, PARENT)
    identity = make_identity(child, "127.31.0.10") | {"mac": "00:50:56:3f:ff:ff"}
    answer = ask_guest(child, "identify", identity=identity)
    assert not answer["ok"]
    assert answer["error"].startswith("mac: ")
    assert not ask_guest(child, "network", edit=connect_nic(child))["ok"]
    assert is_refused("127.31.0.10", PORT)


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


def test_a_running_parent_is_frozen_by_its_guest_and_then_no_longer_answers(vcenter: RunningVCenter) -> None:
    with (
        running_vcenter(vcenter.vcenter.directory.parent / "running", hosts=1, frozen=False) as running,
        logged_in(running.door) as content,
    ):
        parent = find_entity(content, PARENT)
        processes = content.guestOperationsManager.processManager
        auth = vim.vm.guest.NamePasswordAuthentication(username=GUEST_USER, password=GUEST_PASSWORD)
        program = vim.vm.guest.ProcessManager.ProgramSpec(
            programPath="/bin/sh", arguments="-c 'sleep 1; exec /usr/bin/vmware-rpctool instantclone.freeze'"
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
