"""Checks of what runs: ports, Consul, Nginx, Prefect, the frozen parents, and what a killed run left behind."""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from cli.doctor import Check, Finding, failed, passed, warned
from forkyard.errors import ForkyardError, PermanentError
from forkyard.hypervisors import Hypervisor
from forkyard.model import FrozenParent
from forkyard.reap import find_orphans
from forkyard.settings import Settings

_SECONDS = 3.0
_NAMED = 3
"""Parents named one by one; a cluster has one on each host."""
_MOST_DRIFT = 5.0
_UP = "Run `forkyard lab up`."
_SERVE = "Deploy and serve them: deployments/prefect.yaml, or the unit forkyard-runner in deployments/systemd."


def check_ports(settings: Settings) -> Iterable[Finding]:
    """What the lab opens on 127.0.0.1 is free, or is ours; nothing where there is no lab."""
    if not settings.has_lab:
        return
    from lab.world import taken_ports  # noqa: PLC0415 - the lab's libraries are imported only when asked

    taken = taken_ports(settings)
    for one in taken:
        yield failed("ports", one, "End that process, or set another port under [lab].")
    if not taken:
        yield passed("ports", "each is free, or the lab's")


def check_consul(settings: Settings) -> Iterable[Finding]:
    """A leader, and a clock that agrees with ours."""
    answer = _get(f"{settings.consul.url}/v1/status/leader")
    if answer is None:
        yield _silent(settings, "consul", settings.consul.url)
        return
    leader = json.loads(answer.body or '""')
    if not leader:
        yield failed("consul", "has no leader", "Two of its three servers must be up: `forkyard lab up`.")
        return
    yield passed("consul", f"leader {leader}")
    if abs(answer.drift) > _MOST_DRIFT:
        step = "Set the clocks: leases and certificates depend on them."
        yield warned("consul's clock", f"differs from ours by {answer.drift:.0f} s", step)


def check_nginx(settings: Settings) -> Iterable[Finding]:
    """It answers; with which upstream."""
    where = urlsplit(settings.nginx.url)
    if not _is_open(where.hostname or "127.0.0.1", where.port or 80):
        yield _silent(settings, "nginx", settings.nginx.url)
        return
    for service in sorted(settings.services):
        yield _upstream(settings, service)


def _upstream(settings: Settings, service: str) -> Finding:
    from forkyard.world import open_world  # noqa: PLC0415 - drivers are imported only when asked

    with open_world(settings, service) as world:
        upstream = world.balancer.upstream(service)
    servers = len(upstream.servers) if upstream is not None else 0
    return passed(f"nginx: {service}", f"{settings.nginx.url} answers; {servers} servers in the upstream")


def check_prefect(settings: Settings) -> Iterable[Finding]:
    """The server answers, and somebody is there to run what it schedules."""
    api = settings.prefect.api_url
    if _get(f"{api}/health") is None:
        step = f"{_start_it(settings)} Without it, `forkyard scale` runs the flow itself."
        yield warned("prefect", f"no answer at {api}", step)
        return
    yield passed("prefect", f"answers at {api}")
    answer = _get(f"{api}/deployments/filter", body={})
    deployments = json.loads(answer.body) if answer is not None else []
    ready = [d["name"] for d in deployments if d.get("status") == "READY"]
    if ready:
        yield passed("prefect runner", f"serves {', '.join(sorted(ready))}")
    else:
        yield warned("prefect runner", "no deployment is served", _UP if settings.has_lab else _SERVE)


def check_parents(settings: Settings) -> Iterable[Finding]:
    """Each service has a frozen parent."""
    from forkyard.world import open_world  # noqa: PLC0415 - as above

    for service in sorted(settings.services):
        with open_world(settings, service) as world:
            parents = world.hypervisor.list_parents(service)
            places = world.hypervisor.placements(service) if parents else []
            broken = [trouble for parent in parents if (trouble := _find_trouble(world.hypervisor, parent))]
        if not parents:
            build = "`forkyard parent build` and `forkyard parent freeze`."
            step = f"Run `forkyard lab up`, or {build}" if settings.has_lab else f"Run {build}"
            yield warned(f"parent: {service}", "no frozen parent", step)
            continue
        if broken:
            yield failed(f"parent: {service}", " ".join(broken), "Remove it and build it again: `forkyard parent -h`.")
            continue
        room = sum(place.room for place in places)
        bound = f", bounded by {places[0].limited_by}" if places and places[0].limited_by else ""
        yield passed(f"parent: {service}", f"{name_parents(parents)}; room for {room} more children{bound}")


def name_parents(parents: Sequence[FrozenParent]) -> str:
    """Name a few parents each, of more their number and hosts."""
    if len(parents) <= _NAMED:
        return ", ".join(f"{parent.name} (frozen {parent.frozen_at:%Y-%m-%d %H:%M})" for parent in parents)
    hosts, oldest = {parent.host for parent in parents}, min(parent.frozen_at for parent in parents)
    return f"{len(parents)} parents on {len(hosts)} hosts, the oldest frozen {oldest:%Y-%m-%d %H:%M}"


