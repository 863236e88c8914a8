"""Looking at fleets and at the record for an answer: nothing is changed and no lease is taken."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from bot.answers import ServiceSight
from forkyard.errors import ForkyardError
from forkyard.model import Fleet, LeaseHolder
from forkyard.phases import observe_fleet
from forkyard.requests import Entry, Request, State
from forkyard.requests.audit import Logged
from forkyard.requests.looking import Open
from forkyard.requests.store import Store
from forkyard.settings import Settings

DAY = timedelta(hours=24)
_LINES = 20
_LOOKED_AT = 1000
"""Lines of the log among which the last ones for a person are looked for."""


class Sights:
    """What is there, and what was."""

    def __init__(self, load: Callable[[], Settings], store: Store, opening: Open) -> None:
        """Look at the worlds that *opening* opens."""
        self._load, self._store, self._opening = load, store, opening

    def observe(self, services: Sequence[str]) -> list[ServiceSight]:
        """Each service as it is; one that cannot be seen says why."""
        return [self._observe(service) for service in services]

    def _observe(self, service: str) -> ServiceSight:
        now = datetime.now(UTC)
        fleet, trouble, held_by = self._look(service)
        scheduled = [r for r in self.list_scheduled(service) if r.state is State.SCHEDULED and r.start_at is not None]
        past = [r for r in self._store.list_requests(service=service) if r.result and r.finished_at]
        recent = [r for r in past if r.finished_at is not None and now - r.finished_at < DAY]
        return ServiceSight(
            service=service,
            fleet=fleet,
            trouble=trouble,
            held_by=held_by,
            lock=self._store.locks().get(service),
            following=min(scheduled, key=lambda r: r.start_at or now, default=None),
            history=tuple(sorted(recent, key=lambda r: r.finished_at or now)),
        )

    def _look(self, service: str) -> tuple[Fleet | None, str, str]:
        try:
            with self._opening(self._load(), service) as world:
                holder = world.registry.holder(service)
                held = f"{holder.who}: {holder.reason or holder.request_id[:6]}" if holder is not None else ""
                return observe_fleet(world), "", held
        except ForkyardError as error:
            return None, str(error), ""

    def find_holder(self, service: str) -> LeaseHolder | None:
        """Who holds the service's lease; raises ForkyardError when that cannot be asked."""
        with self._opening(self._load(), service) as world:
            return world.registry.holder(service)

    def list_scheduled(self, service: str | None) -> list[Request]:
        """What is going to happen by itself, and what would once it is approved."""
        found = self._store.list_requests(states=[State.SCHEDULED, State.AWAITING], service=service)
        return [request for request in found if request.start_at is not None]

    def read_log(self, about: str | None, since: timedelta | None, sees: Callable[[Entry], bool]) -> list[Logged]:
        """The log's last lines about a service, a request or a person, of those that *sees* lets through."""
        start = datetime.now(UTC) - since if since is not None else None
        found = self._store.read_log(about=about, since=start, limit=_LOOKED_AT)
        return [logged for logged in found if sees(logged.entry)][-_LINES:]
