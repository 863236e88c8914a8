"""A pretended world with a desk before it, a clock that a test drives, and runs as the workflow server knows them."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from flows.executors import DirectExecutor
from flows.runbook import scale_fleet
from forkyard.commands import Amount, Scale
from forkyard.errors import ForkyardError
from forkyard.report import Journal, Report
from forkyard.requests import Request, State
from forkyard.requests.desk import Desk
from forkyard.requests.gate import RecordedGate
from forkyard.requests.looking import plan_now, to_scale_request
from forkyard.requests.plans import PlanRecord
from forkyard.requests.store import Store, open_store
from forkyard.roles import Person
from forkyard.settings import ChatopsSettings, RoleSettings, Settings
from tasks.work import Work
from tests.flows.yard import Yard, make_yard

ASKER, APPROVER, NOBODY = Person("U1"), Person("U2"), Person("U9")
RUN = "run-1"


class Clock:
    """The office's clock: the machine's, until a test puts its hands somewhere."""

    def __init__(self) -> None:
        """Show the machine's time."""
        self.hands: datetime | None = None

    def __call__(self) -> datetime:
        return self.hands or datetime.now(UTC)


class Office:
    """A pretended world with a desk before it."""

    def __init__(self, yard: Yard, settings: Settings, store: Store, clock: Clock) -> None:
        """Furnish it."""
        self.yard, self.settings, self.store, self.clock = yard, settings, store, clock
        self.desk = Desk(store, lambda: self.settings, self.look)

    def look(self, settings: Settings, request: Request) -> PlanRecord:
        return plan_now(settings, request, opening=lambda _, __: nullcontext(self.yard.world), clock=self.clock)

    def ask(self, number: int, **fields: object) -> Request:
        command = Scale("game", Amount(number), **fields)  # type: ignore[arg-type]
        return self.desk.plan(self.desk.ask(ASKER, command, origin="slack", where="C1")[0])

    def approved(self, number: int, **fields: object) -> Request:
        return self.desk.approve(APPROVER, self.ask(number, **fields).token)

    def run(self, request: Request, *, run_id: str = RUN, warrant: str = "") -> tuple[Report, BaseException | None]:
        asked = to_scale_request(request)
        gate = RecordedGate(self.settings, asked, run_id=run_id, warrant=warrant, clock=self.clock)
        with gate, DirectExecutor() as executor:
            work = Work(self.yard.world, asked, Journal(datetime.now(UTC)), gate)
            report, error = scale_fleet(work, executor)
            gate.leave(report, error)
        return report, error

    def state(self, request: Request) -> State:
        return self.store.get(request.id).state

    def untouched(self) -> bool:
        counted = self.yard.fake.counted()
        return not any(counted[call] for call in ("fork", "destroy", "apply", "record_intent", "lease"))


@contextmanager
def furnished(folder: Path) -> Iterator[Office]:
    yard = make_yard()
    everything = RoleSettings(users=("U1", "U2"), services=("game",), verbs=("*",))
    settings = replace(
        yard.world.settings, state_dir=folder / "state", chatops=ChatopsSettings(roles={"all": everything})
    )
    yard.world = replace(yard.world, settings=settings)
    clock = Clock()
    with open_store(settings, clock=clock) as store:
        yield Office(yard, settings, store, clock)


class Server:
    """Runs as the workflow server knows them."""

    def __init__(self) -> None:
        """Begin with none."""
        self.runs: dict[str, tuple[str, int, datetime | None]] = {}
        self.states: dict[str, str] = {}
        self.refuses: dict[int, ForkyardError] = {}
        self.up = True

    def start_scale(
        self, request: object, *, warrant: str = "", plan_hash: str = "", at: datetime | None = None
    ) -> str:
        assert not warrant
        target: int = request.target  # type: ignore[attr-defined]
        if target in self.refuses:
            raise self.refuses[target]
        key = f"{request.id}-{plan_hash}"  # type: ignore[attr-defined]
        return next((n for n, run in self.runs.items() if run[0] == key), None) or self._add(key, target, at)

    def _add(self, key: str, target: int, at: datetime | None) -> str:
        name = f"run-{len(self.runs) + 1}"
        self.runs[name] = (key, target, at)
        return name

    def is_up(self) -> bool:
        return self.up

    def look(self, run_ids: object) -> dict[str, "Run"]:
        return {name: Run(self.states.get(name, "SCHEDULED")) for name in self.runs if name in run_ids}  # type: ignore[operator]


class Run:
    """One run's state."""

    def __init__(self, state: str, message: str = "") -> None:
        """Have it."""
        self.state, self.message = state, message
