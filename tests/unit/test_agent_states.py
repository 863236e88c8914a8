"""What the agent does in which state, where no machine around it is needed."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forkyard import wire
from guest.agent.agent import Agent
from guest.agent.settings import AgentSettings, AppSettings


@contextmanager
def waiting_agent(**settings: str) -> Iterator[Agent]:
    agent = Agent(AgentSettings(app=AppSettings("game", 8080), **settings))  # type: ignore[arg-type]
    agent.state = "waiting"
    yield agent
    agent.stop()


def ask(agent: Agent, verb: str) -> dict[str, Any]:
    return wire.decode(agent.answer(wire.encode({"verb": verb})))


def test_a_parent_under_vsphere_with_an_address_is_not_quiesced_and_says_what_to_do() -> None:
    with waiting_agent(channel="guestinfo", interface="lo") as agent:
        answer = ask(agent, "quiesce")
        assert not answer["ok"]
        assert "lo has 127.0.0.1/8" in answer["error"]
        assert "Reboot this machine" in answer["error"]
        assert agent.state == "waiting"


def test_under_qemu_a_parent_may_have_an_address() -> None:
    with waiting_agent(interface="lo") as agent:
        # The next thing that is asked is the app, which there is none of.
        assert "container game does not run" in ask(agent, "quiesce")["error"]


def test_a_fork_point_that_is_not_reached_ends_the_process_whatever_the_reason(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        f'channel = "unix:{tmp_path}/channel"\n[app]\ncontainer = "game"\nport = 8080\n'
        f'[consul]\ndirectory = "{tmp_path}/nowhere"\n'
    )
    # Nobody has made the gate that Consul is to be held at: an error that is no AgentError.
    code = (
        "import sys, pathlib; from guest.agent import __main__ as m, agent as a\n"
        "m.serve(a.Agent(m.load_settings(pathlib.Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "agent.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGTERM
    assert "No such file or directory" in ended.stderr
