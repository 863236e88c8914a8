"""
Show a request in the Prefect UI: its progress while it works; table, report, picture and result once it is done.

Nothing here may delay a child or fail a request: progress is sent from a thread of its own, the rest after the
fleet serves, one API call each; what cannot be sent is a line in the log.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from threading import Event, Thread
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import get_run_context
from prefect.exceptions import PrefectException

from forkyard.model import StepKind
from forkyard.picture import render_data_uri, render_timeline
from forkyard.report import DOWN, UP, Report, make_rows, render_markdown, report_to_json
from forkyard.stages import make_stages, write_stages, write_wait
from tasks.work import Work

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks for progress; nothing is sent when nothing changed."""


@contextmanager
def publishing_progress(work: Work) -> Iterator[None]:
    """Keep one progress artifact up to date while the block runs."""
    done = Event()
    run_id = _run_id()
    # In this context: Prefect's settings, and so the server's address, are not a new thread's by themselves.
    follow = partial(copy_context().run, _follow, work, run_id, done)
    thread = Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def _follow(work: Work, run_id: UUID | None, done: Event) -> None:
    artifact: UUID | None = None
    last: tuple[float, str] | None = None
    with get_client(sync_client=True) as client:
        over = False
        while not over:
            # The first look comes at once, the last one after the end.
            over = done.wait(INTERVAL if last else 0)
            now = describe_progress(work)
            if now != last:
                last = now
                artifact = _send_progress(client, work, run_id, artifact, now)


def _send_progress(
    client: SyncPrefectClient, work: Work, run_id: UUID | None, artifact: UUID | None, now: tuple[float, str]
) -> UUID | None:
    percent, text = now
    try:
        if artifact is not None:
            client.update_artifact(artifact, ArtifactUpdate(data=percent, description=text))
            return artifact
        key = f"{work.service}-progress"
        return client.create_artifact(
            ArtifactCreate(key=key, type="progress", data=percent, description=text, flow_run_id=run_id)
        ).id
    except (HTTPError, PrefectException) as error:
        logger.warning("%s: progress could not be shown: %s", work.service, error)
        return artifact


def describe_progress(work: Work) -> tuple[float, str]:
    """How far the request is, in percent, and in words."""
    plan = work.journal.plan
    if (other := work.journal.waits_for) is not None:
        return 0.0, write_wait(other.who, other.reason or other.request_id)
    if plan is None:
        return 0.0, "observing the fleet"
    forks, children = len(plan.of(StepKind.FORK)), work.journal.intervals().values()
    stages = make_stages(children, dict.fromkeys(UP, forks) | dict.fromkeys(DOWN, len(plan.steps) - forks))
    total, came = sum(stage.total for stage in stages), sum(stage.done for stage in stages)
    return (round(100 * came / total, 1) if total else 100.0), write_stages(stages) or "nothing to do"


def publish(report: Report) -> None:
    """Show what the request did."""
    service, run_id = report.service, _run_id()
    title = f"{service}: {report.message}"
    artifacts: tuple[tuple[str, str, Callable[[], Any], str], ...] = (
        # First what a waiting command line reads; the others are made when it has been sent.
        ("result", "result", lambda: json.dumps(report_to_json(report)), title),
        ("children", "table", lambda: json.dumps(make_rows(report)), title),
        ("report", "markdown", lambda: render_markdown(report), title),
        ("timeline", "image", lambda: _draw(report, title), "each child's way through its phases"),
    )
    try:
        with get_client(sync_client=True) as client:
            for name, kind, make, text in artifacts:
                key = f"{service}-{name}"
                client.create_artifact(
                    ArtifactCreate(key=key, type=kind, data=make(), description=text, flow_run_id=run_id)
                )
    except (HTTPError, PrefectException) as error:
        logger.warning("%s: the report could not be shown: %s", service, error)


def _draw(report: Report, title: str) -> str:
    return render_data_uri(render_timeline(report.children, title=title))


def publish_table(key: str, rows: list[dict[str, object]], description: str) -> None:
    """Show one table."""
    table = ArtifactCreate(key=key, type="table", data=json.dumps(rows), description=description, flow_run_id=_run_id())
    try:
        with get_client(sync_client=True) as client:
            client.create_artifact(table)
    except (HTTPError, PrefectException) as error:
        logger.warning("%s could not be shown: %s", key, error)


def _run_id() -> UUID | None:
    run = getattr(get_run_context(), "flow_run", None)
    return None if run is None else run.id
