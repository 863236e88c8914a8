"""`python -m guest.agent [CONFIG]`: the service forkyard-agent."""

import logging
import os
import signal
import socket
import sys
from pathlib import Path
from threading import Thread
from types import FrameType

from guest.agent.agent import Agent
from guest.agent.channel import block_wakeup_signal, open_channel
from guest.agent.errors import AgentError
from guest.agent.settings import DEFAULT_CONFIG, load_settings

log = logging.getLogger("guest.agent")


def main() -> int:
    """Run until SIGTERM; 1 when the fork point cannot be reached, so that systemd starts us again."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    block_wakeup_signal()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        agent = Agent(load_settings(Path(sys.argv[1]) if sys.argv[1:] else DEFAULT_CONFIG))
        agent.prepare()
        notify_systemd("READY=1")
        serve(agent)
    except AgentError as error:
        log.error("%s", error)  # noqa: TRY400 - the message says all, a traceback would hide it
        return 1
    return 0


def serve(agent: Agent) -> None:
    """Answer the host while the fork point is reached and ever after; SIGTERM ends it."""
    try:
        Thread(target=_reach_fork_point, args=(agent,), name="fork-point", daemon=True).start()
        channel = open_channel(agent.settings.channel, is_quiesced=lambda: agent.state == "quiesced")
        for line in channel.lines():
            channel.send(agent.answer(line))
    finally:
        agent.stop()


def _reach_fork_point(agent: Agent) -> None:
    try:
        agent.reach_fork_point()
    except Exception as error:
        # Docker, Consul or the app did not come up, or else we are wrong: systemd starts us again, and we look again.
        log.error("%s", error, exc_info=not isinstance(error, AgentError))  # noqa: TRY400 - else the message says all
        os.kill(os.getpid(), signal.SIGTERM)


def notify_systemd(state: str) -> None:
    """Tell systemd what sd_notify(3) would, when it asked to be told."""
    place = os.environ.get("NOTIFY_SOCKET")  # noqa: TID251 - sd_notify(3) has it there
    if place:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(state.encode(), "\0" + place[1:] if place.startswith("@") else place)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
