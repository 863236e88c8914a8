"""The real bot before a real small Slack; fleet and Prefect are pretended, so that each step is a test's to take."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bot.checks import read_secrets
from bot.run import running_bot
from forkyard.balancer.fake import FakeBalancer
from forkyard.fake_world import FakeWorld
from forkyard.hypervisors.fake import FakeHypervisor
from forkyard.registry.fake import FakeRegistry
from forkyard.requests import Request
from forkyard.requests.store import Store, open_store
from forkyard.settings import ChatopsSettings, LabSettings, PrefectSettings, ServiceSettings, Settings
from forkyard.world import World
from lab.chat import lab_chatops
from tests.support.lab import until
from tests.support.pretend_prefect import PretendPrefect, Run, serving_prefect
from tests.support.slack import Json, LabSlack, running_slack


@dataclass
class Stage:
    """Slack, the bot, the record, and a pretended world behind them."""

    slack: LabSlack
    settings: Settings
    store: Store
    prefect: PretendPrefect
    world: FakeWorld
    stack: ExitStack = field(repr=False)
    bots: list[ExitStack] = field(default_factory=list, repr=False)

    def load(self) -> Settings:
        """The settings of this moment."""
        return self.settings

    def start_bot(self) -> None:
        """Start the bot and wait until it listens."""
        stack = self.stack.enter_context(ExitStack())
        secrets = read_secrets(self.settings.chatops)
        stack.enter_context(running_bot(self.load, secrets, opening=self.open_world))
        self.bots.append(stack)
        until(lambda: self.slack.state()["app"]["connections"] == 1, seconds=10, what="the bot's connection")

    def stop_bot(self) -> None:
        """End it."""
        self.bots.pop().close()
        self.slack.faults(cut=True)
        until(lambda: self.slack.state()["app"]["connections"] == 0, seconds=10, what="the bot's farewell")

    @contextmanager
    def open_world(self, settings: Settings, service: str) -> Iterator[World]:
        """The pretended world as the bot opens it."""
        yield World(settings, service, FakeHypervisor(self.world), FakeRegistry(self.world), FakeBalancer(self.world))

    def change(self, **chatops: Any) -> None:  # noqa: ANN401 - the settings' own
        """Change who may do what, while the bot runs."""
        self.settings = replace(self.settings, chatops=replace(self.settings.chatops, **chatops))

    def message(self, request: Request | None = None, *, person: str = "anna") -> Json:
        """The message of a request (of the only one); waits until it is there."""
        found: list[Json] = []

        def look() -> bool:
            found[:] = [m for m in self.slack.messages(person) if block_ids(m) & self._wanted(request)]
            return bool(found)

        until(look, seconds=10, what="the request's message")
        assert len(found) == 1
        return found[0]

    def _wanted(self, request: Request | None) -> set[str]:
        rows = [request] if request is not None else self.store.list_requests()
        return {f"request-{row.id}" for row in rows}

    def until_shown(self, *words: str, request: Request | None = None, seconds: float = 10) -> Json:
        """Wait until the request's message has all these words; give it."""
        until(
            lambda: all(word in text_of(self.message(request)) for word in words),
            seconds=seconds,
            what=f"{words} shown",
        )
        return self.message(request)

    def until_told(self, words: str, person: str = "anna") -> str:
        """Wait until a person alone was told these words; give all that was said."""
        said: list[str] = []

        def look() -> bool:
            said[:] = [text_of(m) for m in self.slack.messages(person) if m["ephemeral"] and words in text_of(m)]
            return bool(said)

        until(look, seconds=10, what=f"{person} told: {words}")
        return said[-1]

    def until_thread(self, message: Json) -> Json:
        """Wait for the only answer in a message's thread."""
        found: list[Json] = []

        def look() -> bool:
            found[:] = [m for m in self.slack.messages() if m.get("thread_ts") == message["ts"]]
            return bool(found)

        until(look, seconds=10, what="an answer in the thread")
        (only,) = found
        return only

    def until_row(self, state: str, what: Callable[[Request], bool] = lambda _: True) -> Request:
        """Wait until the newest request is in this state."""

        def look() -> bool:
            rows = self.store.list_requests(limit=1)
            return bool(rows) and rows[0].state.value == state and what(rows[0])

        until(look, seconds=10, what=f"a request that is {state}")
        return self.store.list_requests(limit=1)[0]

    def until_run(self) -> Run:
        """Wait for the only run."""
        until(lambda: len(self.prefect.runs) > 0, seconds=10, what="a run")
        self.until_row(self.store.list_requests(limit=1)[0].state.value, lambda row: row.run_id is not None)
        return self.prefect.the_run()

    def ask(self, text: str = "scale game to 4", person: str = "anna") -> Json:
        """Ask for a number, and wait for the plan's message."""
        answer = self.slack.command(text, person)
        assert answer["ok"], answer
        return self.until_shown("Approve")


def text_of(thing: Any) -> str:  # noqa: ANN401 - blocks, nested as they come
    """All words in a message."""
    if isinstance(thing, dict):
        return "\n".join(text_of(value) for key, value in thing.items() if key not in {"type", "block_id", "value"})
    if isinstance(thing, list):
        return "\n".join(text_of(one) for one in thing)
    return str(thing) if isinstance(thing, str) else ""


def buttons_of(message: Json) -> list[str]:
    """The words on a message's buttons."""
    elements = [e for block in message["blocks"] for e in block.get("elements", []) if e.get("type") == "button"]
    return [element["text"]["text"] for element in elements]


def block_ids(message: Json) -> set[str]:
    """The ids of a message's blocks."""
    return {block.get("block_id", "") for block in message["blocks"]}


@pytest.fixture(scope="session")
def one_slack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabSlack]:
    """One small Slack for all tests of the bot; each begins it anew."""
    run_dir = tmp_path_factory.mktemp("bot")
    with running_slack(run_dir / "lab" / "slack") as found:
        yield found


@pytest.fixture
def quiet_stage(one_slack: LabSlack, tmp_path: Path) -> Iterator[Stage]:
    """All of it but the bot."""
    one_slack.act("reset")
    port = int(one_slack.url.rpartition(":")[2])
    settings = Settings(
        state_dir=tmp_path,
        run_dir=one_slack.directory.parents[1],
        lab=LabSettings(slack_port=port),
        services={"game": ServiceSettings(maximum=200), "shop": ServiceSettings(maximum=50)},
        chatops=ChatopsSettings(),
    )
    settings = replace(settings, chatops=lab_chatops(settings))
    with ExitStack() as stack:
        store = stack.enter_context(open_store(settings))
        prefect = PretendPrefect(settings, store)
        prefect.url = stack.enter_context(serving_prefect(prefect))
        settings = replace(settings, prefect=PrefectSettings(api_url=prefect.url))
        world = FakeWorld()
        world.add_parent("game")
        world.add_parent("shop", service="shop")
        yield Stage(one_slack, settings, store, prefect, world, stack)
    # The client takes seconds to let go of its socket.
    one_slack.faults(cut=True)
    until(lambda: one_slack.state()["app"]["connections"] == 0, seconds=10, what="the bot's farewell")


@pytest.fixture
def stage(quiet_stage: Stage) -> Stage:
    """All of it, the bot listening."""
    quiet_stage.start_bot()
    return quiet_stage
