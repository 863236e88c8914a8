"""`forkyard sync`: stay, and keep Nginx's upstreams as Consul says."""

import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from types import FrameType

from cli.fleet import select_services
from cli.output import emit, say
from forkyard.settings import load_settings
from forkyard.sync import Change, run_sync
from forkyard.world import open_world


def run_resident_sync(config: Path | None, service: str | None, *, as_json: bool) -> int:
    """Follow until SIGINT or SIGTERM, which are the ways to end it and so no failure."""
    settings = load_settings(config)
    services = select_services(settings, service)
    stop = Event()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)

    def tell(change: Change) -> None:
        if as_json:
            emit({"at": datetime.now(UTC).isoformat(), **asdict(change)})
            return
        marks = [f"+{name}" for name in change.added] + [f"-{name}" for name in change.removed]
        now = datetime.now(UTC)
        sys.stdout.write(f"{now:%H:%M:%S} {change.service}: {change.serving} servers: {' '.join(marks)}\n")
        sys.stdout.flush()

    say(f"following {', '.join(services)}; Ctrl-C ends it")
    with open_world(settings, services[0]) as world:
        run_sync(world.registry, world.balancer, services, stop=stop, changed=tell)
    return 0
