"""Slack's Web API with its refusals translated, once, into errors that say whether the same call may be made again."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import URLError

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError

from forkyard.errors import CredentialsRejected, NotFound, PermanentError, Unavailable

T = TypeVar("T")

SECONDS = 5
"""How long one call may take: whoever waits for it does something useful instead."""

DEFAULT_WAIT = 5.0

_GONE = frozenset({"channel_not_found", "is_archived", "not_in_channel", "channel_is_archived", "restricted_action"})
_NO_MESSAGE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found"})
_NOT_US = frozenset(
    {
        "token_revoked",
        "token_expired",
        "invalid_auth",
        "not_authed",
        "account_inactive",
        "org_login_required",
    }
)


class ChannelGone(NotFound):
    """The channel was archived or deleted, or the bot is not in it: it must be said elsewhere."""


class MessageGone(NotFound):
    """The message was deleted: it must be posted anew."""


class ScopeMissing(PermanentError):
    """The app may not do this one thing: all that needs another scope goes on."""


class Limited(Unavailable):
    """Slack says how long to wait."""

    def __init__(self, text: str, seconds: float) -> None:
        """Keep the *seconds*."""
        super().__init__(text)
        self.seconds = seconds


def make_client(token: str, api_url: str) -> WebClient:
    """Make the client; it does not repeat calls by itself, because the newest state is what is sent next."""
    return WebClient(token=token, base_url=api_url, timeout=SECONDS, retry_handlers=[])


def call(what: str, function: Callable[..., T], **arguments: Any) -> T:  # noqa: ANN401 - the method's own
    """
    Make one call.

    Raises:
        Limited, Unavailable: Slack is busy or away; the same call may succeed later.
        ChannelGone, MessageGone: there is nothing to write to.
        CredentialsRejected: a token was revoked.
        ScopeMissing: the app was not given a scope; the message names it.
        PermanentError: Slack refuses the call itself.
    """
    try:
        return function(**arguments)
    except SlackApiError as error:
        raise _translate(what, error) from error
    except (SlackClientError, URLError, OSError, HTTPException, ValueError) as error:
        # ValueError: an answer that is no JSON, as proxies give while Slack is down.
        text = f"Slack does not answer to {what}: {error}"
        raise Unavailable(text) from error


def read_wait(headers: Mapping[str, str]) -> float:
    """For how many seconds a 429 wants to be left alone."""
    return float(headers.get("Retry-After", headers.get("retry-after", DEFAULT_WAIT)))


def _translate(what: str, error: SlackApiError) -> Exception:
    response = error.response
    status = int(getattr(response, "status_code", HTTPStatus.OK))
    code = str(response.get("error", "") or "")
    text = f"Slack refuses {what}: {code or status}"
    if status == HTTPStatus.TOO_MANY_REQUESTS or code == "ratelimited":
        return Limited(text, read_wait(getattr(response, "headers", {})))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in {"internal_error", "service_unavailable", "fatal_error"}:
        return Unavailable(text)
    if code in _GONE:
        return ChannelGone(f"{text}. Invite the bot to the channel, or name another one in chatops.channels.")
    if code in _NO_MESSAGE:
        return MessageGone(text)
    return _translate_refusal(text, code, response)


def _translate_refusal(text: str, code: str, response: Any) -> Exception:  # noqa: ANN401 - the library's own
    if code == "missing_scope":
        needed = f" ({response.get('needed')})" if response.get("needed") else ""
        return ScopeMissing(f"{text}{needed}. Add it under OAuth & Permissions and install the app again.")
    if code in _NOT_US:
        return CredentialsRejected(f"{text}. See docs/slack.md for tokens.")
    return PermanentError(f"{text} {response.get('errors') or ''}".strip())
