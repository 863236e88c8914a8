"""
The end of a request in its message's thread: a summary and the timeline picture.

Marked before it is sent: a bot that is killed while it sends looks into the thread first, so nothing is there twice.
"""

import logging
from time import monotonic
from typing import Any

from slack_sdk import WebClient

from bot.blocks import number_of, serving
from bot.memory import Memory, Shown
from bot.picture import draw_timeline
from bot.runner import Runner
from bot.slack_api import ChannelGone, MessageGone, call
from flows.runs import Unreadable
from forkyard.errors import ForkyardError, PermanentError
from forkyard.report import Report, report_from_json
from forkyard.requests import Request, State

logger = logging.getLogger(__name__)

REMEMBERED = 50
"""Reports kept in memory; each is asked for once."""

POSTING, POSTED = "posting", "posted"

PATIENCE = 30.0
"""Seconds until a run that is over is believed to have reported nothing: its end is on record before its report is."""


class Finale:
    """Reports of what is over."""

    def __init__(self, client: WebClient, memory: Memory, runner: Runner) -> None:
        """Send through *client* what *runner* knows."""
        self._client, self._memory, self._runner = client, memory, runner
        self._reports: dict[str, Report | None] = {}
        self._asked: dict[str, float] = {}

    def report(self, request: Request) -> Report | None:
        """What the request's run reported; None while it made no report, or Prefect cannot be asked."""
        run = request.run_id
        if run is None:
            return None
        if run not in self._reports:
            try:
                found = self._runner.result(run)
                report = None if found is None else report_from_json(found)
            except (Unreadable, TypeError, KeyError, ValueError) as error:
                # Of another forkyard, perhaps a newer one: it would be as little understood the next time.
                logger.warning("%s: a report that cannot be read: %r", request.token, error)
                self._keep(run, None)
                return None
            except ForkyardError as error:
                logger.warning("%s: no report yet: %s", request.token, error)
                return None
            if report is not None or monotonic() - self._asked.setdefault(run, monotonic()) >= PATIENCE:
                self._keep(run, report)
        return self._reports.get(run)

    def awaits(self, request: Request) -> bool:
        """Whether a report may still come of a request that is over."""
        return request.run_id is not None and request.run_id not in self._reports

    def _keep(self, run: str, report: Report | None) -> None:
        self._asked.pop(run, None)
        self._reports[run] = report
        if len(self._reports) > REMEMBERED:
            del self._reports[next(iter(self._reports))]

    def show(self, request: Request, shown: Shown) -> Shown:
        """Put summary and picture into the thread, once; without a report there is nothing to show."""
        report = self.report(request)
        if report is None or not any(child.intervals for child in report.children) or shown.picture == POSTED:
            return shown
        if shown.picture == POSTING and self._is_there(shown):
            return self._memory.change(shown, picture=POSTED)
        shown = self._memory.change(shown, picture=POSTING)
        title, summary = entitle(request, report), summarize(request, report)
        try:
            self._upload(shown, draw_timeline(report.children, title=title), title, summary)
        except (ChannelGone, MessageGone, PermanentError) as error:
            logger.warning("%s: the picture could not be shown: %s", request.token, error)
        return self._memory.change(shown, picture=POSTED)

    def _is_there(self, shown: Shown) -> bool:
        found = call("conversations.replies", self._client.conversations_replies, channel=shown.channel, ts=shown.ts)
        return any(message.get("files") for message in found.get("messages") or ())

    def _upload(self, shown: Shown, picture: bytes, title: str, summary: str) -> None:
        what: dict[str, Any] = {"channel": shown.channel, "thread_ts": shown.ts, "initial_comment": summary}
        call(
            "files.upload",
            self._client.files_upload_v2,
            content=picture,
            filename="timeline.png",
            title=title,
            alt_txt=summary[:900],
            **what,
        )


def entitle(request: Request, report: Report) -> str:
    """The picture's title."""
    if request.state is State.CANCELLED:
        now = "nobody knows how many" if report.serving is None else f"{report.serving} of {report.wanted}"
        return f"{request.service}: cancelled, {now} serving"
    return f"{request.service}: {report.message}"


def summarize(request: Request, report: Report) -> str:
    """The run in one line, and what to know beside it."""
    made = [child for child in report.children if child.intervals]
    slowest = max(made, key=lambda child: max(i.end for i in child.intervals))
    last = max(i.end for i in slowest.intervals)
    before = "?" if report.before is None else report.before
    came = f"{report.service}: {before} → {serving(report.serving)} after {report.seconds:.1f} s."
    bars = f"{number_of(len(made), 'bar')}, one a child; the last was {slowest.name}, after {last:.1f} s."
    lines = [f"{came} {bars}", *report.notes[:5]]
    failed = [child for child in made if child.error]
    if failed and request.state is State.CANCELLED:
        lines.append(f"{len(failed)} {'was' if len(failed) == 1 else 'were'} not finished.")
    elif failed:
        first = failed[0]
        # An error that says which child it is of is not to say so twice.
        why = (first.error or "").removeprefix(f"{first.name}: ")
        lines.append(f"{len(failed)} failed, the first: {first.name}: {why}")
    return "\n".join(lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")[:2900]
