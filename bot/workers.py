"""What is done after Slack was acknowledged: in threads, behind those who still wait to be acknowledged."""

import logging
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from threading import Event, Lock
from typing import Any

from bot.answers import say
from bot.people import Asker
from bot.replies import Replies

logger = logging.getLogger(__name__)

POLITE = 0.5
"""Most seconds that a worker waits for others to be acknowledged first."""


class Workers:
    """The threads."""

    def __init__(self, pool: Executor, replies: Replies) -> None:
        """Work in *pool*; whoever waits for work that has a bug is told through *replies*."""
        self._pool, self._replies = pool, replies
        self._taking, self._counting, self._calm = 0, Lock(), Event()
        self._calm.set()

    @contextmanager
    def first(self) -> Iterator[None]:
        """While deliveries are being taken, the workers wait: whoever typed is acknowledged before anything is done."""
        with self._counting:
            self._taking += 1
            self._calm.clear()
        try:
            yield
        finally:
            with self._counting:
                self._taking -= 1
                if self._taking == 0:
                    self._calm.set()

    # Any: the work's own.
    def submit(self, work: Callable[..., None], *arguments: Any, asker: Asker | None = None) -> None:  # noqa: ANN401
        """Have it done soon; a bug in it is in the log, and *asker* is told under which id."""

        def guarded() -> None:
            self._calm.wait(POLITE)
            try:
                work(*arguments)
            except Exception:
                # The last edge of a worker's thread: nobody else would ever hear of it.
                error_id = secrets.token_hex(4)
                logger.exception("%s failed (error id %s)", getattr(work, "__name__", work), error_id)
                if asker is not None:
                    self._tell(asker, error_id)

        self._pool.submit(guarded)

    def _tell(self, asker: Asker, error_id: str) -> None:
        text = (
            f":boom: That could not be done: forkyard itself has failed (error id `{error_id}`). "
            f"See with `/fleet status` and `/fleet log` what is there; whoever runs the bot finds more in its log."
        )
        try:
            self._replies.answer(asker, say(text))
        except Exception:
            logger.exception("%s was not told of error id %s", asker.id, error_id)
