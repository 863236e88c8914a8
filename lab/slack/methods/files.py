"""Files, uploaded in Slack's three steps: ask for an address, send the bytes there, complete."""

from lab.slack.errors import refuse
from lab.slack.methods.chat import make_message, writable_channel
from lab.slack.state import Json, StoredFile, Workspace, new_id

LARGEST = 20 << 20


def get_upload_url_external(workspace: Workspace, arguments: Json) -> Json:
    """Give an address to send a file to."""
    name, length = str(arguments.get("filename") or ""), str(arguments.get("length") or "")
    if not name or not length.isdigit() or not 0 < int(length) <= LARGEST:
        refuse("invalid_arguments")
    file = StoredFile(new_id("F"), name, int(length))
    workspace.files[file.id] = file
    return {"upload_url": f"http://{arguments['_host']}/upload/{file.id}", "file_id": file.id}


def complete_upload_external(workspace: Workspace, arguments: Json) -> Json:
    """Show the uploaded files in a channel."""
    wanted = arguments.get("files")
    if not isinstance(wanted, list) or not wanted:
        refuse("invalid_arguments")
    found = [_uploaded(workspace, str(one.get("id", ""))) for one in wanted]
    for file, one in zip(found, wanted, strict=True):
        file.title = str(one.get("title") or file.name)
    channel_id = arguments.get("channel_id") or arguments.get("channels")
    if channel_id:
        channel = writable_channel(workspace, str(channel_id))
        said = {"text": arguments.get("initial_comment"), "blocks": arguments.get("blocks")}
        shown = said | {"thread_ts": arguments.get("thread_ts"), "files": [file.id for file in found]}
        channel.messages.append(make_message(workspace, channel, shown))
    workspace.touch()
    return {"files": [_shape(file, arguments) for file in found]}


def info(workspace: Workspace, arguments: Json) -> Json:
    """Describe one file."""
    return {"file": _shape(_uploaded(workspace, str(arguments.get("file", ""))), arguments)}


def _uploaded(workspace: Workspace, file_id: str) -> StoredFile:
    file = workspace.files.get(file_id)
    if file is None or file.content is None:
        refuse("file_not_found")
    return file


def _shape(file: StoredFile, arguments: Json) -> Json:
    address = f"http://{arguments['_host']}/files/{file.id}/{file.name}"
    return {"id": file.id, "name": file.name, "title": file.title, "size": file.length, "url_private": address}
