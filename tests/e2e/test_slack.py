"""The whole way from Slack: asked, planned, approved by another, forked for real, reported, rolled back."""

import io
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
from PIL import Image

from bot.web import PATH
from lab.chat import slack_home
from tests.bot.conftest import block_ids, buttons_of, text_of
from tests.support.lab import FORKYARD, Lab, free_ports, until
from tests.support.slack import Json, LabSlack


@dataclass
class People:
    """Anna, who may ask, and Ben, who may approve, before the lab's Slack."""

    lab: Lab
    slack: LabSlack

    def newest(self) -> Json:
        """The message of the request asked for last."""
        found = [m for m in self.slack.messages() if any(name.startswith("request-") for name in block_ids(m))]
        return found[-1] if found else {"ts": "", "blocks": []}

    def message(self, ts: str) -> Json:
        """One message as it is now."""
        (found,) = [m for m in self.slack.messages() if m["ts"] == ts]
        return found

    def until_shown(self, words: str, *, after: str = "", seconds: float = 20) -> Json:
        """Wait until the newest message, one posted later than *after*, has these words or that button; give it."""
        found: list[Json] = []

        def look() -> bool:
            found[:] = [self.newest()]
            return found[0]["ts"] > after and words in text_of(found[0]["blocks"])

        until(look, seconds=seconds, what=f"{words} in a message after {after or 'none'}")
        return found[0]

    def ask(self, text: str) -> Json:
        """Let Anna type it, and wait for its plan."""
        last = self.newest()["ts"]
        assert self.slack.command(text)["ok"]
        return self.until_shown("Approve", after=last)

    def picture(self, message: Json) -> Image.Image:
        """The picture in a message's thread."""
        threads: list[Json] = []

        def look() -> bool:
            threads[:] = [m for m in self.slack.messages() if m.get("thread_ts") == message["ts"] and m.get("files")]
            return bool(threads)

        until(look, seconds=20, what="the picture in the thread")
        ((file,),) = [thread["files"] for thread in threads]
        answer = httpx.get(f"{self.slack.url}{file['url']}", trust_env=False)
        image = Image.open(io.BytesIO(answer.raise_for_status().content))
        image.load()
        return image


@pytest.fixture
def people(empty_lab: Lab) -> Iterator[People]:
    settings = empty_lab.settings
    with httpx.Client(timeout=30, trust_env=False) as http:
        url = f"http://127.0.0.1:{settings.lab.slack_port}"
        yield People(empty_lab, LabSlack(url, slack_home(settings), http))


@contextmanager
def by_signed_requests(people: People) -> Iterator[None]:
    """A bot that is sent signed requests, instead of the lab's own; that one is back afterwards."""
    lab, port = people.lab, free_ports(1)[0]
    config = lab.config.with_name("by-http.toml")
    config.write_text(f'{lab.config.read_text()}\n[chatops]\nmode = "http"\nhttp_port = {port}\n')
    kill_bot(people)
    process = subprocess.Popen([FORKYARD, "--config", config, "bot", "--lab"], stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}{PATH}"
        until(lambda: refuses_unsigned(url), seconds=30, what="the bot's port")
        people.slack.faults(request_url=url)
        yield
        assert people.slack.state()["app"]["connections"] == 0
    finally:
        process.terminate()
        process.wait(timeout=20)
        people.slack.faults(request_url="")
        start_bot(people)


def refuses_unsigned(url: str) -> bool:
    try:
        return httpx.post(url, trust_env=False).status_code == 401
    except httpx.TransportError:
        return False


def kill_bot(people: People) -> None:
    pid = int((people.lab.settings.run_dir / "lab" / "bot.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    until(lambda: people.slack.state()["app"]["connections"] == 0, seconds=10, what="the bot's end")


def start_bot(people: People) -> None:
    answer = people.lab.run("lab", "up")
    assert answer.code == 0, answer.err
    until(lambda: people.slack.state()["app"]["connections"] == 1, seconds=30, what="the bot's connection")


def go_up(people: People) -> Json:
    """Anna asks for four, Ben approves; gives the message of the end."""
    plan = people.ask("scale game to 4")
    assert "Would fork *4*" in text_of(plan["blocks"])
    assert people.slack.click(plan, "approve", "ben")["ok"]
    return people.until_shown("*4 serve*", seconds=90)


def go_back(people: People, done: Json) -> None:
    """Anna undoes it, Ben approves that too."""
    assert "Roll back to 0" in buttons_of(done)
    assert people.slack.click(done, "rollback", "anna")["ok"]
    plan = people.until_shown("Approve", after=done["ts"])
    assert "drain and retire *4*" in text_of(plan["blocks"])
    assert people.slack.click(plan, "approve", "ben")["ok"]
    people.until_shown(":white_check_mark:", after=done["ts"], seconds=60)


@pytest.mark.parametrize("transport", ["sockets", "signed requests"])
def test_the_whole_way_from_a_slash_command_to_four_servers_and_back(people: People, transport: str) -> None:
    if transport == "sockets":
        the_whole_way(people)
    else:
        with by_signed_requests(people):
            the_whole_way(people)


def the_whole_way(people: People) -> None:
    done = go_up(people)

    names = {child["name"] for child in people.lab.game()["children"]}
    assert len(names) == 4
    assert people.lab.who_answers(30) == names
    assert people.picture(done).width >= 600
    assert done["edits"] >= 3  # one message that moves, not a new one for each news

    go_back(people, done)
    assert people.lab.game()["children"] == []
    verified = people.lab.run("audit", "verify")
    assert verified.code == 0, verified.out


def test_a_bot_killed_in_the_middle_of_a_real_run_goes_on_with_the_same_message(people: People) -> None:
    posts = len(people.slack.calls("chat.postMessage"))
    plan = people.ask("scale game to 2")
    assert people.slack.click(plan, "approve", "ben" if "another person" in text_of(plan["blocks"]) else "anna")["ok"]
    people.until_shown("fork the parent", seconds=30)

    kill_bot(people)
    start_bot(people)

    done = people.until_shown("*2 serve*", seconds=90)
    assert done["ts"] == plan["ts"]
    assert len(people.slack.calls("chat.postMessage")) == posts + 1
    assert len(people.lab.game()["children"]) == 2
