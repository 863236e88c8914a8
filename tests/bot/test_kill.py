"""The bot as its own process, killed with -9 while a run is on its way: the next one goes on with the same message."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from forkyard.balancer.fake import FakeBalancer
from forkyard.commands import Amount, Scale
from forkyard.fake_world import FakeWorld
from forkyard.hypervisors.fake import FakeHypervisor
from forkyard.registry.fake import FakeRegistry
from forkyard.requests import PlanRecord, Request
from forkyard.requests.desk import Desk
from forkyard.requests.looking import plan_now
from forkyard.requests.store import open_store
from forkyard.roles import Person
from forkyard.settings import Settings, load_settings
from forkyard.world import World
from lab.chat import lab_chatops, slack_home
from tests.bot.conftest import Stage
from tests.support.lab import FORKYARD, until, write_config
from tests.support.pretend_prefect import PretendPrefect, serving_prefect
from tests.support.slack import ANNA, FLEET, running_slack


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[tuple[Stage, Path]]:
    """All of it but the bot, which reads its forkyard.toml by itself."""
    with ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fy-bot-")))
        config = write_config(tmp_path, run, tmp_path, namespace="fy-nobody")
        settings = load_settings(config)
        slack = stack.enter_context(running_slack(slack_home(settings), settings.lab.slack_port))
        settings = replace(settings, chatops=lab_chatops(settings))
        store = stack.enter_context(open_store(settings))
        prefect = PretendPrefect(settings, store)
        prefect.url = stack.enter_context(serving_prefect(prefect, settings.lab.prefect_port))
        world = FakeWorld()
        world.add_parent("game")
        yield Stage(slack, settings, store, prefect, world, stack), config


@contextmanager
def bot_process(stage: Stage, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (config.parent / "bot.log").open("ab") as log:
        process = subprocess.Popen([FORKYARD, "--config", config, "-v", "bot", "--lab"], stdout=log, stderr=log)
    try:
        until(lambda: stage.slack.state()["app"]["connections"] == 1, seconds=40, what="the bot's connection")
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)
        until(lambda: stage.slack.state()["app"]["connections"] == 0, seconds=10)


def ask(stage: Stage) -> Request:
    """Have a planned request on record: the bot's process has no pretended world to plan on."""
    world = World(
        stage.settings, "game", FakeHypervisor(stage.world), FakeRegistry(stage.world), FakeBalancer(stage.world)
    )

    @contextmanager
    def opening(settings: Settings, service: str) -> Iterator[World]:
        del settings, service
        yield world

    def look(settings: Settings, request: Request) -> PlanRecord:
        return plan_now(settings, request, opening=opening)

    desk = Desk(stage.store, stage.load, look)
    row, _ = desk.ask(Person(ANNA), Scale("game", Amount(4)), origin="slack", where=FLEET)
    return desk.plan(row)


def test_a_bot_killed_in_the_middle_of_a_run_posts_nothing_and_starts_nothing_twice(
    outside: tuple[Stage, Path],
) -> None:
    stage, config = outside
    request = ask(stage)
    with bot_process(stage, config) as first:
        message = stage.until_shown("Approve", request=request)
        assert stage.slack.click(message, "approve", "ben")["ok"]
        run = stage.until_run()
        assert stage.prefect.begin(run)
        stage.prefect.progress(run, 2, 0, 0, 0, 0, total=4)
        stage.until_shown("2 of 4", request=request)
        second = subprocess.run(
            [FORKYARD, "--config", config, "bot", "--lab"], capture_output=True, text=True, timeout=60, check=False
        )
        assert (second.returncode, f"pid {first.pid} on " in second.stderr) == (2, True), second.stderr
    stage.prefect.end(run, serving=4, made=4)
    with bot_process(stage, config):
        shown = stage.until_shown("*4 serve*", request=request)
        assert shown["ts"] == message["ts"]
        stage.until_thread(shown)
        assert len(stage.prefect.runs) == 1
        posted = [call for call in stage.slack.calls("chat.postMessage") if not call["error"]]
        assert len(posted) == 1
