"""
The bot as a process: its parts tied together, started, and ended in order.

Begins also while Slack or Prefect is away: what is on record goes on as soon as they answer.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

from slack_bolt import App
from slack_bolt.adapter.socket_mode import SocketModeHandler
from slack_sdk.errors import SlackClientError

from bot.board import Board
from bot.checks import Secrets
from bot.clerk import Clerk
from bot.inbox import open_inbox
from bot.listeners import Listeners
from bot.memory import open_memory
from bot.people import Directory
from bot.replans import Replans
from bot.replies import Replies
from bot.runner import Runner
from bot.schedule import Schedule
from bot.sights import Sights
from bot.slack_api import make_client
from bot.sole import only_bot
from bot.web import Web
from bot.workers import Workers
from flows.events import RunEvents, listening
from flows.runs import Runs
from forkyard.errors import NotReady
from forkyard.requests import Entry, Request
from forkyard.requests.desk import Desk
from forkyard.requests.looking import Open, learn_from, plan_now
from forkyard.requests.plans import PlanRecord
from forkyard.requests.store import Store, open_store
from forkyard.settings import Settings
from forkyard.waiting import wait_for
from forkyard.world import open_world

logger = logging.getLogger(__name__)

LISTENERS, WORKERS, SOCKETS = 16, 8, 16
"""Threads that take deliveries, that carry them out, and that Socket Mode reads with."""

PATIENCE = timedelta(seconds=5)
"""How long one call to Prefect may take: the next round asks again."""

PING = 5.0
"""Seconds between two looks at whether Slack's connection lives."""


@contextmanager
def running_bot(
    load: Callable[[], Settings], secrets: Secrets, *, config: Path | None = None, opening: Open = open_world
) -> Iterator[None]:
    """
    Run the bot while the block runs; *load* gives the settings as they are at that moment, from *config*.

    Raises:
        NotPermitted: another bot is at work there.
    """
    settings = load()
    with ExitStack() as stack:
        insist = stack.enter_context(only_bot(settings))
        store = stack.enter_context(open_store(settings))
        memory = stack.enter_context(open_memory(settings))
        inbox = stack.enter_context(open_inbox(settings))
        client = make_client(secrets.bot_token, settings.chatops.api_url)
        look = _make_look(store, opening)
        desk = Desk(store, load, look)
        directory = Directory(client, lambda: load().chatops)
        woken = Event()
        runs = Runs(settings.prefect.api_url, timeout=PATIENCE, busy=PATIENCE)
        events = RunEvents(settings.prefect.api_url)
        runner, replies = Runner(desk, runs, listens=lambda: events.connected), Replies(client)

        def hear(run_id: str) -> None:
            runner.hear(run_id)
            woken.set()

        workers = Workers(stack.enter_context(ThreadPoolExecutor(WORKERS, "forkyard-worker")), replies)
        sights = Sights(load, store, opening)
        clerk = Clerk(
            load,
            desk,
            directory,
            runner,
            sights,
            memory,
            replies,
            wake=woken.set,
        )
        listeners = Listeners(load, desk, directory, clerk, replies, client, workers, inbox)
        schedule = Schedule(load, config, desk, client, memory)

        def follow_calendar() -> None:
            schedule.look()
            runner.drop_unwanted()

        board = Board(
            load,
            desk,
            memory,
            runner,
            client,
            replans=Replans(clerk.plan, workers.submit),
            woken=woken,
            calendar=lambda: workers.submit(follow_calendar),
            insist=insist,
        )
        app = _make_app(secrets, settings, stack)
        listeners.register(app)
        listeners.resume()
        stack.enter_context(_looping(board))
        stack.enter_context(listening(events, hear))
        stack.enter_context(_listening(app, secrets, settings, store))
        yield


def _make_look(store: Store, opening: Open) -> Callable[[Settings, Request], PlanRecord]:
    def look(settings: Settings, request: Request) -> PlanRecord:
        return plan_now(settings, request, runs=learn_from(store, request.service), opening=opening)

    return look


def _make_app(secrets: Secrets, settings: Settings, stack: ExitStack) -> App:
    # Bolt runs each acknowledgement in this pool too: five threads, its default, would be five people at once.
    pool = stack.enter_context(ThreadPoolExecutor(LISTENERS, "forkyard-listener"))
    return App(
        client=make_client(secrets.bot_token, settings.chatops.api_url),
        signing_secret=secrets.signing_secret or "unused in Socket Mode",
        # Slack may be away while the bot starts: the first delivery asks.
        token_verification_enabled=False,
        listener_executor=pool,
        logger=logging.getLogger("bot.bolt"),
    )


@contextmanager
def _looping(board: Board) -> Iterator[None]:
    thread = Thread(target=board.run, name="forkyard-board")
    thread.start()
    try:
        yield
    finally:
        board.stop()
        thread.join()


@contextmanager
def _listening(app: App, secrets: Secrets, settings: Settings, store: Store) -> Iterator[None]:
    if settings.chatops.mode == "http":
        forged = Entry(who="somebody", action="request", where="http", decision="refused")
        web = Web(app, settings.chatops.http_port, lambda why: store.note(replace(forged, detail=why)))
        web.start()
        try:
            yield
        finally:
            web.stop()
        return
    handler = SocketModeHandler(app, secrets.app_token, concurrency=SOCKETS, ping_interval=PING)
    stop = Event()
    thread = Thread(target=_connect, args=(handler, stop), name="forkyard-connect")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        # Its client joins its own threads for some seconds, which nobody has to wait for: the socket is closed first.
        Thread(target=handler.close, name="slack-closing", daemon=True).start()


def _connect(handler: SocketModeHandler, stop: Event) -> None:
    """Connect for the first time, however long that takes; afterwards the client does so by itself."""

    def connect() -> bool | None:
        try:
            handler.connect()  # type: ignore[no-untyped-call]
        except (SlackClientError, OSError, ValueError) as error:
            logger.warning("no connection to Slack yet: %s", error)
            return None
        return True

    try:
        wait_for(connect, what="Slack", timeout=timedelta(days=3650), interval=timedelta(seconds=1), stop=stop)
    except NotReady:
        return  # stopped meanwhile


__all__ = ["running_bot"]
