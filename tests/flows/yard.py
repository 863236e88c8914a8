"""A pretended world with one frozen parent, and requests on it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flows.executors import DirectExecutor
from flows.runbook import scale_fleet
from forkyard.balancer.fake import FakeBalancer
from forkyard.fake_world import FakeWorld
from forkyard.hypervisors.fake import FakeHypervisor
from forkyard.model import ScaleRequest
from forkyard.names import new_request_id
from forkyard.registry.fake import FakeRegistry
from forkyard.report import Journal, Report
from forkyard.settings import ConsulSettings, ServiceSettings, Settings
from forkyard.world import World
from tasks.work import Work


@dataclass(slots=True)
class Yard:
    """A pretended world with one frozen parent, and requests on it."""

    fake: FakeWorld
    world: World

    def request(self, target: int, *, dry_run: bool = False, request_id: str | None = None) -> ScaleRequest:
        """Make a request."""
        request_id = request_id or new_request_id()
        return ScaleRequest(request_id, "game", target, "tester", datetime.now(UTC), "a test", dry_run)

    def work(self, target: int, *, dry_run: bool = False, request_id: str | None = None) -> Work:
        """Make a request ready to be worked on."""
        request = self.request(target, dry_run=dry_run, request_id=request_id)
        return Work(self.world, request, Journal(request.requested_at))

    def scale(self, target: int, *, dry_run: bool = False, request_id: str | None = None) -> Report:
        """Carry out a request by plain calls."""
        return self.run(self.work(target, dry_run=dry_run, request_id=request_id))[0]

    def run(self, work: Work) -> tuple[Report, BaseException | None]:
        """Carry out what was made ready, by plain calls."""
        with DirectExecutor() as executor:
            return scale_fleet(work, executor)

    def serving(self) -> list[str]:
        """Names of the servers in the upstream."""
        upstream = self.fake.upstreams.get("game")
        return [server.name for server in upstream.servers] if upstream else []

    def names(self) -> list[str]:
        """Names of the VMs that there are."""
        return sorted(vm.name for vm in self.fake.vms.values())


def make_yard() -> Yard:
    """Make a world with one frozen parent and no child."""
    fake = FakeWorld()
    fake.add_parent("game")
    quick = ServiceSettings(
        maximum=2000,
        step=2000,
        fork_timeout=timedelta(seconds=5),
        identify_timeout=timedelta(seconds=5),
        register_timeout=timedelta(seconds=2),
        serve_timeout=timedelta(seconds=2),
        drain_timeout=timedelta(seconds=1),
    )
    settings = Settings(services={"game": quick}, consul=ConsulSettings(lease_ttl=timedelta(seconds=0.3)))
    world = World(settings, "game", FakeHypervisor(fake), FakeRegistry(fake), FakeBalancer(fake))
    return Yard(fake, world)
