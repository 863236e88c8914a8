"""
`forkyard scale`: ask for a number of children, follow until they serve, say what is there.

Until the run is created only the standard library and the core's nouns are imported: that time is the
person's. The run is Prefect's when its server answers; else the same runbook works in this process.
"""

import getpass
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from cli.failures import AS_ASKED, CAN_BE_MENDED, INTERRUPTED, WENT_WRONG
from cli.output import emit, say
from flows.runs import Runs
from forkyard.approvals import make_warrant
from forkyard.errors import ForkyardError, Unavailable
from forkyard.model import ScaleRequest
from forkyard.names import new_request_id
from forkyard.plan import check_request
from forkyard.requests.peek import peek_locked
from forkyard.roles import LOCAL
from forkyard.settings import Settings, load_settings

Report = Mapping[str, Any]
"""A run's report, as `forkyard.report.report_to_json` makes it."""


@dataclass(frozen=True, slots=True)
class ScaleOptions:
    """What the person said."""

    service: str
    target: int
    dry_run: bool
    reason: str
    yes: bool
    in_process: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: its report if it made one, and whether the person broke it off."""

    report: Report | None
    message: str
    interrupted: bool = False


def run_scale(config: Path | None, options: ScaleOptions) -> int:
    """Carry out one request; code 0 only when the fleet is as asked."""
    started = time.monotonic()
    settings = load_settings(config)
    request = make_request(options)
    check_request(request, settings.service(options.service).limits)
    if options.dry_run:
        from cli.fleet import show_plan  # noqa: PLC0415 - a plan needs the drivers, a run does not

        return show_plan(settings, request, as_json=options.as_json)
    if peek_locked(settings, options.service):
        from cli.requests import find_person, open_desk  # noqa: PLC0415 - only where there is something to refuse

        with open_desk(config) as (desk, _):
            raw = f"scale {options.service} to {options.target}"
            desk.insist_unlocked(find_person(), options.service, where="terminal", raw=raw)
    if options.target == 0 and not options.yes and sys.stdin.isatty() and sys.stderr.isatty():
        from cli.parent import confirm  # noqa: PLC0415 - only at a terminal

        confirm(f"{options.service}: retire all children, so that nobody serves?")
    ending, url = carry_out(settings, request, in_process=options.in_process)
    report = settle(settings, request, ending)
    code = INTERRUPTED if ending.interrupted else _judge(report)
    seconds = time.monotonic() - started
    if options.as_json:
        emit(scale_shape(report, url, seconds) | {"exit_code": code})
    else:
        from cli.progress import show_report  # noqa: PLC0415 - only for people

        show_report(report, url, seconds)
    if code != AS_ASKED:
        say(f"forkyard: {'interrupted: ' if ending.interrupted else ''}{report['message']}")
    return code


def carry_out(settings: Settings, request: ScaleRequest, *, in_process: bool = False) -> tuple[Ending, str | None]:
    """Have the request carried out, by Prefect's run or here; returns how it ended and where to look."""
    runs = Runs(settings.prefect.api_url)
    # Signed here, because whoever can read the key may scale; the run verifies it, wherever it runs.
    who = f"{LOCAL}{request.requested_by}"
    warrant = make_warrant(settings, request.id, request.service, request.target, who)
    if in_process or not runs.is_up():
        return _run_here(settings, request, warrant, asked_for=in_process), None
    return _run_there(runs, request, warrant)


def settle(settings: Settings, request: ScaleRequest, ending: Ending) -> Report:
    """Keep the run's report for `status`; where there is none, say what is there."""
    if ending.report is None:
        return _observed_report(settings, request, ending.message)
    from forkyard.history import write_history  # noqa: PLC0415 - after the fleet serves

    try:
        write_history(settings, request.service, request.id, ending.report)
    except OSError as error:
        # The fleet is what it is; a full disk costs only the seconds that `status` would show.
        say(f"{request.service}: the report could not be kept: {error}")
    return ending.report


