"""
What a person can do: type a command, click, fill in a modal, open the home tab, write a message.

The same for the page and for a script. Each answers with what came of it; what the app says later is in the workspace.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable
from typing import Any

from lab.slack.delivery import Ack, Delivery
from lab.slack.errors import refuse
from lab.slack.methods.chat import make_message
from lab.slack.methods.views import answer_submission
from lab.slack.state import APP_ID, BOT_USER, TEAM, Channel, Json, Message, Person, View, Workspace

MOST_TIMES = 100
"""How often one thing can be delivered at once."""


class People:
    """The persons' hands."""

    def __init__(self, workspace: Workspace, delivery: Delivery, host: str) -> None:
        """Let the persons of *workspace* act; *host* is where this Slack is reached."""
        self._workspace, self._delivery, self._host = workspace, delivery, host
        self._events: set[asyncio.Task[None]] = set()

    async def command(self, asked: Json) -> Json:
        """Type a slash command."""
        person, channel = self._who(asked), self._workspace.channel(str(asked.get("channel", "fleet")))
        command, _, text = str(asked.get("text", "")).strip().partition(" ")
        payload = {
            "token": "",
            "team_id": TEAM["id"],
            "team_domain": TEAM["domain"],
            "channel_id": channel.id,
            "channel_name": channel.name,
            "user_id": person.id,
            "user_name": person.name,
            "command": command,
            "text": text,
            "api_app_id": APP_ID,
            "is_enterprise_install": "false",
            "response_url": self._response_url(channel.id, person.id),
            "trigger_id": self._workspace.new_trigger(person.id),
        }
        acks = await self._deliver("slash_commands", payload, asked)
        for ack in acks:
            self._show_answer(channel, person, ack, command)
        return _summary(acks)

    async def click(self, asked: Json) -> Json:
        """Click a button, or choose from a menu, in a message, a modal or the home tab."""
        person = self._who(asked)
        payload: Json = self._interaction("block_actions", person)
        view = self._find_view(person, asked)
        if view is not None:
            blocks = view.content["blocks"]
            payload |= {"container": {"type": "view", "view_id": view.id}, "view": view.shape(_values(asked, view))}
        else:
            channel, message = self._find_message(person, asked)
            blocks = message.blocks
            payload |= self._in_message(channel, message, person)
        payload["actions"] = [_action(blocks, asked)]
        if view is None:
            payload["state"] = {"values": {}}
        acks = await self._deliver("interactive", payload, asked)
        if acks[0].error:
            self._tell(person, asked, f"This app did not respond to the click: {acks[0].error}")
        return _summary(acks)

    async def submit(self, asked: Json) -> Json:
        """Send a modal off; answers with the errors that the app puts to its fields."""
        person = self._who(asked)
        view = self._find_view(person, asked)
        if view is None:
            refuse("view_not_found")
        payload = self._interaction("view_submission", person)
        payload |= {"view": view.shape(_values(asked, view)), "response_urls": []}
        acks = await self._deliver("interactive", payload, asked)
        if acks[0].error:
            return _summary(acks)
        return _summary(acks) | {"errors": answer_submission(self._workspace, view, acks[0].answer)}

    async def close(self, asked: Json) -> Json:
        """Close a modal without sending it."""
        person = self._who(asked)
        view = self._find_view(person, asked)
        if view is None:
            refuse("view_not_found")
        del self._workspace.views[view.id]
        self._workspace.touch()
        if not view.content.get("notify_on_close"):
            return {"ok": True}
        payload = self._interaction("view_closed", person) | {"view": view.shape(), "is_cleared": False}
        return _summary([await self._delivery.send("interactive", payload)])

    async def open_home(self, asked: Json) -> Json:
        """Open the app's home tab; the app is told, and publishes it."""
        person = self._who(asked)
        event: Json = {"type": "app_home_opened", "user": person.id, "tab": "home"}
        event |= {"channel": self._workspace.direct(person.id).id, "event_ts": self._workspace.next_ts()}
        home = self._workspace.homes.get(person.id)
        self._send_event(event | ({"view": home.shape()} if home else {}))
        return {"ok": True}

    async def write(self, asked: Json) -> Json:
        """Write a message; the app hears of it when it is mentioned."""
        person, channel = self._who(asked), self._workspace.channel(str(asked.get("channel", "fleet")))
        if channel.archived:
            refuse("is_archived")
        message = make_message(self._workspace, channel, asked, user=person.id)
        channel.messages.append(message)
        self._workspace.touch()
        if f"<@{BOT_USER}>" in message.text:
            self._send_event({"type": "app_mention", "channel": channel.id, "event_ts": message.ts} | message.shape())
        return {"ok": True, "ts": message.ts}

    def _who(self, asked: Json) -> Person:
        return self._workspace.person(str(asked.get("as", "")))

    def _send_event(self, event: Json) -> None:
        task = asyncio.get_running_loop().create_task(self._delivery.send_event(event))
        self._events.add(task)
        task.add_done_callback(self._events.discard)

    async def _deliver(self, kind: str, payload: Json, asked: Json) -> list[Ack]:
        """Deliver once, or as the very same delivery several times at once."""
        times = min(int(asked.get("times", 1)), MOST_TIMES)
        sends: list[Awaitable[Ack]] = [self._delivery.send(kind, payload) for _ in range(times)]
        return list(await asyncio.gather(*sends))

    def _response_url(self, channel: str, person: str, message: str | None = None) -> str:
        return f"http://{self._host}/response/{self._workspace.new_response_url(channel, person, message)}"

    def _interaction(self, kind: str, person: Person) -> Json:
        return {
            "type": kind,
            "token": "",
            "api_app_id": APP_ID,
            "team": TEAM,
            "enterprise": None,
            "is_enterprise_install": False,
            "user": {"id": person.id, "username": person.name, "name": person.name, "team_id": TEAM["id"]},
            "trigger_id": self._workspace.new_trigger(person.id),
        }

    def _in_message(self, channel: Channel, message: Message, person: Person) -> Json:
        hidden = message.only_for is not None
        return {
            "container": {
                "type": "message",
                "message_ts": message.ts,
                "channel_id": channel.id,
                "is_ephemeral": hidden,
            },
            "channel": {"id": channel.id, "name": channel.name},
            "message": message.shape(),
            "response_url": self._response_url(channel.id, person.id, message.ts),
        }

    def _find_message(self, person: Person, asked: Json) -> tuple[Channel, Message]:
        wanted = str(asked.get("ts", ""))
        seen = (
            (channel, message)
            for channel in self._workspace.channels.values()
            for message in channel.messages
            if message.ts == wanted and message.only_for in {None, person.id}
        )
        return next(seen, None) or refuse("message_not_found")

    def _find_view(self, person: Person, asked: Json) -> View | None:
        view_id = asked.get("view_id")
        if view_id is None:
            return None
        home = self._workspace.homes.get(person.id)
        view = home if home and view_id in {"home", home.id} else self._workspace.views.get(str(view_id))
        if view is None or view.person != person.id:
            refuse("view_not_found")
        return view

    def _show_answer(self, channel: Channel, person: Person, ack: Ack, command: str) -> None:
        if ack.error:
            self._tell(person, {"channel": channel.id}, f"{command} failed with the error “{ack.error}”")
            return
        if ack.answer.get("text") or ack.answer.get("blocks"):
            public = ack.answer.get("response_type") == "in_channel"
            only_for = None if public else person.id
            channel.messages.append(make_message(self._workspace, channel, ack.answer, only_for=only_for))
            self._workspace.touch()

    def _tell(self, person: Person, asked: Json, text: str) -> None:
        """Slack's own words to one person."""
        channel = self._workspace.channel(str(asked.get("channel", "fleet")))
        told = make_message(self._workspace, channel, {"text": text}, only_for=person.id, user="USLACKBOT")
        channel.messages.append(told)
        self._workspace.touch()


