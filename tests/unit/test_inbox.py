"""What the bot remembers of Slack's deliveries, and for how long."""

from contextlib import closing
from pathlib import Path
from time import time

from bot.inbox import PRUNED, REMEMBERED, Inbox, Letter


def test_a_bot_that_lives_long_forgets_what_was_dealt_with_long_ago_and_nothing_else(tmp_path: Path) -> None:
    now = time()
    with closing(Inbox(tmp_path / "inbox.db")) as inbox:
        for name in ("done", "open"):
            assert inbox.put(Letter(name, "command", {}, now))
        inbox.finish("done")
        assert not inbox.put(Letter("done", "command", {}, now + PRUNED / 2))
        assert inbox.put(Letter("later", "command", {}, now + REMEMBERED + PRUNED))
        assert inbox.put(Letter("done", "command", {}, now + REMEMBERED + PRUNED))
        assert not inbox.put(Letter("open", "command", {}, now + REMEMBERED + PRUNED))