def make_request(options: ScaleOptions) -> ScaleRequest:
    """Make the request of the person at this terminal."""
    return ScaleRequest(
        id=new_request_id(),
        service=options.service,
        target=options.target,
        requested_by=getpass.getuser(),
        requested_at=datetime.now(UTC),
        reason=options.reason,
        dry_run=options.dry_run,
    )


def _run_there(runs: Runs, request: ScaleRequest, warrant: str) -> tuple[Ending, str]:
    run_id = runs.start_scale(request, warrant=warrant)
    url = runs.run_url(run_id)
    try:
        message = _follow(runs, run_id, request, url)
    except KeyboardInterrupt:
        say("cancelling; what is half made is undone (Ctrl-C again: stop waiting)")
        runs.cancel(run_id)
        *_, last = runs.follow(run_id)
        return Ending(runs.result(run_id), last.message, interrupted=True), url
    except Unavailable:
        # Nobody has begun it; a runner that comes back must not do in an hour what was asked for now.
        with suppress(ForkyardError):
            runs.cancel(run_id)
        raise
    return Ending(runs.result(run_id), message), url


def _follow(runs: Runs, run_id: str, request: ScaleRequest, url: str) -> str:
    from cli.progress import showing  # noqa: PLC0415 - the run is created first, the eye comes after
    from flows.events import RunEvents, listening  # noqa: PLC0415 - as well

    say(f"{request.service}: to {request.target}; look at {url}")
    message, news = "", Event()

    def hear(of: str) -> None:
        if of == run_id:
            news.set()

    with listening(RunEvents(runs.api_url), hear), showing(request) as show:
        for progress in runs.follow(run_id, news):
            show(progress)
            message = progress.message
    return message


def _run_here(settings: Settings, request: ScaleRequest, warrant: str, *, asked_for: bool) -> Ending:
    why = "as asked" if asked_for else f"Prefect at {settings.prefect.api_url} does not answer"
    say(f"{request.service}: to {request.target}, in this process ({why}); starting takes some seconds")
    from cli.in_process import scale_here  # noqa: PLC0415 - imports Prefect, which takes seconds

    report, error = scale_here(settings, request, warrant)
    if error is not None and not isinstance(error, (ForkyardError, KeyboardInterrupt)):
        raise error
    return Ending(report, str(report["message"]), interrupted=isinstance(error, KeyboardInterrupt))


def scale_shape(report: Report, url: str | None, seconds: float) -> dict[str, object]:
    """The JSON that `scale` ends with; its keys are kept stable."""
    return {
        "service": report["service"],
        "wanted": report["wanted"],
        "serving": report["serving"],
        "seconds": round(seconds, 3),
        "run_seconds": report["seconds"],
        "ok": report["ok"],
        "message": report["message"],
        "notes": list(report.get("notes", ())),
        "children": [{k: v for k, v in child.items() if k != "intervals"} for child in report["children"]],
        "request_id": report["request_id"],
        "run_url": url,
    }


def _judge(report: Report) -> int:
    if report["ok"]:
        return AS_ASKED
    return CAN_BE_MENDED if report.get("refused") else WENT_WRONG


def _observed_report(settings: Settings, request: ScaleRequest, message: str) -> Report:
    """Say what is there when the run could not: it crashed, or was killed."""
    from cli.shapes import child_shape  # noqa: PLC0415 - only then
    from forkyard.phases import observe_fleet  # noqa: PLC0415 - only then
    from forkyard.world import open_world  # noqa: PLC0415 - only then

    try:
        with open_world(settings, request.service) as world:
            fleet = observe_fleet(world)
    except ForkyardError as error:
        text = f"the run ended without a report ({message or 'no reason given'}), and the fleet cannot be seen: {error}"
        raise Unavailable(text) from error
    return {
        "service": request.service,
        "wanted": request.target,
        "serving": len(fleet.serving),
        "seconds": 0.0,
        # Even when it looks as asked: nobody vouches for it.
        "ok": False,
        "message": f"the run left no report: {message or 'no reason given'}. Run `forkyard reap`, then ask again.",
        "children": [child_shape(child) for child in fleet.children],
        "request_id": request.id,
    }
