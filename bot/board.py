"""
One loop that makes Slack show what is on record: starts what is approved, follows what runs, edits what changed.

Every round looks at all open requests anew, so nothing depends on having heard of anything: after a restart, after five
minutes without Slack, after a storm of 429 the next round shows the newest state. One thread posts and edits, so no
message is posted twice.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Event
from time import monotonic

from slack_sdk import WebClient

from bot.finale import Finale
from bot.memory import Memory, Shown
from bot.messages import Message, Sight, block_of, render_request, stamp
from bot.pace import Pace, Weight
from bot.runner import Runner
from bot.schedule import EVERY
from bot.slack_api import ChannelGone, Limited, MessageGone, call
from bot.stages import read_stages
from flows.runs import Progress
from forkyard.errors import CredentialsRejected, ForkyardError, PermanentError, TransientError
from forkyard.requests import OPEN, Entry, Request, State
from forkyard.requests.desk import Desk
from forkyard.settings import Settings

logger = logging.getLogger(__name__)

ROUND = 0.7
"""Seconds between two rounds; a change that the bot itself made wakes the loop at once."""

SWEEP = 5.0
"""Seconds between two looks for plans that nobody approved."""

AWAY = 3.0
"""Seconds for which Slack is left alone when it does not answer."""

NOT_US = 30.0
"""Seconds between two tries once Slack no longer takes our token."""

REPLAN = 10.0
"""Seconds after which a request is planned once more whose fleet could not be seen."""

_RUNS = frozenset({State.APPROVED, State.SCHEDULED, State.RUNNING})


class Board:
    """What Slack shows of the requests."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        desk: Desk,
        memory: Memory,
        runner: Runner,
        client: WebClient,
        *,
        plan: Callable[[Request], None],
        woken: Event,
        calendar: Callable[[], None],
    ) -> None:
        """Show what *desk* has on record; *woken* has a round at once, *plan* and *calendar* are done elsewhere."""
        self._settings, self._desk, self._store, self._memory = settings, desk, desk.store, memory
        self._runner, self._client, self._plan = runner, client, plan
        self._finale = Finale(client, memory, runner)
        self._pace = Pace()
        self._woken, self._stop = woken, Event()
        self._calendar = calendar
        self._swept = self._scheduled = -EVERY
        self._planned: dict[str, float] = {}
        self._phases: dict[str, object] = {}
        self._recovering = True

    def stop(self) -> None:
        """Let the loop end after its round."""
        self._stop.set()
        self._woken.set()

    def run(self) -> None:
        """Go round until stopped."""
        while not self._stop.is_set():
            self._woken.clear()
            try:
                self.go_round()
            except TransientError as error:
                logger.warning("the requests cannot be read now: %s", error)
            except Exception:
                # The loop must outlive any one request: what is wrong with it is in the log, with its traceback.
                logger.exception("a round failed")
            self._woken.wait(ROUND)

    def go_round(self) -> None:
        """One round."""
        now = monotonic()
        if now - self._swept > SWEEP:
            self._swept = now
            self._desk.sweep()
        if now - self._scheduled > EVERY:
            self._scheduled = now
            self._calendar()
        self._runner.start_due()
        sights = self._observe()
        sights.sort(key=lambda sight: (sight.request.open, -self._pace.age(sight.request.id)))
        for sight in sights:
            if self._pace.resting:
                break
            self._try_to_show(sight)
        self._recovering = False

    def _observe(self) -> list[Sight]:
        rows = {row.id: row for row in self._store.list_requests(states=OPEN, limit=500)}
        known = self._memory.list_open()
        for request_id in known.keys() - rows.keys():
            rows[request_id] = self._store.get(request_id)
        running = [row for row in rows.values() if row.run_id and row.state in _RUNS]
        progress = self._runner.look(running)
        sights = []
        for row in rows.values():
            self._plan_if_due(row)
            done = progress.get(row.run_id or "")
            settled = self._runner.settle(row, done)
            sights.append(self._see(settled, done, known.get(row.id)))
        return [sight for sight in sights if sight.request.state is not State.DRAFTED]

    def _see(self, row: Request, progress: Progress | None, shown: Shown | None) -> Sight:
        decided = row.state not in {State.PLANNED, State.AWAITING}
        approvals = self._store.approvals(row.id) if decided else []
        return Sight(
            request=row,
            progress=progress,
            report=None if row.open else self._finale.report(row),
            approved_by=approvals[-1].approver if approvals else "",
            run_url=self._runner.url(row),
            kept=shown is not None and shown.kept,
            trouble=self._runner.trouble_with(row, progress) if row.state in _RUNS else "",
        )

    def _plan_if_due(self, row: Request) -> None:
        if row.state not in {State.DRAFTED, State.PLANNED}:
            self._planned.pop(row.id, None)
            return
        age = (datetime.now(UTC) - row.requested_at).total_seconds()
        # A fresh one is being planned by whoever took it; after a restart there is nobody left who does.
        if (self._recovering or age > REPLAN) and monotonic() - self._planned.get(row.id, -REPLAN) >= REPLAN:
            self._planned[row.id] = monotonic()
            self._plan(row)

    def _try_to_show(self, sight: Sight) -> None:
        try:
            self._show(sight)
        except Limited as error:
            self._pace.rest(error.seconds)
            logger.warning("%s; going on in %.0f s", error, error.seconds)
        except CredentialsRejected as error:
            self._pace.rest(NOT_US)
            logger.error("%s", error)  # noqa: TRY400 - what to do is in the message, a traceback tells no more
        except TransientError as error:
            self._pace.rest(AWAY)
            logger.warning("%s", error)
        except ForkyardError as error:
            logger.error("%s: cannot be shown: %s", sight.request.token, error)  # noqa: TRY400 - as above
        except Exception:
            # One message that cannot be made must not keep the others from being shown: the log has why.
            logger.exception("%s: cannot be shown", sight.request.token)

    def _show(self, sight: Sight) -> None:
        request = sight.request
        message, shown = render_request(sight), self._memory.find(request.id)
        digest = hashlib.sha256(json.dumps(message.blocks, sort_keys=True).encode()).hexdigest()
        if shown is None or not shown.ts:
            if not request.open and shown is None:
                return  # it ended before anybody was shown anything
            shown = self._post(sight, message, shown)
        elif digest != shown.digest:
            weight = self._weigh(sight)
            if not self._pace.allows(request.id, weight):
                return
            shown = self._edit(sight, message, shown)
            if not shown.ts:
                return  # it was deleted: the next round posts it anew
        self._phases[request.id] = _phase(sight)
        if digest != shown.digest:
            shown = self._memory.change(shown, digest=digest)
        if not request.open and not self._finale.awaits(request):
            shown = self._finale.show(request, shown)
            self._memory.finish(shown)
            self._phases.pop(request.id, None)

    def _weigh(self, sight: Sight) -> Weight:
        if not sight.request.open:
            return Weight.END
        return Weight.NUMBER if self._phases.get(sight.request.id) == _phase(sight) else Weight.PHASE

    def _post(self, sight: Sight, message: Message, shown: Shown | None) -> Shown:
        """Post the message, marked beforehand; one that a killed bot has posted is found instead."""
        request = sight.request
        if shown is not None:
            ts = find_message(self._client, shown.channel, request.id)
            if ts:
                return self._memory.change(shown, ts=ts)
        else:
            shown = self._memory.add(Shown(request.id, self._choose_channel(request)))
        channel = shown.channel
        blocks = stamp(message, request, datetime.now(UTC), sight.run_url)
        try:
            said = call(
                "chat.postMessage", self._client.chat_postMessage, channel=channel, text=message.text, blocks=blocks
            )
        except ChannelGone as error:
            self._memory.change(shown, channel=self._elsewhere(request, channel, error))
            raise
        return self._memory.change(shown, channel=str(said["channel"]), ts=str(said["ts"]))

    def _edit(self, sight: Sight, message: Message, shown: Shown) -> Shown:
        blocks = stamp(message, sight.request, datetime.now(UTC), sight.run_url)
        self._pace.spend(sight.request.id)
        try:
            call(
                "chat.update",
                self._client.chat_update,
                channel=shown.channel,
                ts=shown.ts,
                text=message.text,
                blocks=blocks,
            )
        except MessageGone:
            return self._memory.change(shown, ts="")
        except ChannelGone as error:
            elsewhere = self._elsewhere(sight.request, shown.channel, error)
            return self._memory.change(shown, ts="", channel=elsewhere)
        return shown

    def _choose_channel(self, request: Request) -> str:
        channels = self._settings().chatops.channels
        if request.channel in channels or not channels:
            return request.channel
        return channels[0]

    def _elsewhere(self, request: Request, channel: str, error: ForkyardError) -> str:
        """Go on in the conversation with whoever asked, once; raises PermanentError when that is gone too."""
        person = request.requested_by
        if channel == person or ":" in person or channel.startswith("D"):
            text = f"{request.token}: there is nowhere left to show it: {error}"
            raise PermanentError(text) from error
        what = f"the channel {channel} is gone; going on in the conversation with {person}"
        self._store.note(
            Entry(
                who="forkyard",
                action="show",
                where=channel,
                request_id=request.id,
                service=request.service,
                detail=what,
            )
        )
        return person


def find_message(client: WebClient, channel: str, request_id: str) -> str:
    """Find the ts of a request's message in the channel; empty when there is none."""
    if channel[:1] not in {"C", "G", "D"}:
        return ""
    found = call("conversations.history", client.conversations_history, channel=channel, limit=100)
    for message in found.get("messages") or ():
        if any(block.get("block_id") == block_of(request_id) for block in message.get("blocks") or ()):
            return str(message["ts"])
    return ""


def _phase(sight: Sight) -> object:
    """What makes an edit urgent when it changes: the state, and which stages are begun or done."""
    stages = tuple((s.phase, s.complete, s.done > 0) for s in read_stages(sight.progress))
    return sight.request.state, sight.request.plan_hash, stages, sight.kept, bool(sight.trouble)
