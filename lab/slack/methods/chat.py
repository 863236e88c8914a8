"""Messages: post, edit, delete, and show to one person only."""

import secrets
from typing import Any

from lab.slack.errors import refuse
from lab.slack.limits import check_blocks, check_message_text
from lab.slack.state import BOT_USER, Channel, Json, Message, Workspace


def post_message(workspace: Workspace, arguments: Json) -> Json:
    """Post a message into a channel, a thread, or the conversation with one person."""
    channel = writable_channel(workspace, str(arguments.get("channel", "")))
    message = make_message(workspace, channel, arguments)
    channel.messages.append(message)
    workspace.touch()
    return {"channel": channel.id, "ts": message.ts, "message": message.shape()}


def post_ephemeral(workspace: Workspace, arguments: Json) -> Json:
    """Show a message to one member of a channel."""
    channel = writable_channel(workspace, str(arguments.get("channel", "")))
    person = str(arguments.get("user", ""))
    if person not in channel.members:
        refuse("user_not_in_channel")
    message = make_message(workspace, channel, arguments, only_for=person)
    channel.messages.append(message)
    workspace.touch()
    return {"message_ts": message.ts}


def update(workspace: Workspace, arguments: Json) -> Json:
    """Edit one of the app's own messages."""
    channel = writable_channel(workspace, str(arguments.get("channel", "")))
    message = workspace.message(channel, str(arguments.get("ts", "")))
    if message.only_for is not None:
        refuse("message_not_found")
    if message.user != BOT_USER:
        refuse("cant_update_message")
    edit(workspace, message, arguments)
    return {"channel": channel.id, "ts": message.ts, "text": message.text, "message": message.shape()}


def delete(workspace: Workspace, arguments: Json) -> Json:
    """Delete one of the app's own messages."""
    channel = writable_channel(workspace, str(arguments.get("channel", "")))
    message = workspace.message(channel, str(arguments.get("ts", "")))
    if message.user != BOT_USER:
        refuse("cant_delete_message")
    channel.messages.remove(message)
    workspace.touch()
    return {"channel": channel.id, "ts": message.ts}


def get_permalink(workspace: Workspace, arguments: Json) -> Json:
    """Give a message's address."""
    channel = workspace.channel(str(arguments.get("channel", "")))
    message = workspace.message(channel, str(arguments.get("message_ts", "")))
    return {"channel": channel.id, "permalink": f"#{channel.id}/p{message.ts.replace('.', '')}"}


def writable_channel(workspace: Workspace, channel_id: str) -> Channel:
    """The channel, if the app may write there now."""
    if channel_id in workspace.people:
        return workspace.direct(channel_id)
    channel = workspace.channel(channel_id)
    if channel.archived:
        refuse("is_archived")
    if BOT_USER not in channel.members:
        refuse("not_in_channel")
    return channel


def make_message(
    workspace: Workspace, channel: Channel, arguments: Json, *, only_for: str | None = None, user: str = BOT_USER
) -> Message:
    """Make a message of a call's arguments, or raise the refusal."""
    text, blocks = str(arguments.get("text") or ""), arguments.get("blocks") or []
    check_message_text(text)
    blocks = with_ids(check_blocks(blocks, "message"))
    if not text and not blocks and not arguments.get("files"):
        refuse("no_text")
    thread = arguments.get("thread_ts")
    if thread is not None and not any(message.ts == thread for message in channel.messages):
        refuse("thread_not_found")
    return Message(
        ts=workspace.next_ts(),
        channel=channel.id,
        user=user,
        text=text,
        blocks=blocks,
        thread_ts=str(thread) if thread else None,
        files=list(arguments.get("files") or []),
        only_for=only_for,
    )


def edit(workspace: Workspace, message: Message, arguments: Json) -> None:
    """Give a message other words; blocks that are not mentioned stay."""
    text = str(arguments.get("text") or "")
    check_message_text(text)
    if "blocks" not in arguments and not text:
        refuse("no_text")
    if arguments.get("blocks") is not None:
        message.blocks = with_ids(check_blocks(arguments["blocks"], "message"))
    message.text = text or message.text
    message.edited = workspace.next_ts()
    message.edits += 1
    workspace.touch()


def with_ids(blocks: list[Json]) -> list[Json]:
    """Give the blocks and elements that have none an id, as Slack does."""
    return [_with_id(block) for block in blocks]


def _with_id(block: Json) -> Json:
    shown: dict[str, Any] = {"block_id": secrets.token_urlsafe(4)} | block
    if "elements" in shown and shown["type"] == "actions":
        shown["elements"] = [{"action_id": secrets.token_urlsafe(4)} | element for element in shown["elements"]]
    for key in ("accessory", "element"):
        if key in shown:
            shown[key] = {"action_id": secrets.token_urlsafe(4)} | shown[key]
    return shown
