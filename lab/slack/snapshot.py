"""What one person sees of the workspace, as JSON: what the page renders and what a script reads."""

import time

from lab.slack.delivery import Delivery
from lab.slack.state import BOT_NAME, BOT_USER, Channel, Json, Message, Person, Workspace


def render_state(workspace: Workspace, delivery: Delivery, person: Person) -> Json:
    """Render all that *person* sees, and how the app is."""
    home = workspace.homes.get(person.id)
    return {
        "version": workspace.version,
        "me": {"id": person.id, "name": person.name},
        "people": [{"id": p.id, "name": p.name, "role": p.role, "zone": p.zone} for p in workspace.people.values()],
        "app": _app(workspace, delivery),
        "channels": [_channel(workspace, c, person) for c in workspace.channels.values() if person.id in c.members],
        "views": [view.shape() for view in workspace.views.values() if view.person == person.id],
        "home": home.shape() if home else None,
        "complaints": workspace.complaints[-20:],
    }


def _app(workspace: Workspace, delivery: Delivery) -> Json:
    faults, now = workspace.faults, time.time()
    return {
        "name": BOT_NAME,
        "user": BOT_USER,
        "connections": delivery.connections,
        "request_url": delivery.request_url,
        "down_seconds": max(0.0, round(faults.down_until - now, 1)),
        "ratelimited_seconds": max(0.0, round(faults.limited_until - now, 1)),
        "revoked": faults.revoked,
        "missing_scopes": sorted(faults.missing_scopes),
    }


def _channel(workspace: Workspace, channel: Channel, person: Person) -> Json:
    seen = [message for message in channel.messages if message.only_for in {None, person.id}]
    return {
        "id": channel.id,
        "name": BOT_NAME if channel.id[0] == "D" else channel.name,
        "archived": channel.archived,
        "messages": [_message(workspace, message) for message in seen],
    }


def _message(workspace: Workspace, message: Message) -> Json:
    names = {BOT_USER: BOT_NAME, "USLACKBOT": "Slack"}
    author = workspace.people.get(message.user)
    files = [workspace.files[file] for file in message.files]
    return message.shape() | {
        "author": author.name if author else names.get(message.user, message.user),
        "ephemeral": message.only_for is not None,
        "edits": message.edits,
        "files": [{"id": f.id, "name": f.name, "title": f.title, "url": f"/files/{f.id}/{f.name}"} for f in files],
    }
