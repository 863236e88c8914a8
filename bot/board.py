"""
One loop that makes Slack show what is on record: starts what is approved, follows what runs, edits what changed.

Every round looks at all open requests anew, so nothing depends on having heard of anything: after a restart, after five
minutes without Slack, after a storm of 429 the next round shows the newest state. One thread of one bot (`bot.sole`)
posts and edits, so no message is posted twice.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Event
from time import monotonic

from slack_sdk import WebClient

from bot.blocks import is_slack_id
from bot.finale import Finale
from bot.memory import Memory, Shown
from bot.messages import Message, Sight, block_of, render_request, stamp
from bot.pace import Pace, Weight
from bot.replans import Replans
from bot.runner import Runner
from bot.schedule import EVERY
from bot.slack_api import ChannelGone, Limited, MessageGone, call
from flows.runs import Progress
from forkyard.errors import CredentialsRejected, ForkyardError, PermanentError, TransientError
from forkyard.model import Phase
from forkyard.requests import OPEN, WITH_RUN, Entry, Request, State
from forkyard.requests.desk import Desk
from forkyard.requests.moves import has_run
from forkyard.settings import Settings
from forkyard.stages import read_stages

logger = logging.getLogger(__name__)

ROUND = 0.7
"""Seconds between two rounds; a change that the bot itself made wakes the loop at once."""

SWEEP = 5.0
"""Seconds between two looks for plans that nobody approved."""

AWAY = 3.0
"""Seconds for which Slack is left alone when it does not answer."""

NOT_US = 30.0
"""Seconds between two tries once Slack no longer takes our token."""


class Board:
    """What Slack shows of the requests."""

    def __init__(  # noqa: PLR0913 - the parts that it ties together
        self,
        settings: Callable[[], Settings],
        desk: Desk,
        memory: Memory,
        runner: Runner,
        client: WebClient,
        *,
        replans: Replans,
        woken: Event,
        calendar: Callable[[], None],
        insist: Callable[[], None],
    ) -> None:
        """
        Show what *desk* has on record; *woken* has a round at once, *replans* and *calendar* are done elsewhere.

        *insist* raises a TransientError while another bot does all this.
        """
        self._settings, self._desk, self._store, self._memory = settings, desk, desk.store, memory
        self._runner, self._client, self._replans = runner, client, replans
        self._finale = Finale(client, memory, runner)
        self._pace = Pace()
        self._woken, self._stop = woken, Event()
        self._calendar, self._insist = calendar, insist
        self._swept = self._scheduled = -EVERY
        self._phases: dict[str, _Phase] = {}
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
                logger.warning("nothing can be done now: %s", error)
            except Exception:
                # The loop must outlive any one request: what is wrong with it is in the log, with its traceback.
                logger.exception("a round failed")
            self._woken.wait(ROUND)

    def go_round(self) -> None:
        """One round."""
        self._insist()
        now = monotonic()
        if now - self._swept > SWEEP:
            self._swept = now
            self._desk.sweep()
        if now - self._scheduled > EVERY:
            self._scheduled = now
            self._calendar()
        self._runner.start_due()
        if self._recovering:
            # The bot may have ended between a rollback's end and the edit of what it rolled back.
            undone = self._store.list_requests(states=[State.ROLLED_BACK])
            self._memory.reopen([request.id for request in undone])
        sights = self._observe()
        sights.sort(key=lambda sight: (sight.request.open, -self._pace.age(sight.request.id)))
        for sight in sights:
            if self._pace.resting:
                break
            if not self._pace.is_aside(sight.request.id):
                self._try_to_show(sight)
        self._recovering = False

    def _observe(self) -> list[Sight]:
        rows = {row.id: row for row in self._store.list_requests(states=OPEN, limit=500)}
        known = self._memory.list_open()
        for request_id in known.keys() - rows.keys():
            rows[request_id] = self._store.get(request_id)
        running = [row for row in rows.values() if row.run_id and row.state in WITH_RUN]
        progress = self._runner.look(running)
        self._replans.look(rows.values(), recovering=self._recovering)
        sights = []
        for row in rows.values():
            sight = self._try_to_see(row, progress.get(row.run_id or ""), known.get(row.id))
            if sight is not None and sight.request.state is not State.DRAFTED:
                sights.append(sight)
        return sights

    def _try_to_see(self, row: Request, progress: Progress | None, shown: Shown | None) -> Sight | None:
        try:
            return self._see(self._runner.settle(row, progress), progress, shown)
        except TransientError:
            raise  # the database's: it is the same for all
        except Exception:
            # One request that cannot be understood must not keep the others from being followed: the log has why.
            if not self._pace.is_aside(row.id):
                self._pace.set_aside(row.id)
                logger.exception("%s: cannot be followed", row.token)
            return None

    def _see(self, row: Request, progress: Progress | None, shown: Shown | None) -> Sight:
        decided = row.state not in {State.PLANNED, State.AWAITING}
        approvals = self._store.approvals(row.id) if decided else []
        return Sight(
            request=row,
            progress=progress,
            report=None if row.open else self._finale.report(row),
            approved_by=approvals[-1].approver if approvals else "",
            run_url=self._runner.url(row),
            ran=row.open or has_run(self._store, row),
            kept=shown is not None and shown.kept,
            trouble=self._runner.trouble_with(row, progress) if row.state in WITH_RUN else "",
        )

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
            seconds = self._pace.set_aside(sight.request.id)
            logger.error("%s: cannot be shown: %s; again in %.0f s", sight.request.token, error, seconds)  # noqa: TRY400 - as above
        except Exception:
            # One message that cannot be made must not keep the others from being shown: the log has why.
            self._pace.set_aside(sight.request.id)
            logger.exception("%s: cannot be shown", sight.request.token)

    def _show(self, sight: Sight) -> None:
        request = sight.request
        message, shown = render_request(sight), self._memory.find(request.id)
        digest = hashlib.sha256(json.dumps(message.blocks, sort_keys=True).encode()).hexdigest()
        if shown is None or not shown.ts:
            if not request.open and shown is None:
                return  # it ended before anybody was shown anything
            shown = self._post(sight, message, shown)
            if not shown.ts:
                return  # its channel is gone: the next round posts it elsewhere
            self._pace.take_up(request.id)
        elif digest != shown.digest:
            weight = self._weigh(sight)
            if not self._pace.allows(request.id, weight):
                return
            shown = self._edit(sight, message, shown)
            if not shown.ts:
                return  # it was deleted, or its channel was: the next round posts it anew
            self._pace.take_up(request.id)
        self._phases[request.id] = _phase(sight)
        if digest != shown.digest:
            shown = self._memory.change(shown, digest=digest)
        if not request.open and not self._finale.awaits(request):
            shown = self._finale.show(request, shown)
            self._memory.finish(shown)
            self._phases.pop(request.id, None)
            if request.kind == "rollback" and request.parent is not None:
                self._memory.reopen([request.parent])

    def _weigh(self, sight: Sight) -> Weight:
        if not sight.request.open:
            return Weight.END
        before, now = self._phases.get(sight.request.id), _phase(sight)
        if before == now:
            return Weight.NUMBER
        begun = before is not None and before.state is State.APPROVED and now.state is State.RUNNING
        return Weight.BEGIN if begun and not now.stages else Weight.PHASE

    def _post(self, sight: Sight, message: Message, shown: Shown | None) -> Shown:
        """Post the message, marked beforehand; one that a killed bot has posted is found instead."""
        request, known = sight.request, shown is not None
        shown = shown or self._memory.add(Shown(request.id, self._choose_channel(request)))
        said = {"channel": shown.channel, "text": message.text}
        blocks = stamp(message, request, datetime.now(UTC), sight.run_url)
        try:
            ts = find_message(self._client, shown.channel, request.id) if known else ""
            if ts:
                return self._memory.change(shown, ts=ts)
            posted = call("chat.postMessage", self._client.chat_postMessage, **said, blocks=blocks)
        except ChannelGone as error:
            return self._move(request, shown, error)
        return self._memory.change(shown, channel=str(posted["channel"]), ts=str(posted["ts"]))

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
            return self._move(sight.request, shown, error)
        return shown

    def _choose_channel(self, request: Request) -> str:
        channels = self._settings().chatops.channels
        if request.channel in channels or not channels:
            return request.channel
        return channels[0]

    def _move(self, request: Request, shown: Shown, error: ForkyardError) -> Shown:
        """Go on in the next place, which the next round tries; raises PermanentError when all of them are gone."""
        places = self._list_places(request)
        # A conversation with a person has an id of its own once something was said in it.
        last = len(places) - 1 if shown.channel.startswith("D") else -1
        here = places.index(shown.channel) if shown.channel in places else last
        begins_anew = here + 1 >= len(places)
        elsewhere = places[0] if begins_anew else places[here + 1]
        moved = self._memory.change(shown, ts="", channel=elsewhere)
        if begins_anew:
            text = f"{request.token}: there is nowhere left to show it: {error}"
            raise PermanentError(text) from error
        if self._pace.is_refused(request.id):
            return moved  # it goes round all of them, which the log knows
        what = f"the channel {shown.channel} is gone; going on in {elsewhere}"
        entry = Entry(who="forkyard", action="show", where=shown.channel, request_id=request.id, detail=what)
        self._store.note(replace(entry, service=request.service))
        return moved

    def _list_places(self, request: Request) -> list[str]:
        """Where its message may stand, the best first; the last is the conversation with whoever asked in Slack."""
        person = request.requested_by
        direct = [person] if is_slack_id(person) else []
        return list(dict.fromkeys([self._choose_channel(request), *self._settings().chatops.channels, *direct]))


def find_message(client: WebClient, channel: str, request_id: str) -> str:
    """Find the ts of a request's message in the channel; empty when there is none."""
    if channel[:1] not in {"C", "G", "D"}:
        return ""
    found = call("conversations.history", client.conversations_history, channel=channel, limit=100)
    for message in found.get("messages") or ():
        if any(block.get("block_id") == block_of(request_id) for block in message.get("blocks") or ()):
            return str(message["ts"])
    return ""


@dataclass(frozen=True, slots=True)
class _Phase:
    """What makes an edit urgent when it changes: the state, and which stages are begun or done."""

    state: State
    plan_hash: str
    stages: tuple[tuple[Phase, bool, bool], ...]
    kept: bool
    troubled: bool


def _phase(sight: Sight) -> _Phase:
    stages = tuple(
        (s.phase, s.complete, s.done > 0) for s in read_stages(sight.progress.text if sight.progress else "")
    )
    return _Phase(sight.request.state, sight.request.plan_hash, stages, sight.kept, bool(sight.trouble))
