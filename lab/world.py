"""
The whole small world: up, down, status.

Up may be called at any time: what runs is left alone, what is missing is started. Down ends every
process and removes the namespace; frozen parents and caches stay.
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from forkyard.errors import InvalidRequest
from forkyard.settings import LAB_URLS, Settings
from lab.chat import SlackStatus, slack_ports, slack_status, slack_trouble, start_slack, stop_slack
from lab.inner import lab_home, make_inner_parts
from lab.own_vcenter import VCenterDoor, find_door, make_vcenter_parts
from lab.parent import ensure_parent, parent_trouble, remove_children
from lab.parts import Part, Progress, start_parts, stop_parts, wanted_ports
from lab.ports import find_taken_ports, refuse_taken_ports
from lab.prefect import prefect_ports, prefect_status, start_prefect, stop_prefect
from lab.resident import BOT, SYNC, resident_trouble, start_resident, stop_resident


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part of the lab."""

    name: str
    healthy: bool
    detail: str
    """What is wrong; empty when nothing is."""
    on_disk: bool = False
    """Whether it is nothing but files, which stay when the lab is down."""


@dataclass(frozen=True, slots=True)
class LabStatus:
    """The lab as it is now; the addresses work from the host's own network."""

    load_balancer: str
    consul: str
    """Its UI is at `/ui` below it."""
    prefect: str
    slack: SlackStatus
    parts: tuple[PartStatus, ...]
    vcenter: VCenterDoor | None = None
    """How to get into the lab's own vCenter; None when it has none."""

    @property
    def up(self) -> bool:
        """Whether every part is healthy."""
        return all(part.healthy for part in self.parts)


def up(settings: Settings, progress: Progress, *, config: Path | None = None) -> LabStatus:
    """
    Start what is missing. *config* is the file that the settings came from, for the daemons that read it too.

    Raises:
        CapacityExhausted: ports are in use, and nothing was started; the message names each and who holds it.
        InvalidRequest: the settings make no lab, or look for its parts where they will not be.
        ForkyardError: a part does not start; the others stay up, and another call goes on from there.
    """
    with _alone(settings):
        parts = make_parts(settings, progress, config)
        _refuse_other_addresses(settings)
        # Looked at before anything starts: a parent's boot takes minutes, and would be for nothing.
        refuse_taken_ports(wanted_ports(parts))
        start_parts(parts, progress)
    return status(settings)


def down(settings: Settings, progress: Progress = lambda _: None) -> None:
    """End all of it, children and half-made things included; a lab that is not up is success."""
    with _alone(settings):
        stop_parts(make_parts(settings, progress, None), progress)
        shutil.rmtree(lab_home(settings), ignore_errors=True)


def status(settings: Settings) -> LabStatus:
    """Look at every part."""
    parts = make_parts(settings, lambda _: None, None)
    return LabStatus(
        load_balancer=f"http://127.0.0.1:{settings.lab.load_balancer_port}",
        consul=f"http://127.0.0.1:{settings.lab.consul_port}",
        prefect=f"http://127.0.0.1:{settings.lab.prefect_port}",
        slack=slack_status(settings),
        parts=tuple(PartStatus(part.name, not (reason := part.trouble()), reason, part.on_disk) for part in parts),
        vcenter=find_door(settings),
    )


def taken_ports(settings: Settings) -> list[str]:
    """Say of each port that the lab would open and cannot who has it."""
    return list(find_taken_ports(wanted_ports(make_parts(settings, lambda _: None, None))))


def _refuse_other_addresses(settings: Settings) -> None:
    """Raise InvalidRequest where forkyard would look for a part of the lab at a port that is not the lab's."""
    for section, key, _, name in LAB_URLS:
        url, port = getattr(getattr(settings, section), key), getattr(settings.lab, name)
        place = urlsplit(url)
        if place.hostname not in {"127.0.0.1", "localhost"} or place.port != port:
            text = (
                f"{section}.{key} is {url}, and the lab's own is at port {port} of 127.0.0.1 (lab.{name}). "
                f"Leave {section}.{key} out of forkyard.toml: it follows the port."
            )
            raise InvalidRequest(text)


def make_parts(settings: Settings, progress: Progress, config: Path | None) -> list[Part]:
    """Every part of the lab, in an order in which they could be started one by one."""
    services = [
        _parent(settings, name, progress) for name, one in sorted(settings.services.items()) if one.hypervisor == "qemu"
    ]
    inner = [*make_inner_parts(settings), *make_vcenter_parts(settings)]
    return [*inner, *services, *_programs(settings, config)]


def _parent(settings: Settings, service: str, progress: Progress) -> Part:
    return Part(
        f"parent of {service}",
        start=lambda: ensure_parent(settings, service, progress),
        trouble=lambda: parent_trouble(settings, service),
        stop=lambda: remove_children(settings, service),
        after=("network",),
        on_disk=True,
    )


def _programs(settings: Settings, config: Path | None) -> list[Part]:
    """What runs in the host's own network; listed last, so that at the end no flow forks what is being removed."""
    return [
        Part(
            "prefect",
            start=lambda: start_prefect(settings, config),
            trouble=lambda: prefect_status(settings),
            stop=lambda: stop_prefect(settings),
            ports=lambda: prefect_ports(settings),
        ),
        Part(
            "slack",
            start=lambda: start_slack(settings),
            trouble=lambda: slack_trouble(settings),
            stop=lambda: stop_slack(settings),
            ports=lambda: slack_ports(settings),
        ),
        Part(
            "sync",
            start=lambda: start_resident(settings, config, SYNC),
            trouble=lambda: resident_trouble(settings, SYNC),
            stop=lambda: stop_resident(settings, SYNC),
            after=("consul", "nginx", "port of consul"),
        ),
        Part(
            "bot",
            start=lambda: start_resident(settings, config, BOT),
            trouble=lambda: resident_trouble(settings, BOT),
            stop=lambda: stop_resident(settings, BOT),
            after=("slack", "prefect"),
        ),
    ]


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Two that start or stop the lab at the same time do it one after the other."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (settings.run_dir / "lab.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
