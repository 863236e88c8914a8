"""Answers to one person: at the address that came with what they did, or else as a message that only they see."""

import logging
from datetime import timedelta
from time import monotonic
from typing import Any

from slack_sdk import WebClient
from slack_sdk.webhook import WebhookClient, WebhookResponse

from bot.blocks import is_slack_id
from bot.messages import Message
from bot.people import Asker
from bot.slack_api import SECONDS, Limited, call, read_wait
from forkyard.errors import ForkyardError, Unavailable
from forkyard.waiting import wait_for

logger = logging.getLogger(__name__)

PATIENCE = timedelta(seconds=40)
"""An answer that comes later than this answers nothing any more; what was asked is on record and in the channel."""

_TOO_MANY = 429
_SERVER = 500


class Replies:
    """Sends answers."""

    def __init__(self, client: WebClient) -> None:
        """Send through *client* where there is no address."""
        self._client = client
        self._until = 0.0
        """Until when Slack wants no answers, whoever they are for."""

    def answer(self, asker: Asker, message: Message) -> None:
        """Answer; when Slack cannot be reached it is only a line in the log."""

        def send() -> bool | None:
            if monotonic() < self._until:
                return None
            try:
                self._send(asker, message)
            except Limited as error:
                self._until = max(self._until, monotonic() + error.seconds)
                raise
            return True

        try:
            wait_for(send, what="an answer", timeout=PATIENCE, interval=timedelta(seconds=0.5))
        except ForkyardError as error:
            logger.warning("%s was not told %r: %s", asker.id, message.text[:80], error)

    def _send(self, asker: Asker, message: Message) -> None:
        said: dict[str, Any] = {"text": message.text, "blocks": message.blocks}
        if asker.response_url:
            answer = self._webhook(asker.response_url, said)
            text = f"Slack answers {answer.status_code}"
            if answer.status_code == _TOO_MANY:
                raise Limited(text, read_wait(answer.headers))
            if answer.status_code >= _SERVER:
                raise Unavailable(text)
            if answer.status_code < 400:  # noqa: PLR2004 - HTTP's refusals
                return
            logger.warning("a response address refuses: %s %s", answer.status_code, answer.body[:300])
        if not is_slack_id(asker.id):
            return  # nobody in Slack: the command line, the calendar
        if asker.channel and not asker.channel.startswith("D"):
            call("chat.postEphemeral", self._client.chat_postEphemeral, channel=asker.channel, user=asker.id, **said)
        else:
            call("chat.postMessage", self._client.chat_postMessage, channel=asker.id, **said)

    def _webhook(self, url: str, said: dict[str, Any]) -> WebhookResponse:
        client = WebhookClient(url, timeout=SECONDS, retry_handlers=[])
        return call("a response", client.send, response_type="ephemeral", replace_original=False, **said)
