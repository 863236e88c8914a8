"""What is missing before the bot can work: one sentence each, with what to do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from slack_sdk import WebClient

from bot.slack_api import call, make_client
from forkyard.errors import ForkyardError, TransientError
from forkyard.settings import ChatopsSettings, read_secret

NEEDED_SCOPES = (
    "channels:history",
    "channels:read",
    "chat:write",
    "commands",
    "files:write",
    "usergroups:read",
    "users:read",
)

PRIVATE_SCOPES = (
    "groups:history",
    "groups:read",
    "im:history",
)
"""Without these the bot works in public channels; in private ones, and beside an archived one, it does not."""

_HELP = "docs/slack.md tells how."


@dataclass(frozen=True, slots=True)
class Secrets:
    """The tokens, which never stand in a log or a message."""

    bot_token: str = field(repr=False)
    app_token: str = field(repr=False)
    signing_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is missing."""

    text: str
    stops: bool = True
    """Whether the bot cannot work so; else it is a warning."""


def read_secrets(chatops: ChatopsSettings) -> Secrets:
    """The tokens, from their files or the environment; raises InvalidRequest for a file that cannot be read."""
    return Secrets(
        read_secret(chatops.bot_token_file, "SLACK_BOT_TOKEN"),
        read_secret(chatops.app_token_file, "SLACK_APP_TOKEN"),
        read_secret(chatops.signing_secret_file, "SLACK_SIGNING_SECRET"),
    )


def find_missing(chatops: ChatopsSettings, secrets: Secrets) -> Iterator[str]:
    """What is missing on this side."""
    if not secrets.bot_token.startswith("xoxb-"):
        yield f"The bot's token (xoxb-...) is missing: set SLACK_BOT_TOKEN, or chatops.bot_token_file. {_HELP}"
    if chatops.mode == "socket" and not secrets.app_token.startswith("xapp-"):
        yield f"The app's token (xapp-...) is missing: set SLACK_APP_TOKEN, or chatops.app_token_file. {_HELP}"
    if chatops.mode == "http" and not secrets.signing_secret:
        yield f"The signing secret is missing: set SLACK_SIGNING_SECRET, or chatops.signing_secret_file. {_HELP}"
    for key, example in (("teams", "T012AB3CD"), ("channels", "C012AB3CD")):
        if not getattr(chatops, key):
            yield f'chatops.{key} is empty, so nobody is listened to: write {key} = ["{example}"] in forkyard.toml.'
    if not chatops.roles:
        yield "No role is written, so nobody may do anything: add a table such as [chatops.roles.operators]."


def find_missing_in_slack(chatops: ChatopsSettings, secrets: Secrets) -> Iterator[Finding]:
    """What is missing in the workspace; nothing is found while Slack does not answer, which passes by itself."""
    client = make_client(secrets.bot_token, chatops.api_url)
    try:
        yield from _ask(client, chatops)
    except TransientError:
        return
    except ForkyardError as error:
        yield Finding(f"{error}")


def _ask(client: WebClient, chatops: ChatopsSettings) -> Iterator[Finding]:
    said = call("auth.test", client.auth_test)
    team = str(said.get("team_id"))
    if team not in chatops.teams:
        yield Finding(f'The token is of workspace {team}, which is not in chatops.teams: write teams = ["{team}"].')
    given = _scopes(said.headers)
    for scopes, stops in ((NEEDED_SCOPES, True), (PRIVATE_SCOPES, False)):
        missing = ", ".join(sorted(set(scopes) - given))
        what = "" if stops else ", without which private channels do not work"
        if missing:
            text = f"The app lacks {missing}{what}: add them under OAuth & Permissions and install it again."
            yield Finding(text, stops=stops)
    troubles = {channel: _find_trouble(client, channel) for channel in chatops.channels}
    nowhere = all(troubles.values())
    yield from (Finding(text, stops=nowhere) for text in troubles.values() if text)


def _find_trouble(client: WebClient, channel: str) -> str:
    """Why the channel cannot be used; empty when it can."""
    try:
        found: Mapping[str, Any] = call("conversations.info", client.conversations_info, channel=channel)["channel"]
    except TransientError:
        raise
    except ForkyardError as error:
        return f"The channel {channel} cannot be used: {error}"
    if found.get("is_archived"):
        return f"#{found.get('name')} ({channel}) is archived: name another one in chatops.channels."
    if not found.get("is_member"):
        return f"The bot is not in #{found.get('name')} ({channel}): type /invite @forkyard there."
    return ""


def _scopes(headers: Mapping[str, Any]) -> set[str]:
    given = next((value for key, value in headers.items() if key.lower() == "x-oauth-scopes"), "")
    text = given[0] if isinstance(given, list) else str(given)
    return {scope.strip() for scope in text.split(",")}
