"""The agent's channel under vSphere, over a stand-in for vmware-rpctool that keeps values in files."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkyard.hypervisors.vsphere import guestinfo as host
from guest.agent import guestinfo as guest
from guest.agent.channel import open_channel
from guest.agent.errors import ConfigError
from guest.install.installer import AppHooks, render_config, render_unmanaged

TOOL = """#!/bin/sh
cd "{directory}" || exit 2
echo "$1" >>calls
case "$1" in
    info-get\\ *) cat "${{1#info-get }}" 2>/dev/null || {{ echo "No value found"; exit 1; }} ;;
    info-set\\ *) set -- ${{1#info-set }}; key=$1; shift; printf %s "$*" >"$key" ;;
    instantclone.freeze) rm -f "{request}" ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture
def values(tmp_path: Path) -> Path:
    """Give the directory with the tool and the values."""
    tool = tmp_path / "rpctool"
    tool.write_text(TOOL.format(directory=tmp_path, request=guest.REQUEST))
    tool.chmod(0o755)
    return tmp_path


def listen(values: Path, *, quiesced: bool = True) -> tuple[guest.GuestinfoChannel, Iterator[bytes]]:
    channel = guest.GuestinfoChannel(values / "rpctool", lambda: quiesced)
    return channel, channel.lines()


def ask_next(values: Path, after: str, request: str) -> None:
    """Have the stand-in take this as the host's next request once it was called with what begins with *after*."""
    script = (values / "rpctool").read_text().replace("#!/bin/sh\n", "#!/bin/sh\nsaid=$1\n")
    done = f"'{after}'*) printf %s '{request}' >\"{guest.REQUEST}\" ;;"
    (values / "rpctool").write_text(f'{script}case "$said" in {done} esac\n')


def answer_in(values: Path, request_id: str) -> dict[str, object]:
    answer = host.parse_answer((values / guest.ANSWER).read_text(), request_id)
    assert answer is not None
    return dict(answer)


def ask(values: Path, request_id: str, verb: str) -> None:
    (values / guest.REQUEST).write_text(host.render_request(request_id, verb, weight=1))


def test_host_and_guest_use_the_same_keys() -> None:
    assert (guest.REQUEST, guest.ANSWER) == (host.REQUEST, host.ANSWER)


def test_a_request_is_heard_once_and_its_answer_repeats_its_id(values: Path) -> None:
    channel, lines = listen(values)
    ask(values, "a", "hello")
    assert json.loads(next(lines)) == {"verb": "hello", "weight": 1}
    channel.send(b'{"ok":true,"state":"waiting"}\n')
    answer = host.parse_answer((values / guest.ANSWER).read_text(), "a")
    assert answer == {"id": "a", "ok": True, "state": "waiting"}
    ask(values, "b", "quiesce")
    assert json.loads(next(lines))["verb"] == "quiesce"


def test_an_answer_with_spaces_arrives_whole(values: Path) -> None:
    channel, lines = listen(values)
    ask(values, "a", "hello")
    next(lines)
    channel.send(b'{"ok":false,"error":"mac: could not be set"}\n')
    answer = host.parse_answer((values / guest.ANSWER).read_text(), "a")
    assert answer is not None
    assert answer["error"] == "mac: could not be set"


def test_a_freeze_runs_the_tool_and_then_the_child_listens(values: Path) -> None:
    _, lines = listen(values)
    ask(values, "a", "hello")
    next(lines)
    ask(values, "freeze-1", "freeze")
    # The stand-in takes the request away, as a child's own values replace its parent's.
    script = (
        (values / "rpctool")
        .read_text()
        .replace(f'rm -f "{guest.REQUEST}"', f"printf %s '{host.render_request('c', 'identify')}' >\"{guest.REQUEST}\"")
    )
    (values / "rpctool").write_text(script)
    assert json.loads(next(lines))["verb"] == "identify"
    assert guest.FREEZE in (values / "calls").read_text().splitlines()


def test_a_freeze_from_before_the_boot_is_passed_over(values: Path) -> None:
    ask(values, "freeze-1", "freeze")
    ask_next(values, "info-get", host.render_request("a", "hello"))
    _, lines = listen(values)
    assert json.loads(next(lines))["verb"] == "hello"
    assert guest.FREEZE not in (values / "calls").read_text()


def test_a_machine_that_is_not_quiesced_is_not_frozen_and_says_so(values: Path) -> None:
    _, lines = listen(values, quiesced=False)
    ask(values, "a", "hello")
    next(lines)
    ask(values, "freeze-1", "freeze")
    ask_next(values, f"info-set {guest.ANSWER}", host.render_request("b", "hello"))
    assert json.loads(next(lines))["verb"] == "hello"
    assert answer_in(values, "freeze-1")["error"] == "not frozen: the agent is not quiesced"
    assert guest.FREEZE not in (values / "calls").read_text()


def test_a_freeze_that_fails_is_answered_with_the_tools_words(values: Path) -> None:
    _, lines = listen(values)
    ask(values, "a", "hello")
    next(lines)
    script = (values / "rpctool").read_text()
    script = script.replace(f'rm -f "{guest.REQUEST}"', "echo Permission denied; exit 1", 1)
    # The stand-in ends there, so the next request comes with the answer.
    (values / "rpctool").write_text(script)
    ask_next(values, f"info-set {guest.ANSWER}", host.render_request("b", "hello"))
    ask(values, "freeze-1", "freeze")
    assert json.loads(next(lines))["verb"] == "hello"
    answer = answer_in(values, "freeze-1")
    assert answer["ok"] is False
    assert "Permission denied" in str(answer["error"])


def test_a_silent_host_is_asked_less_and_less_often() -> None:
    assert guest.pause_after(0.0) == guest.CLOSE
    assert guest.pause_after(2.0) == guest.NEAR
    assert guest.pause_after(guest.ATTENTION) == guest.FAR
    passed, looks = 0.0, 0
    while passed < guest.ATTENTION:
        passed, looks = passed + guest.pause_after(passed), looks + 1
    assert looks < 140


def test_a_value_that_is_no_request_is_passed_over(values: Path) -> None:
    _, lines = listen(values)
    (values / guest.REQUEST).write_text("nothing")
    script = (
        (values / "rpctool")
        .read_text()
        .replace(
            'cat "${1#info-get }"',
            f'cat "${{1#info-get }}"; printf %s \'{host.render_request("d", "hello")}\' >"{guest.REQUEST}"',
        )
    )
    (values / "rpctool").write_text(script)
    assert json.loads(next(lines))["verb"] == "hello"


def test_without_the_tool_the_channel_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match="open-vm-tools"):
        open_channel("guestinfo:/nowhere/rpctool")


def test_photons_network_service_leaves_the_device_alone() -> None:
    assert "Name=eth0" in render_unmanaged("eth0")
    assert "Unmanaged=yes" in render_unmanaged("eth0")


def test_the_configuration_names_the_channel() -> None:
    assert 'channel = "guestinfo"' in render_config(AppHooks(), "eth0", "guestinfo")
