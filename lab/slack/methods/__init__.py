"""
The methods of the Web API that the bot uses, by Slack's names.

Each takes the workspace and the call's arguments and returns what stands beside `"ok": true`, or raises Slack's
refusal. A method that is not listed is refused as unknown, and the page shows it in red.
"""

from collections.abc import Callable
from dataclasses import dataclass

from lab.slack.methods import chat, directory, files, views
from lab.slack.state import Json, Workspace


@dataclass(frozen=True, slots=True)
class Method:
    """One method and what the app needs to call it."""

    call: Callable[[Workspace, Json], Json]
    scope: str = ""
    app_token: bool = False
    """Whether it wants the app's token and not the bot's."""


METHODS: dict[str, Method] = {
    "apps.connections.open": Method(directory.apps_connections_open, app_token=True),
    "auth.test": Method(directory.auth_test),
    "bots.info": Method(directory.bots_info, "users:read"),
    "chat.delete": Method(chat.delete, "chat:write"),
    "chat.getPermalink": Method(chat.get_permalink),
    "chat.postEphemeral": Method(chat.post_ephemeral, "chat:write"),
    "chat.postMessage": Method(chat.post_message, "chat:write"),
    "chat.update": Method(chat.update, "chat:write"),
    "conversations.history": Method(directory.conversations_history, "channels:history"),
    "conversations.info": Method(directory.conversations_info, "channels:read"),
    "conversations.join": Method(directory.conversations_join, "channels:join"),
    "conversations.list": Method(directory.conversations_list, "channels:read"),
    "conversations.members": Method(directory.conversations_members, "channels:read"),
    "conversations.open": Method(directory.conversations_open, "im:write"),
    "conversations.replies": Method(directory.conversations_replies, "channels:history"),
    "files.completeUploadExternal": Method(files.complete_upload_external, "files:write"),
    "files.getUploadURLExternal": Method(files.get_upload_url_external, "files:write"),
    "files.info": Method(files.info, "files:read"),
    "usergroups.list": Method(directory.usergroups_list, "usergroups:read"),
    "usergroups.users.list": Method(directory.usergroups_users_list, "usergroups:read"),
    "users.info": Method(directory.users_info, "users:read"),
    "users.list": Method(directory.users_list, "users:read"),
    "views.open": Method(views.open_view),
    "views.publish": Method(views.publish),
    "views.push": Method(views.push),
    "views.update": Method(views.update),
}