def _summary(acks: list[Ack]) -> Json:
    errors = [ack.error for ack in acks if ack.error]
    return {
        "ok": not errors,
        **({"error": errors[0]} if errors else {}),
        "ack_seconds": round(max(ack.seconds for ack in acks), 4),
        "answers": [ack.answer for ack in acks],
    }


def _action(blocks: list[Json], asked: Json) -> Json:
    wanted = asked.get("action_id")
    found = (
        (block["block_id"], element)
        for block in blocks
        for element in (*block.get("elements", []), block.get("accessory"), block.get("element"))
        if isinstance(element, dict) and wanted is not None and element.get("action_id") == wanted
    )
    block_id, element = next(found, None) or refuse("action_not_found")
    shown = {key: element[key] for key in ("type", "action_id", "text", "value", "style") if key in element}
    when = {"block_id": block_id, "action_ts": f"{time.time():.6f}"}
    return shown | when | _chosen(element, asked.get("value"))


def _chosen(element: Json, value: Any) -> Json:  # noqa: ANN401 - what the person typed or chose
    kind = element["type"]
    if kind in {"static_select", "radio_buttons", "overflow"}:
        options = [option for option in element["options"] if option["value"] == value]
        return {"selected_option": options[0] if options else None}
    if kind == "checkboxes":
        return {"selected_options": [option for option in element["options"] if option["value"] in (value or [])]}
    simple = {
        "datepicker": "selected_date",
        "timepicker": "selected_time",
        "datetimepicker": "selected_date_time",
        "users_select": "selected_user",
        "number_input": "value",
        "plain_text_input": "value",
    }
    return {simple[kind]: value} if kind in simple else {}


_INITIAL = ("initial_value", "initial_date", "initial_time", "initial_date_time", "initial_user")


def _values(asked: Json, view: View) -> Json:
    """The state of a view's inputs; `values` is by action id, what is left out is as the app filled it in."""
    given, found = asked.get("values") or {}, {}
    for block in view.content["blocks"]:
        element = block.get("element")
        if block["type"] != "input" or element is None:
            continue
        name = element["action_id"]
        value = given[name] if name in given else _initial(element)
        found[block["block_id"]] = {name: {"type": element["type"], **_chosen(element, value)}}
    return found


def _initial(element: Json) -> Any:  # noqa: ANN401 - as the app wrote it
    if "initial_option" in element:
        return element["initial_option"]["value"]
    if "initial_options" in element:
        return [option["value"] for option in element["initial_options"]]
    return next((element[key] for key in _INITIAL if key in element), None)


def make_secret(prefix: str) -> str:
    """Make a token that nobody guesses."""
    return f"{prefix}{secrets.token_hex(20)}"
