"""What Slack answers when it says no."""

from typing import Any, NoReturn


class Refusal(Exception):
    """One call refused: the answer is `{"ok": false, "error": ERROR, ...details}`; *status* is HTTP's."""

    def __init__(self, error: str, status: int, retry_after: int | None, details: dict[str, Any]) -> None:
        """Keep what the answer is made of."""
        super().__init__(error)
        self.error = error
        self.status = status
        self.retry_after = retry_after
        self.details = details


def refuse(error: str, *, status: int = 200, retry_after: int | None = None, **details: Any) -> NoReturn:  # noqa: ANN401 - JSON
    """Refuse with Slack's word *error*, which is all that it says; most come with HTTP's 200."""
    raise Refusal(error, status, retry_after, details)
