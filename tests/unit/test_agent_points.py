"""The identity points that need no other machine: each changes something real, proves it, and fails closed."""

import base64
import ipaddress
import os
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from hypothesis import given
from hypothesis import strategies as st

from guest.agent import clock, host_keys, randomness, sockets
from guest.agent.errors import AgentError, ConfigError, PointFailed
from guest.agent.files import write_whole
from guest.agent.identity import rename_host
from guest.agent.settings import load_settings
from guest.agent.sockets import Connection, parse_table
from guest.agent.waiting import wait_for
from tests.support.agent_without_reset import destroy_nothing

SEED = base64.b64encode(bytes(32)).decode()


def test_the_kernel_takes_the_seed_and_draws_something_else_each_time() -> None:
    assert len({randomness.reseed(SEED) for _ in range(3)}) == 3


@pytest.mark.parametrize("seed", ["", "not base64!", base64.b64encode(bytes(16)).decode()])
def test_a_seed_that_is_none_is_refused_without_being_quoted(seed: str) -> None:
    with pytest.raises(PointFailed) as failure:
        randomness.reseed(seed)
    assert not seed or seed not in str(failure.value)


def test_the_clock_is_set_to_the_hosts_plus_what_has_passed_since() -> None:
    value, detail = clock.step(time.time(), time.monotonic())
    assert value.startswith(time.strftime("%Y-%m-%d"))
    assert "stepped by" in detail


def test_a_clock_that_the_kernel_refuses_is_not_proved() -> None:
    with pytest.raises(PointFailed, match="could not be set"):
        clock.step(-1e9, time.monotonic())


def test_by_the_real_time_clock_it_is_later_than_a_request_that_was_long_on_its_way() -> None:
    delay, source = clock.compare_rtc(requested=1000.0, rtc=1007)
    assert delay == 7.5
    assert source == "by the real-time clock, 7.5 s after the request's time"


def test_it_is_never_earlier_than_the_request_whatever_the_real_time_clock_says() -> None:
    delay, source = clock.compare_rtc(requested=1000.0, rtc=400)
    assert delay == 0.0
    assert "599.5 s behind" in source


@pytest.mark.parametrize("text", [None, "nonsense"])
def test_without_a_real_time_clock_the_requests_time_is_taken_and_that_is_said(
    tmp_path: Path, text: str | None
) -> None:
    rtc = tmp_path / "since_epoch"
    if text is not None:
        rtc.write_text(text)
    value, detail = clock.step_by_rtc(time.time(), time.monotonic(), rtc)
    assert value.startswith(time.strftime("%Y-%m-%d"))
    assert detail.endswith("by the request, and late by its way here: there is no real-time clock")


def test_a_real_time_clock_is_read_as_the_kernel_tells_it(tmp_path: Path) -> None:
    (tmp_path / "since_epoch").write_text("1764148488\n")
    assert clock.read_rtc(tmp_path / "since_epoch") == 1764148488


def test_host_keys_are_new_each_time_readable_by_root_alone_and_sshs_own_format(tmp_path: Path) -> None:
    first = host_keys.replace_host_keys(tmp_path, "game-1")
    second = host_keys.replace_host_keys(tmp_path, "game-2")
    secret = tmp_path / "etc/ssh/ssh_host_ed25519_key"
    assert first != second
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    key = load_ssh_private_key(secret.read_bytes(), None)
    public = load_ssh_public_key(secret.with_suffix(".pub").read_bytes())
    assert key.public_key() == public
    assert secret.with_suffix(".pub").read_text().endswith(" root@game-2\n")


def test_host_keys_of_other_kinds_were_the_parents_and_go(tmp_path: Path) -> None:
    old = tmp_path / "etc/ssh/ssh_host_rsa_key"
    old.parent.mkdir(parents=True)
    old.write_text("the parent's")
    old.with_suffix(".pub").write_text("the parent's")
    host_keys.replace_host_keys(tmp_path, "game-1")
    assert sorted(p.name for p in old.parent.iterdir()) == ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"]


def test_a_running_sshd_is_told_to_read_its_keys_again(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as sshd:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/sshd.pid").write_text(f"{sshd.pid}\n")
        host_keys.replace_host_keys(tmp_path, "game-1")
        assert sshd.wait(10) == -1  # SIGHUP, which sleep does not survive


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "deep/file"
    write_whole(path, "one", 0o600)
    write_whole(path, "two", 0o444)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("two", 0o444)
    assert list(path.parent.iterdir()) == [path]


HOSTS = "127.0.0.1 localhost\n127.0.1.1 parent parent.lan\n"


def test_the_parents_name_gives_way_in_etc_hosts() -> None:
    assert rename_host(HOSTS, "parent", "game-1") == "127.0.0.1 localhost\n127.0.1.1 game-1 parent.lan\n"


def test_a_name_that_etc_hosts_lacked_gets_a_line() -> None:
    assert rename_host("127.0.0.1 localhost\n", "parent", "game-1").endswith("\n127.0.1.1 game-1\n")


@given(st.text("ab \n.", max_size=40))
def test_renaming_twice_is_renaming_once(hosts: str) -> None:
    once = rename_host(hosts, "a", "child")
    assert rename_host(once, "a", "child") == once


def test_connections_are_read_from_the_kernels_table() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        text = Path("/proc/self/net/tcp").read_text()
        found = list(parse_table(text, socket.AF_INET))
        assert Connection(client.getsockname(), server.getsockname(), socket.AF_INET) in found


def test_a_mapped_address_in_the_ipv6_table_is_read() -> None:
    line = (
        "  sl  local_address                         remote_address                        st\n"
        "   0: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:C000 01 0 0 0\n"
    )
    (found,) = parse_table(line, socket.AF_INET6)
    assert ipaddress.IPv6Address(found.local[0]).ipv4_mapped == ipaddress.IPv4Address("127.0.0.1")
    assert found.local[1] == 8080


def test_the_rehearsal_knows_that_this_kernel_resets_connections() -> None:
    assert sockets.rehearse()


def test_a_kernel_that_resets_no_connections_may_be_rehearsed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "destroy", destroy_nothing)
    assert not sockets.rehearse()


def test_connections_that_the_kernel_does_not_reset_fail_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "destroy", destroy_nothing)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        pytest.raises(PointFailed, match="the kernel does not reset it: Operation not supported"),
    ):
        sockets.drop_foreign([], inside=())


def test_connections_of_a_parent_whose_kernel_resets_none_are_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        with pytest.raises(PointFailed, match=r"would share \d+ of this machine's: .*127\.0\.0\.1:.* End them"):
            sockets.refuse_foreign([], inside=())
        sockets.refuse_foreign([], inside=(ipaddress.IPv4Network("0.0.0.0/0"),))


def test_waiting_says_what_was_awaited() -> None:
    with pytest.raises(AgentError, match=r"the moon: not within 0\.05 s"):
        wait_for(lambda: None, what="the moon", timeout=0.05)


def test_a_mistyped_key_in_the_configuration_is_named(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('interfase = "eth0"\n[app]\ncontainer = "game"\nport = 8080\n')
    with pytest.raises(ConfigError, match=r"agent\.toml: unknown key 'interfase'"):
        load_settings(config)


def test_a_configuration_without_the_app_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("")
    with pytest.raises(ConfigError, match="container"):
        load_settings(config)


def test_this_process_may_do_what_these_tests_do() -> None:
    assert os.geteuid() == 0, "the kernel's randomness, clock and namespaces are root's: run the tests as root"
