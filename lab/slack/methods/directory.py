"""Who and what there is: the app itself, people, groups, channels."""

import secrets
import time

from lab.slack.errors import refuse
from lab.slack.state import APP_ID, BOT_ID, BOT_NAME, BOT_USER, GROUPS, TEAM, Channel, Json, Person, Workspace

TICKETS: dict[str, float] = {}
"""Tickets for a WebSocket, and until when each is good."""

_TICKET_SECONDS = 60.0


def apps_connections_open(workspace: Workspace, arguments: Json) -> Json:
    """Give a WebSocket's address, good for one connection."""
    del workspace
    ticket = secrets.token_urlsafe(18)
    TICKETS[ticket] = time.monotonic() + _TICKET_SECONDS
    return {"url": f"ws://{arguments['_host']}/link?ticket={ticket}"}


def auth_test(workspace: Workspace, arguments: Json) -> Json:
    """Say who the token belongs to."""
    del workspace
    return {
        "url": f"http://{arguments['_host']}/",
        "team": TEAM["domain"],
        "user": BOT_NAME,
        "team_id": TEAM["id"],
        "user_id": BOT_USER,
        "bot_id": BOT_ID,
        "app_id": APP_ID,
        "is_enterprise_install": False,
    }


def bots_info(workspace: Workspace, arguments: Json) -> Json:
    """Describe the app's bot."""
    del workspace
    if arguments.get("bot", BOT_ID) != BOT_ID:
        refuse("bot_not_found")
    return {"bot": {"id": BOT_ID, "app_id": APP_ID, "user_id": BOT_USER, "name": BOT_NAME, "deleted": False}}


def users_info(workspace: Workspace, arguments: Json) -> Json:
    """Describe one person."""
    return {"user": _user(workspace.person(str(arguments.get("user", ""))))}


def users_list(workspace: Workspace, arguments: Json) -> Json:
    """Describe everybody."""
    del arguments
    return {"members": [_user(person) for person in workspace.people.values()], **_END}


def usergroups_list(workspace: Workspace, arguments: Json) -> Json:
    """List the groups."""
    del workspace, arguments
    return {"usergroups": [{"id": group, "handle": handle} for group, (handle, _) in GROUPS.items()]}


def usergroups_users_list(workspace: Workspace, arguments: Json) -> Json:
    """List a group's members."""
    del workspace
    group = GROUPS.get(str(arguments.get("usergroup", "")))
    if group is None:
        refuse("no_such_subteam")
    return {"users": list(group[1])}


def conversations_info(workspace: Workspace, arguments: Json) -> Json:
    """Describe one channel."""
    return {"channel": _channel(workspace.channel(str(arguments.get("channel", ""))))}


def conversations_list(workspace: Workspace, arguments: Json) -> Json:
    """Describe all channels."""
    del arguments
    return {"channels": [_channel(channel) for channel in workspace.channels.values() if channel.id[0] == "C"], **_END}


def conversations_members(workspace: Workspace, arguments: Json) -> Json:
    """List a channel's members."""
    return {"members": sorted(workspace.channel(str(arguments.get("channel", ""))).members), **_END}


def conversations_open(workspace: Workspace, arguments: Json) -> Json:
    """Open the conversation with one person."""
    person = workspace.person(str(arguments.get("users", "")))
    return {"channel": {"id": workspace.direct(person.id).id}}


def conversations_join(workspace: Workspace, arguments: Json) -> Json:
    """Become a member of a channel."""
    channel = workspace.channel(str(arguments.get("channel", "")))
    if channel.archived:
        refuse("is_archived")
    channel.members.add(BOT_USER)
    workspace.touch()
    return {"channel": _channel(channel)}


def conversations_history(workspace: Workspace, arguments: Json) -> Json:
    """The channel's messages, the newest first."""
    channel = _seen(workspace, arguments)
    found = [m.shape() for m in channel.messages if m.only_for is None and m.thread_ts is None]
    return {"messages": found[::-1][: int(arguments.get("limit", 100))], "has_more": False}


def conversations_replies(workspace: Workspace, arguments: Json) -> Json:
    """A thread, the oldest first."""
    channel, thread = _seen(workspace, arguments), arguments.get("ts")
    found = [m.shape() for m in channel.messages if m.only_for is None and thread in {m.ts, m.thread_ts}]
    if not found:
        refuse("thread_not_found")
    return {"messages": found, "has_more": False}


def _seen(workspace: Workspace, arguments: Json) -> Channel:
    channel = workspace.channel(str(arguments.get("channel", "")))
    if BOT_USER not in channel.members:
        refuse("not_in_channel")
    return channel


_END = {"response_metadata": {"next_cursor": ""}}


def _user(person: Person) -> Json:
    profile = {"display_name": person.name, "real_name": person.name.title()}
    known = {"id": person.id, "name": person.name, "team_id": TEAM["id"], "deleted": False, "is_bot": False}
    return known | {"real_name": person.name.title(), "tz": person.zone, "tz_offset": person.offset, "profile": profile}


def _channel(channel: Channel) -> Json:
    return {
        "id": channel.id,
        "name": channel.name,
        "is_channel": channel.id[0] == "C",
        "is_im": channel.id[0] == "D",
        "is_private": channel.private,
        "is_archived": channel.archived,
        "is_member": BOT_USER in channel.members,
    }
