"""Signed requests instead of Socket Mode: the same way to a run, and what gets 401."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from bot.checks import Secrets, find_missing, find_missing_in_slack, read_secrets
from bot.run import running_bot
from bot.web import MOST_BYTES, PATH
from forkyard.errors import InvalidRequest
from lab.slack.delivery import encode_request, sign_request
from tests.bot.conftest import Stage
from tests.support.lab import free_ports

ASK = {"command": "/fleet", "text": "scale game to 4", "team_id": "T0LAB00001", "channel_id": "C0LABFLEET"}


@pytest.fixture
def web(quiet_stage: Stage) -> Iterator[Stage]:
    stage, port = quiet_stage, free_ports(1)[0]
    stage.change(mode="http", http_port=port)
    with running_bot(stage.load, read_secrets(stage.settings.chatops), opening=stage.open_world):
        url = f"http://127.0.0.1:{port}{PATH}"
        stage.slack.faults(request_url=url)
        yield stage


def send(stage: Stage, *, at: int | str, body: str = "", **headers: str) -> int:
    url = stage.slack.state()["app"]["request_url"]
    body = body or encode_request("slash_commands", {**ASK, "user_id": "U0LABANNA1", "trigger_id": f"1.{at}"})
    signed = sign_request(stage.slack.secret("signing.secret"), body, at)
    signed["Content-Type"] = "application/x-www-form-urlencoded"
    return httpx.post(url, content=body, headers={**signed, **headers}).status_code


def test_the_whole_way_by_signed_requests(web: Stage) -> None:
    message = web.ask()
    assert web.slack.click(message, "approve", "ben")["ok"]
    run = web.until_run()
    assert web.prefect.begin(run)
    web.prefect.end(run, serving=4, made=4)
    web.until_shown("*4 serve*")
    assert web.slack.state()["app"]["connections"] == 0


def test_what_is_forged_old_or_malformed_gets_401_and_does_nothing(web: Stage, tmp_path: Path) -> None:
    del tmp_path
    now = int(time.time())
    assert send(web, at=now, **{"X-Slack-Signature": "v0=" + "0" * 64}) == 401
    assert send(web, at=now - 301) == 401
    for malformed in ("", "soon", "1e9", "-5", "9" * 40, f"{now}.5"):
        assert send(web, at=malformed) == 401
    assert web.store.list_requests() == []
    (entry,) = [logged.entry for logged in web.store.read_log() if logged.entry.action == "request"]
    assert (entry.who, entry.decision) == ("somebody", "refused")
    assert send(web, at=now) == 200
    assert send(web, at=now) == 200
    web.until_row("awaiting approval")
    assert len(web.store.list_requests()) == 1


def test_a_port_that_is_taken_is_told_and_nothing_listens(quiet_stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        quiet_stage.change(mode="http", http_port=port)
        bot = running_bot(quiet_stage.load, read_secrets(quiet_stage.settings.chatops), opening=quiet_stage.open_world)
        with (
            pytest.raises(InvalidRequest, match=rf"127.0.0.1:{port} cannot be listened at: Address already"),
            bot,
        ):
            pytest.fail("it says that it listens")


def test_a_body_without_an_end_is_refused_at_the_limit(web: Stage) -> None:
    url = httpx.URL(web.slack.state()["app"]["request_url"])
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nX-Slack-Request-Timestamp: {int(time.time())}\r\n"
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: {1 << 30}\r\n\r\n".encode() + b"x" * (MOST_BYTES + 1))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_the_bot_says_what_is_missing_in_a_sentence_each(quiet_stage: Stage) -> None:
    nothing = list(
        find_missing(replace(quiet_stage.settings.chatops, teams=(), channels=(), roles={}), Secrets("", "", ""))
    )
    assert [sentence.split()[0] for sentence in nothing] == ["The", "The", "chatops.teams", "chatops.channels", "No"]
    chatops = quiet_stage.settings.chatops
    secrets = read_secrets(chatops)
    assert list(find_missing(chatops, secrets)) + list(find_missing_in_slack(chatops, secrets)) == []
    other = replace(chatops, teams=("T0OTHER001",), channels=("C0LABFLEET", "C0LABOTHER", "C404"))
    found = list(find_missing_in_slack(other, secrets))
    says = ["T0LAB00001" in found[0].text, "/invite @forkyard" in found[1].text, "channel_not_found" in found[2].text]
    assert says == [True] * 3
    quiet_stage.slack.faults(revoked=True)
    assert "token_revoked" in next(find_missing_in_slack(chatops, secrets)).text
    assert secrets.bot_token not in repr(secrets)


def test_a_channel_that_cannot_be_used_stops_the_bot_only_when_no_other_one_works(quiet_stage: Stage) -> None:
    secrets, slack = read_secrets(quiet_stage.settings.chatops), quiet_stage.slack
    both = replace(quiet_stage.settings.chatops, channels=("C0LABFLEET", "C0LABOTHER"))
    (warning,) = find_missing_in_slack(both, secrets)
    assert not warning.stops
    slack.faults(archived={"fleet": True})
    assert [finding.stops for finding in find_missing_in_slack(both, secrets)] == [True, True]
    assert slack.api("conversations.join", channel="general").json()["ok"]
    (warning,) = find_missing_in_slack(both, secrets)
    assert (warning.stops, "is archived" in warning.text) == (False, True)


def test_what_only_private_channels_need_is_a_warning_while_no_other_channel_is_named(quiet_stage: Stage) -> None:
    secrets, chatops, slack = (
        read_secrets(quiet_stage.settings.chatops),
        quiet_stage.settings.chatops,
        quiet_stage.slack,
    )
    slack.faults(missing_scopes=["groups:read"])
    (warning,) = find_missing_in_slack(chatops, secrets)
    assert (warning.stops, "groups:read" in warning.text) == (False, True)
    slack.faults(private={"fleet": True})
    assert [finding.stops for finding in find_missing_in_slack(chatops, secrets)] == [False, True]
