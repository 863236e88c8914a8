"""Modals and home tabs."""

import secrets

from lab.slack.errors import refuse
from lab.slack.limits import check_view
from lab.slack.methods.chat import with_ids
from lab.slack.state import Json, View, Workspace, new_id

_DEEPEST = 3
"""Modals that may lie upon each other."""


def open_view(workspace: Workspace, arguments: Json) -> Json:
    """Open a modal for the person of the trigger."""
    content = _content(check_view(arguments.get("view"), ("modal",)))
    person = workspace.use_trigger(str(arguments.get("trigger_id", "")))
    for view in [view for view in workspace.views.values() if view.person == person]:
        del workspace.views[view.id]
    return {"view": _add(workspace, person, content, None).shape()}


def push(workspace: Workspace, arguments: Json) -> Json:
    """Lay a modal upon the one that is open."""
    content = _content(check_view(arguments.get("view"), ("modal",)))
    person = workspace.use_trigger(str(arguments.get("trigger_id", "")))
    below = [view for view in workspace.views.values() if view.person == person]
    if not below:
        refuse("not_found")
    if len(below) >= _DEEPEST:
        refuse("push_limit_reached")
    return {"view": _add(workspace, person, content, below[-1].id).shape()}


def update(workspace: Workspace, arguments: Json) -> Json:
    """Give an open modal another content."""
    content = _content(check_view(arguments.get("view"), ("modal",)))
    view = workspace.views.get(str(arguments.get("view_id", "")))
    if view is None:
        refuse("not_found")
    _check_hash(view, arguments)
    replace(workspace, view, content)
    return {"view": view.shape()}


def publish(workspace: Workspace, arguments: Json) -> Json:
    """Give a person's home tab its content."""
    content = _content(check_view(arguments.get("view"), ("home",)))
    person = workspace.person(str(arguments.get("user_id", ""))).id
    known = workspace.homes.get(person)
    if known is not None:
        _check_hash(known, arguments)
        replace(workspace, known, content)
        return {"view": known.shape()}
    view = View(new_id("V"), person, content, secrets.token_hex(8))
    workspace.homes[person] = view
    workspace.touch()
    return {"view": view.shape()}


def replace(workspace: Workspace, view: View, content: Json) -> None:
    """Give a view other content and a new hash."""
    view.content, view.hash = content, secrets.token_hex(8)
    workspace.touch()


def answer_submission(workspace: Workspace, view: View, answer: Json) -> Json:
    """Do what the app answered to a submitted modal; returns the errors to show."""
    action = answer.get("response_action")
    if action == "errors":
        errors: Json = answer["errors"]
        return errors
    if action in {"update", "push"}:
        content = _content(check_view(answer["view"], ("modal",)))
        if action == "update":
            replace(workspace, view, content)
        else:
            _add(workspace, view.person, content, view.id)
        return {}
    if action not in {None, "clear"}:
        refuse("invalid_response_action")
    gone = [v for v in workspace.views.values() if v.person == view.person] if action == "clear" else [view]
    for one in gone:
        workspace.views.pop(one.id, None)
    workspace.touch()
    return {}


def _add(workspace: Workspace, person: str, content: Json, previous: str | None) -> View:
    view = View(new_id("V"), person, content, secrets.token_hex(8), previous)
    workspace.views[view.id] = view
    workspace.touch()
    return view


def _content(view: Json) -> Json:
    return {"private_metadata": "", "callback_id": ""} | view | {"blocks": with_ids(view["blocks"])}


def _check_hash(view: View, arguments: Json) -> None:
    if arguments.get("hash") and arguments["hash"] != view.hash:
        refuse("hash_conflict")
