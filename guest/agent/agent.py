"""
The agent's states, and what the host may ask in each.

    starting -> waiting -> quiesced -> identified
                   └───────────┴────-> identified | failed

`waiting` is the fork point: Docker is up, the app works, Consul stands at its gate, and everything
that will run after the fork has run once. A cold-booted machine goes the very same way.
"""

import gc
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from forkyard import wire
from guest.agent import sockets
from guest.agent.app import App
from guest.agent.consul_agent import ConsulAgent
from guest.agent.containers import container_address
from guest.agent.docker_events import Containers
from guest.agent.errors import AgentError
from guest.agent.files import read_or_empty, write_whole
from guest.agent.identity import Identifier, read_identity
from guest.agent.network import Network
from guest.agent.quiet import wait_until_quiet
from guest.agent.registrator import Registrator
from guest.agent.settings import AgentSettings
from guest.agent.waiting import wait_for

log = logging.getLogger(__name__)

VERSION = "1"
BOOT_PATIENCE = 600.0
"""Seconds that Docker, the app and Consul may take to come up: an emulated machine boots slowly."""
QUIET_PATIENCE = 30.0
"""Seconds that the machine may take to become idle once the app is; a fork is right, but slower, without it."""

Message = dict[str, object]


class Agent:
    """One machine's agent. Its channel's thread calls it, and nobody else does."""

    def __init__(self, settings: AgentSettings) -> None:
        """Connect the parts; `prepare` sets them going."""
        self.settings = settings
        self.state = "starting"
        self._containers = Containers(settings.docker)
        self._app = App(settings.app)
        self._consul = ConsulAgent(settings.consul)
        self._network = Network(settings.interface)
        self._registrator = Registrator(self._consul, self._containers)
        self._identifier = Identifier(settings, self._network, self._app, self._consul, self._containers)
        self._identity: wire.Identity | None = None
        self._report: wire.IdentityReport | None = None
        self._networked = False
        self._resets_connections = True
        self._verbs: dict[str, Callable[[Message, float], Message]] = {
            "hello": self._hello,
            "quiesce": self._quiesce,
            "identify": self._identify,
            "network": self._bring_up_network,
        }

    def prepare(self) -> None:
        """Take up an identity that was proved before our restart, or close Consul's gate until there is one."""
        saved = read_or_empty(self._saved)
        if saved and json.loads(saved)["state"] == "identified":
            self._resume(json.loads(saved))
        elif not saved:
            self._consul.close_gate()
        else:
            self.state = "failed"

    def reach_fork_point(self) -> None:
        """Wait until everything on this machine is up, rehearse, and be `waiting`; raises AgentError."""
        self._containers.start()
        if self.state != "starting":
            return
        self._consul.hold(timeout=BOOT_PATIENCE)
        wait_for(self._find_app, what=f"container {self.settings.app.container}", timeout=BOOT_PATIENCE)
        wait_for(lambda: self._app.is_healthy() or None, what="the app's health", timeout=BOOT_PATIENCE)
        self._rehearse()
        # What is left now will live on: keep the collector from touching (and so copying) its pages.
        gc.collect()
        gc.freeze()
        self.state = "waiting"
        log.info("at the fork point")

    def answer(self, line: bytes) -> bytes:
        """The answer to one line of the host's; never raises."""
        received = time.monotonic()
        try:
            message = wire.decode(line)
            verb = self._verbs.get(str(message.get("verb")), self._refuse)
            return wire.encode({"ok": True} | verb(message, received))
        except (AgentError, wire.WireError, OSError) as error:
            return wire.encode({"ok": False, "error": str(error)} | self._failed_report())
        except Exception as error:
            # The host waits for an answer, and silence would only cost it its patience.
            log.exception("%s", line[:40])
            return wire.encode({"ok": False, "error": f"{type(error).__name__}: {error}"})

    def stop(self) -> None:
        """End the threads; Consul and what is registered with it stay."""
        self._registrator.stop()
        self._containers.stop()

    def _refuse(self, message: Message, _received: float) -> Message:
        text = f"{message.get('verb')!r}: no such verb; there are {', '.join(self._verbs)}"
        raise AgentError(text)

    def _hello(self, _message: Message, _received: float) -> Message:
        return {
            "state": self.state,
            "fork_id": self._identity.fork_id if self._identity else None,
            "agent": VERSION,
        }

    def _quiesce(self, _message: Message, _received: float) -> Message:
        self._require("waiting", "quiesced")
        if self.settings.is_under_vsphere:
            self._network.refuse_addresses()
        if self.state == "waiting":
            self._app.quiesce()
            if not wait_until_quiet(patience=QUIET_PATIENCE):
                log.warning("the machine does not become idle; what it does now each child will do again")
        if not self._resets_connections:
            # After the fork it would be too late: a child that cannot drop them fails, and so would every one.
            sockets.refuse_foreign(self._containers.pids(), self._network.local_networks())
        gc.collect()
        gc.freeze()
        self.state = "quiesced"
        return {"state": self.state}

    def _identify(self, message: Message, received: float) -> Message:
        identity = wire.identity_from_wire(message.get("identity"))
        if self.state == "identified" and self._report and self._identity:
            if self._identity.fork_id == identity.fork_id:
                return {"report": wire.report_to_wire(self._report)}
            text = f"identified already as {self._identity.name} of fork {self._identity.fork_id}"
            raise AgentError(text)
        self._require("waiting", "quiesced", "failed")
        self._report = self._identifier.take(identity, received)
        self._identity = identity
        self.state = "identified" if self._report.proved else "failed"
        self._save()
        if self.state == "failed":
            wrong = next(p for p in self._report.points if not p.proved and p.detail != "not reached")
            text = f"{wrong.point}: {wrong.detail}"
            raise AgentError(text)
        return {"report": wire.report_to_wire(self._report)}

    def _bring_up_network(self, _message: Message, _received: float) -> Message:
        self._require("identified")
        assert self._identity is not None  # noqa: S101 - the state says so
        self._network.wait_for_carrier()
        self._network.announce()
        if not self._networked:
            self._consul.release(self._registrator.first_services(self._identity))
            self._registrator.activate(self._identity)
            self._networked = True
            self._save()
        return {"addresses": [address.partition("/")[0] for address in self._network.addresses()]}

    def _require(self, *states: str) -> None:
        if self.state not in states:
            text = f"the agent is {self.state}, not {' or '.join(states)}"
            raise AgentError(text)

    def _failed_report(self) -> Message:
        return {"report": wire.report_to_wire(self._report)} if self.state == "failed" and self._report else {}

    def _find_app(self) -> tuple[str, int] | None:
        container = self._containers.find(self.settings.app.container)
        if container is not None:
            self._app.address = (container_address(container), self.settings.app.port)
        return self._app.address

    def _rehearse(self) -> None:
        """Run what the fork will need once, so that its code and its files are in memory."""
        self._consul.warm()
        self._app.warm()
        self._resets_connections = sockets.rehearse()
        if not self._resets_connections:
            log.warning("this kernel cannot reset connections: there may be none to the outside when it is quiesced")
        self._identifier.rehearse(self.settings.private_dir / "rehearsal")
        self.answer(wire.encode({"verb": "hello"}))

    @property
    def _saved(self) -> Path:
        return self.settings.private_dir / "state.json"

    def _save(self) -> None:
        report = wire.report_to_wire(self._report) if self._report else None
        saved = {"state": self.state, "networked": self._networked, "report": report}
        write_whole(self._saved, json.dumps(saved), 0o600)

    def _resume(self, saved: dict[str, object]) -> None:
        self._identity = read_identity(self.settings.shared_dir)
        if self._identity is None:
            self.state = "failed"
            return
        self._report = wire.report_from_wire(saved["report"])
        self.state = "identified"
        self._networked = bool(saved["networked"])
        log.info("still %s after a restart", self._identity.name)
        self._consul.adopt(self._identity)
        if self._networked:
            self._registrator.activate(self._identity, first_look=0.0)
        else:
            self._consul.hold(timeout=BOOT_PATIENCE)