def _find_trouble(hypervisor: Hypervisor, parent: FrozenParent) -> str:
    try:
        # It is frozen, so nothing is frozen here: its files are looked at, as before each fork.
        hypervisor.freeze(parent.id, timeout=timedelta(seconds=10))
    except PermanentError as error:
        return str(error)
    return ""


def check_vcenter(settings: Settings) -> Iterable[Finding]:
    """It answers, knows us, and each of its usable hosts has a parent; nothing when no service runs on it."""
    services = [name for name, one in sorted(settings.services.items()) if one.hypervisor == "vsphere"]
    if not services:
        return
    from forkyard.hypervisors.vsphere.driver import VsphereHypervisor  # noqa: PLC0415 - as above

    vsphere = settings.vsphere
    if not vsphere.verify and not vsphere.thumbprint:
        step = "Name its CA in vsphere.ca_file, or its fingerprint in vsphere.thumbprint."
        yield warned("vcenter's certificate", "is not checked: anybody on the way can read the password", step)
    if vsphere.customize == "tools":
        step = "Install our agent in the parents (docs/vsphere.md, part 2), or see to them in the image."
        yield warned(
            "identity", "of host name, MAC and address alone (vsphere.customize); the rest is not proved", step
        )
    hypervisor = VsphereHypervisor(settings)
    try:
        yield passed("vcenter", f"{vsphere.url}: {hypervisor.describe()}, as {vsphere.user}")
        for service in services:
            bare = sorted(hypervisor.list_hosts() - {parent.host for parent in hypervisor.list_parents(service)})
            if bare:
                shown = ", ".join(bare[:5]) + (f" and {len(bare) - 5} more" if len(bare) > len(bare[:5]) else "")
                step = "Children are made only where a parent is: docs/vsphere.md, parts 2 and 3."
                yield warned(f"parents: {service}", f"no frozen parent on {shown}", step)
    finally:
        hypervisor.close()


def check_orphans(settings: Settings) -> Iterable[Finding]:
    """What nobody owns."""
    from forkyard.phases import observe_fleet  # noqa: PLC0415 - as above
    from forkyard.world import open_world  # noqa: PLC0415 - as above

    for service in sorted(settings.services):
        try:
            with open_world(settings, service) as world:
                fleet = observe_fleet(world)
                orphans = find_orphans(fleet, world.balancer.upstream(service), now=fleet.observed_at, leased=False)
        except ForkyardError as error:
            yield warned(f"orphans: {service}", f"cannot be looked for: {error}", _start_it(settings))
            continue
        if orphans:
            shown = ", ".join(f"{orphan.name} ({orphan.kind.value})" for orphan in orphans[:5])
            yield warned(f"orphans: {service}", f"{len(orphans)}: {shown}", "Run `forkyard reap`.")
        else:
            yield passed(f"orphans: {service}", "none")


def check_lab(settings: Settings) -> Iterable[Finding]:
    """The lab's parts are alive, where there is a lab."""
    if not settings.has_lab:
        yield passed("lab", "none: nginx.namespace or qemu.namespace is the host's own")
        return
    from cli.lab import observe_lab  # noqa: PLC0415 - as above

    status = observe_lab(settings)
    dead = sorted(name for name, state in status.parts.items() if not state.running)
    if not status.running:
        yield warned("lab", "is down", _UP)
    elif dead:
        yield failed("lab", f"not running: {', '.join(dead)}", "Run `forkyard lab up`: it starts what is missing.")
    else:
        yield passed("lab", f"{', '.join(sorted(status.parts))} run")


class _Answer:
    """What came back, and how far the other side's clock is from ours."""

    def __init__(self, body: str, date: str | None) -> None:
        self.body = body
        self.drift = parsedate_to_datetime(date).timestamp() - time.time() if date else 0.0


def _get(url: str, body: object = None) -> _Answer | None:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})  # noqa: S310 - from forkyard.toml
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310 - as above
            return _Answer(response.read().decode(), response.headers.get("Date"))
    except (OSError, urllib.error.URLError, ValueError):
        return None


def _is_open(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _silent(settings: Settings, name: str, url: str) -> Finding:
    # Before the first `lab up` it is no failure that the lab's own parts do not answer.
    ours = settings.has_lab and (urlsplit(url).port or 80) in {
        settings.lab.consul_port,
        settings.lab.load_balancer_port,
    }
    if ours and not _lab_is_up(settings):
        return warned(name, f"no answer at {url}: the lab is down", _UP)
    return failed(name, f"no answer at {url}", _start_it(settings))


def _start_it(settings: Settings) -> str:
    return _UP if settings.has_lab else "Start it, or mend its address in forkyard.toml."


def _lab_is_up(settings: Settings) -> bool:
    from cli.lab import observe_lab  # noqa: PLC0415 - as above

    return bool(observe_lab(settings).running)


LAB_CHECKS: tuple[Check, ...] = (
    check_lab,
    check_ports,
    check_consul,
    check_nginx,
    check_prefect,
    check_vcenter,
    check_parents,
    check_orphans,
)
