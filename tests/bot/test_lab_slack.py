"""The small Slack keeps Slack's promises; asked by Slack's own libraries, and by hand where these are too polite."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from slack_bolt import Ack, App, Respond
from slack_bolt.adapter.socket_mode import SocketModeHandler
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.signature import SignatureVerifier

from lab.slack.delivery import encode_request, sign_request
from tests.support.lab import until
from tests.support.slack import ANNA, BEN, FLEET, Json, LabSlack, running_slack

BUTTON = {"type": "button", "text": {"type": "plain_text", "text": "Go"}, "action_id": "go", "value": "7"}
WORDS = {"type": "section", "text": {"type": "mrkdwn", "text": "*4* children"}}


@dataclass
class Ears:
    """What the app does when it hears something; a test says it."""

    app: App
    command: Callable[[Ack, Json], object] = lambda ack, _: ack()
    action: Callable[[Ack, Json, Respond], object] = lambda ack, _, __: ack()
    view: Callable[[Ack, Json], object] = lambda ack, _: ack()
    home: Callable[[Json], object] = lambda _: None


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabSlack]:
    with running_slack(tmp_path_factory.mktemp("slack")) as found:
        yield found


@pytest.fixture
def slack(running: LabSlack) -> LabSlack:
    running.act("reset")
    return running


@pytest.fixture
def client(slack: LabSlack) -> WebClient:
    return WebClient(token=slack.secret("bot.token"), base_url=slack.api_url)


@pytest.fixture(scope="module")
def listening(running: LabSlack) -> Iterator[Ears]:
    running.act("reset")
    app = App(client=WebClient(token=running.secret("bot.token"), base_url=running.api_url))
    ears = Ears(app)

    # Bolt gives its listeners what their parameters are named after.
    @app.command("/fleet")
    def _(ack: Ack, body: Json) -> None:
        ears.command(ack, body)

    @app.action("go")
    def _(ack: Ack, body: Json, respond: Respond) -> None:
        ears.action(ack, body, respond)

    @app.view("scale")
    def _(ack: Ack, view: Json) -> None:
        ears.view(ack, view)

    @app.event("app_home_opened")
    def _(event: Json) -> None:
        ears.home(event)

    handler = SocketModeHandler(app, running.secret("app.token"))
    handler.connect()  # type: ignore[no-untyped-call]
    until(lambda: running.state()["app"]["connections"] == 1, seconds=10)
    yield ears
    handler.close()  # type: ignore[no-untyped-call]


@pytest.fixture
def ears(listening: Ears, slack: LabSlack) -> Ears:
    del slack  # reset before the test says what it wants
    fresh = Ears(listening.app)
    for part in ("command", "action", "view", "home"):
        setattr(listening, part, getattr(fresh, part))
    return listening


def refusal(slack: LabSlack, method: str, **arguments: Any) -> str:  # noqa: ANN401 - JSON
    return str(slack.api(method, **arguments).json()["error"])


def test_a_message_is_posted_edited_and_deleted(slack: LabSlack, client: WebClient) -> None:
    ts = client.chat_postMessage(channel="fleet", text="one", blocks=[WORDS])["ts"]
    client.chat_update(channel=FLEET, ts=str(ts), text="two")
    message = slack.messages()[-1]
    assert (message["text"], message["edits"], message["blocks"][0]["text"]["text"]) == ("two", 1, "*4* children")
    client.chat_delete(channel=FLEET, ts=str(ts))
    assert slack.messages() == []


def test_an_ephemeral_message_is_seen_by_one_person(slack: LabSlack, client: WebClient) -> None:
    client.chat_postEphemeral(channel=FLEET, user=ANNA, text="psst")
    assert [m["ephemeral"] for m in slack.messages("anna")] == [True]
    assert slack.messages("ben") == []


@pytest.mark.parametrize(
    ("blocks", "complaint"),
    [
        ([WORDS] * 51, "no more than 50 items"),
        ([{"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3001}}], "less than 3001 characters"),
        ([{"type": "section", "text": {"type": "mrkdwn", "text": ""}}], "more than 0 characters"),
        ([{"type": "actions", "elements": [BUTTON | {"value": "x" * 2001}]}], "less than 2001 characters"),
        ([{"type": "actions", "elements": [BUTTON, BUTTON]}], "action_id must be unique"),
        (
            [{"type": "section", "text": {"type": "mrkdwn", "text": "x"}, "colour": "red"}],
            "invalid additional property",
        ),
        ([{"type": "carousel"}], "unsupported type"),
        (
            [{"type": "plan", "title": "x", "tasks": [{"task_id": "a", "title": "b", "status": "done"}]}],
            "must be one of",
        ),
        ([{"type": "task_card", "task_id": "a", "title": "b", "status": "pending"}], "only a plan's task"),
    ],
)
def test_blocks_beyond_slacks_limits_are_refused(slack: LabSlack, blocks: list[Json], complaint: str) -> None:
    answer = slack.api("chat.postMessage", channel=FLEET, text="x", blocks=blocks).json()
    assert answer["error"] == "invalid_blocks"
    assert complaint in answer["errors"][0]
    assert slack.messages() == []


def test_what_cannot_be_done_is_refused_in_slacks_words(slack: LabSlack, client: WebClient) -> None:
    assert refusal(slack, "chat.postMessage", channel="C404", text="x") == "channel_not_found"
    assert refusal(slack, "chat.postMessage", channel="C0LABOTHER", text="x") == "not_in_channel"
    assert refusal(slack, "chat.postMessage", channel=FLEET) == "no_text"
    assert refusal(slack, "chat.postMessage", channel=FLEET, text="x" * 40001) == "msg_too_long"
    assert refusal(slack, "chat.update", channel=FLEET, ts="1.2", text="x") == "message_not_found"
    said = slack.act("message", "anna", channel="fleet", text="hello")
    assert refusal(slack, "chat.update", channel=FLEET, ts=said["ts"], text="x") == "cant_update_message"
    assert refusal(slack, "views.open", trigger_id="1.2.3", view=_modal()) == "invalid_trigger_id"
    slack.faults(archived={"fleet": True})
    assert refusal(slack, "chat.postMessage", channel=FLEET, text="x") == "is_archived"
    slack.faults(deleted=["fleet"])
    with pytest.raises(SlackApiError, match="channel_not_found"):
        client.chat_postMessage(channel=FLEET, text="x")


def test_tokens_and_scopes_are_looked_at(slack: LabSlack) -> None:
    bare = slack.http.post(f"{slack.api_url}auth.test").json()
    assert bare["error"] == "not_authed"
    wrong = slack.http.post(f"{slack.api_url}auth.test", headers={"Authorization": "Bearer xoxb-1"}).json()
    assert wrong["error"] == "invalid_auth"
    assert slack.api("apps.connections.open").json()["error"] == "not_allowed_token_type"
    slack.faults(missing_scopes=["chat:write"])
    answer = slack.api("chat.postMessage", channel=FLEET, text="x").json()
    assert (answer["error"], answer["needed"]) == ("missing_scope", "chat:write")
    slack.faults(revoked=True)
    assert refusal(slack, "auth.test") == "token_revoked"


def test_each_kind_of_channel_has_a_scope_of_its_own(slack: LabSlack) -> None:
    slack.faults(private={"fleet": True}, missing_scopes=["groups:history", "im:history"])
    answer = slack.api("conversations.history", channel=FLEET).json()
    assert (answer["error"], answer["needed"]) == ("missing_scope", "groups:history")
    direct = slack.api("conversations.open", users=ANNA).json()["channel"]["id"]
    assert slack.api("conversations.history", channel=direct).json()["needed"] == "im:history"
    slack.faults(private={"fleet": False})
    assert slack.api("conversations.history", channel=FLEET).json()["ok"]


def test_an_unknown_method_fails_loudly(slack: LabSlack) -> None:
    assert refusal(slack, "pins.add") == "unknown_method"
    assert slack.state()["complaints"] == ["pins.add: no such method here"]


def test_too_many_edits_get_429_and_the_seconds_to_wait(slack: LabSlack) -> None:
    ts = slack.api("chat.postMessage", channel=FLEET, text="x").json()["ts"]
    answers = [slack.api("chat.update", channel=FLEET, ts=ts, text=str(n)) for n in range(51)]
    assert [answer.status_code for answer in answers] == [200] * 50 + [429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60


def test_down_and_429_on_demand(slack: LabSlack) -> None:
    slack.faults(down=30)
    assert slack.api("auth.test").status_code == 503
    slack.faults(down=0, ratelimited=30)
    assert slack.api("auth.test").status_code == 429


def test_a_command_reaches_the_app_and_its_answer_the_person(slack: LabSlack, ears: Ears) -> None:
    heard: list[Json] = []

    def on_fleet(ack: Ack, body: Json) -> None:
        heard.append(body)
        ack(text="looking")

    ears.command = on_fleet
    answer = slack.command("scale game to 4", "anna", channel="fleet")
    assert answer["ok"]
    assert answer["ack_seconds"] < 1
    assert (heard[0]["text"], heard[0]["user_id"], heard[0]["channel_id"]) == ("scale game to 4", ANNA, FLEET)
    assert [m["text"] for m in slack.messages("anna")] == ["looking"]
    assert slack.messages("ben") == []


def test_a_click_carries_who_where_and_the_value(slack: LabSlack, ears: Ears, client: WebClient) -> None:
    clicks: list[Json] = []

    def on_go(ack: Ack, body: Json, respond: Respond) -> None:
        ack()
        clicks.append(body)
        respond(text="only for you", replace_original=False)

    ears.action = on_go
    client.chat_postMessage(channel=FLEET, text="x", blocks=[{"type": "actions", "elements": [BUTTON]}])
    assert slack.click(slack.messages()[-1], "go", "ben")["ok"]
    assert (clicks[0]["user"]["id"], clicks[0]["actions"][0]["value"]) == (BEN, "7")
    until(lambda: [m["text"] for m in slack.messages("ben")][1:] == ["only for you"], seconds=5)
    assert len(slack.messages("anna")) == 1


def test_the_same_delivery_can_come_twenty_times_at_once(slack: LabSlack, ears: Ears) -> None:
    triggers: list[str] = []

    def on_fleet(ack: Ack, body: Json) -> None:
        ack()
        triggers.append(body["trigger_id"])

    ears.command = on_fleet
    assert slack.command("status", times=20)["ok"]
    assert len(triggers) == 20
    assert len(set(triggers)) == 1


def test_a_modal_is_opened_refused_and_sent(slack: LabSlack, ears: Ears, client: WebClient) -> None:
    numbers: list[str] = []

    def on_fleet(ack: Ack, body: Json) -> None:
        ack()
        client.views_open(trigger_id=body["trigger_id"], view=_modal())

    ears.command = on_fleet

    def on_scale(ack: Ack, view: Json) -> None:
        numbers.append(view["state"]["values"]["target"]["number"]["value"])
        ack(response_action="errors", errors={"target": "too many"}) if len(numbers) == 1 else ack()

    ears.view = on_scale
    slack.command("scale")
    until(lambda: len(slack.state()["views"]) == 1, seconds=5)
    view = slack.state()["views"][0]
    assert slack.act("submit", "anna", view_id=view["id"], values={"number": "99"})["errors"] == {"target": "too many"}
    assert slack.act("submit", "anna", view_id=view["id"], values={})["errors"] == {}
    assert numbers == ["99", "4"]
    assert slack.state()["views"] == []


def test_a_trigger_is_good_once_and_for_three_seconds(slack: LabSlack, ears: Ears) -> None:
    triggers: list[tuple[str, float]] = []

    def on_fleet(ack: Ack, body: Json) -> None:
        ack()
        triggers.append((body["trigger_id"], time.monotonic()))

    ears.command = on_fleet
    slack.command("scale")
    slack.command("scale")
    assert slack.api("views.open", trigger_id=triggers[0][0], view=_modal()).json()["ok"]
    assert refusal(slack, "views.open", trigger_id=triggers[0][0], view=_modal()) == "exchanged_trigger_id"
    until(lambda: time.monotonic() > triggers[1][1] + 3.1, seconds=5)
    assert refusal(slack, "views.open", trigger_id=triggers[1][0], view=_modal()) == "expired_trigger_id"


def test_a_file_goes_into_a_thread_and_can_be_fetched(slack: LabSlack, client: WebClient) -> None:
    ts = client.chat_postMessage(channel=FLEET, text="x")["ts"]
    client.files_upload_v2(channel=FLEET, thread_ts=str(ts), content=b"\x89PNG", filename="timeline.png", title="t")
    message = slack.messages()[-1]
    assert message["thread_ts"] == ts
    fetched = slack.http.get(f"{slack.url}{message['files'][0]['url']}")
    assert (fetched.content, fetched.headers["content-type"]) == (b"\x89PNG", "image/png")


def test_a_home_tab_is_asked_for_and_published(slack: LabSlack, ears: Ears, client: WebClient) -> None:
    def on_home(event: Json) -> None:
        client.views_publish(user_id=event["user"], view={"type": "home", "blocks": [WORDS]})

    ears.home = on_home
    slack.act("home", "ben")
    until(lambda: slack.state("ben")["home"] is not None, seconds=5)
    assert slack.state("anna")["home"] is None


def test_without_an_app_a_person_is_told(slack: LabSlack) -> None:
    slack.faults(request_url="http://127.0.0.1:9/nobody")
    assert slack.command("status")["error"] == "dispatch_failed"
    assert "dispatch_failed" in slack.messages("anna")[-1]["text"]


def test_an_app_that_is_slow_to_acknowledge_has_failed(slack: LabSlack, ears: Ears) -> None:
    release = threading.Event()

    def on_fleet(ack: Ack, _: Json) -> None:
        release.wait(10)
        ack()

    ears.command = on_fleet
    try:
        assert slack.command("status")["error"] == "operation_timeout"
    finally:
        release.set()


def test_a_new_connection_is_taken_when_it_is_asked_for(slack: LabSlack, ears: Ears) -> None:
    acked = threading.Event()

    def on_fleet(ack: Ack, _: Json) -> None:
        ack()
        acked.set()

    ears.command = on_fleet
    opened = len(slack.calls("apps.connections.open"))
    slack.faults(refresh=True)
    until(lambda: len(slack.calls("apps.connections.open")) > opened, seconds=5)
    until(lambda: slack.command("status")["ok"], seconds=10)
    assert acked.is_set()


def test_requests_are_signed_as_slacks_own_verifier_wants_them() -> None:
    body = encode_request("slash_commands", {"command": "/fleet", "text": "status"})
    headers = sign_request("secret", body, int(time.time()))
    verifier = SignatureVerifier("secret")
    assert verifier.is_valid_request(body, headers)
    assert not verifier.is_valid_request(body + "x", headers)
    assert not verifier.is_valid_request(body, sign_request("secret", body, int(time.time()) - 301))


def test_no_page_elsewhere_can_act_through_a_browser(slack: LabSlack) -> None:
    form = slack.http.post(f"{slack.url}/lab/command", data={"as": "anna", "text": "/fleet scale game to 0"})
    assert form.status_code == 415
    foreign = httpx.get(f"{slack.url}/lab/state", headers={"Host": "evil.example"})
    assert foreign.status_code == 400


def _modal() -> Json:
    number: Json = {"type": "number_input", "action_id": "number", "is_decimal_allowed": False, "initial_value": "4"}
    field: Json = {"type": "input", "block_id": "target", "label": _plain("How many"), "element": number}
    modal: Json = {"type": "modal", "callback_id": "scale", "title": _plain("Scale"), "submit": _plain("Plan it")}
    return modal | {"blocks": [field]}


def _plain(text: str) -> Json:
    return {"type": "plain_text", "text": text}
