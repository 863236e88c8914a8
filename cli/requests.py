"""
Requests at the command line: ask, approve, deny, cancel, retry, roll back, lock, and read the log.

The same desk as in Slack. Who may read the key's file (root on this machine) needs no role here, is named `local:NAME`
in the log, and still needs another person for what is large, or a reason for break-glass.
"""

import getpass
import os
import pwd
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cli.failures import CAN_BE_MENDED
from cli.output import emit, make_console, say
from flows.runs import Runs
from forkyard.commands import Amount, Approve, Cancel, Deny, Lock, Scale, Unlock
from forkyard.decisions import judge_approver
from forkyard.errors import ForkyardError, InvalidRequest, PermanentError, RequestError, TransientError
from forkyard.model import LeaseHolder
from forkyard.moments import When, read_duration, read_when
from forkyard.requests import Request, State
from forkyard.requests.audit import Logged, render
from forkyard.requests.desk import Desk
from forkyard.requests.looking import learn_from, plan_now
from forkyard.requests.plans import PlanRecord, find_drift
from forkyard.requests.starting import cancel_run, drop_unwanted, settle_ended, start_due
from forkyard.requests.store import Store, open_store
from forkyard.roles import LOCAL, Person
from forkyard.settings import Settings, load_settings
from forkyard.world import open_world

_MOST = 200
"""Lines of the log at once."""

_SHORTLY = timedelta(seconds=5)
"""How long a server is asked for what is only a courtesy."""


@contextmanager
def open_desk(config: Path | None) -> Iterator[tuple[Desk, Settings]]:
    """Open the store and sit down at the desk."""
    settings = load_settings(config)
    with open_store(settings) as store:
        yield Desk(store, lambda: settings, lambda now, request: _look(store, now, request)), settings


def _look(store: Store, settings: Settings, request: Request) -> PlanRecord:
    return plan_now(settings, request, runs=learn_from(store, request.service))


def find_person() -> Person:
    """Who sits at this terminal: the one who became root, where sudo says so."""
    # The kernel's word, not SUDO_USER, which anybody sets; root may claim any name, which the log cannot help.
    try:
        login = os.getlogin()
    except OSError:
        login = getpass.getuser()  # no terminal: a script, a timer
    try:
        pwd.getpwnam(login)
    except KeyError:
        login = getpass.getuser()
    return Person(f"{LOCAL}{login}")


def run_ask(
    config: Path | None,
    service: str,
    target: int,
    *,
    at: str | None,
    hold: str | None,
    reason: str,
    as_json: bool,
) -> int:
    """Put a request on record that somebody has to approve; nothing is changed."""
    now = datetime.now(UTC)
    command = Scale(
        service,
        Amount(target),
        at=_read_time(at, now) if at else None,
        hold=read_duration(hold) if hold else None,
        reason=reason,
    )
    with open_desk(config) as (desk, _):
        asked, _ = desk.ask(find_person(), command, origin="cli", where="terminal")
        request = desk.plan(asked)
    return show_request(request, as_json=as_json)


def run_approve(config: Path | None, name: str, *, break_glass: str, as_json: bool) -> int:
    """Approve, and start what is due; code 2 when the fleet is not as it was planned on any more."""
    person = find_person()
    with open_desk(config) as (desk, settings):
        stale = _find_stale(desk, settings, person, desk.store.find(name), break_glass)
        if stale is not None:
            planned = desk.plan(desk.store.find(name))
            ask = " The new plan must be approved again." if planned.state is State.AWAITING else ""
            say(f"{planned.token}: not approved, but planned again: {stale}.{ask}")
            show_request(planned, as_json=as_json)
            return CAN_BE_MENDED
        request = desk.approve(
            person, name, break_glass=break_glass, where="terminal", raw=f"{Approve(name, break_glass)}"
        )
        runs = Runs(settings.prefect.api_url)
        try:
            start_runs(desk, runs, wanted=request.id)
        except TransientError:
            say(f"{request.token}: approved; it begins when Prefect answers, or never: forkyard cancel {request.token}")
            raise
        if request.kind == "retry":
            # With it the steps are taken back of what it repeats.
            drop_runs(desk, settings)
        request = desk.store.get(request.id)
        if request.run_id is not None:
            say(f"{request.token}: look at {runs.run_url(request.run_id)}")
    return show_request(request, as_json=as_json)


def _find_stale(desk: Desk, settings: Settings, person: Person, request: Request, break_glass: str) -> str | None:
    """Why the gate would send the request back at once if it were approved; None: it would not, or nobody can see."""
    try:
        judge_approver(settings.chatops, request, person, now=desk.store.now(), break_glass=break_glass)
    except RequestError:
        return None  # the desk refuses it, and puts that on record
    if request.plan is None or request.start_at is not None or request.service in desk.store.locks():
        return None  # what starts later is planned again before it does
    try:
        return find_drift(request.plan, desk.look(request), tolerance=settings.requests.drift)
    except TransientError:
        return None  # the run looks itself
    except (RequestError, PermanentError) as error:
        return str(error).rstrip(".")


def run_deny(config: Path | None, name: str, reason: str, *, as_json: bool) -> int:
    """Deny."""
    with open_desk(config) as (desk, _):
        return show_request(
            desk.deny(find_person(), name, reason, where="terminal", raw=f"{Deny(name, reason)}"), as_json=as_json
        )


def run_cancel(config: Path | None, name: str, *, as_json: bool) -> int:
    """Take a request back; a run that it has is cancelled, and one that cannot be is an error (Unsupported)."""
    with open_desk(config) as (desk, settings):
        request = desk.cancel(find_person(), name, where="terminal", raw=f"{Cancel(name)}")
        if request.state is State.RUNNING:
            cancel_run(Runs(settings.prefect.api_url), request, lambda service: find_holder(settings, service))
            say(f"{request.token}: its run was asked to end, and undoes what is half made; see: forkyard status")
        elif any(row.run_id for row in (request, *desk.store.list_requests(parent=request.id))):
            drop_runs(desk, settings)
        return show_request(request, as_json=as_json)


def start_runs(desk: Desk, runs: Runs, *, wanted: str | None = None) -> list[Request]:
    """Start what is due; raises the first error when one of them, or the one that is *wanted*, could not be started."""
    started = start_due(desk, runs)
    errors = [error for row, error in started.failed if wanted in {None, row.id} or error is started.away]
    for row, error in started.failed:
        if wanted is None or error not in errors:
            say(f"{row.token}: no run yet: {error}")
    if errors:
        raise errors[0]
    return started.rows


def find_holder(settings: Settings, service: str) -> LeaseHolder | None:
    """Who holds the service's lease; raises ForkyardError when that cannot be asked."""
    with open_world(settings, service) as world:
        return world.registry.holder(service)


def drop_runs(desk: Desk, settings: Settings) -> None:
    """Take back the runs ahead that no request waits for; without Prefect they are left, and refused by the gate."""
    try:
        drop_unwanted(desk, Runs(settings.prefect.api_url, timeout=_SHORTLY, busy=_SHORTLY))
    except ForkyardError as error:
        say(f"runs that nobody wants any more may still be seen ahead; none of them would change anything: {error}")


def run_again(config: Path | None, name: str, *, back: bool, as_json: bool) -> int:
    """Retry, or roll back: a new request, planned and waiting for approval."""
    with open_desk(config) as (desk, _):
        again = desk.rollback if back else desk.retry
        asked, _ = again(find_person(), name, where="terminal")
        return show_request(desk.plan(asked), as_json=as_json)


def run_lock(config: Path | None, service: str, reason: str, *, as_json: bool) -> int:
    """Lock a service."""
    with open_desk(config) as (desk, _):
        lock = desk.lock(find_person(), service, reason, where="terminal", raw=f"{Lock(service, reason)}")
    return _answer(
        {"service": service, "locked_by": lock.who, "reason": lock.reason, "since": lock.since.isoformat()},
        f"{service}: locked. Unlock it with: forkyard unlock {service}",
        as_json=as_json,
    )


def run_unlock(config: Path | None, service: str, *, as_json: bool) -> int:
    """Unlock it."""
    with open_desk(config) as (desk, _):
        desk.unlock(find_person(), service, where="terminal", raw=f"{Unlock(service)}")
    return _answer({"service": service, "locked_by": None}, f"{service}: unlocked.", as_json=as_json)


def run_log(config: Path | None, about: str | None, since: str | None, *, as_json: bool) -> int:
    """Read the audit log."""
    begin = datetime.now(UTC) - read_duration(since) if since else None
    with open_desk(config) as (desk, settings):
        runs = Runs(settings.prefect.api_url)
        if runs.is_up():
            settle_ended(desk, runs)
        found = desk.store.read_log(about=about, since=begin, limit=_MOST)
    if as_json:
        emit({"entries": [log_shape(logged) for logged in found]})
        return 0
    console = make_console()
    for line in render(found) or ["Nothing is in the log of this."]:
        console.print(line, markup=False, soft_wrap=True)
    return 0


def run_verify(config: Path | None, expected: str | None, *, as_json: bool) -> int:
    """Prove the audit log whole; code 1 when it is not."""
    with open_desk(config) as (desk, _):
        verdict = desk.store.verify_log(expected=expected)
    shape = {"whole": verdict.whole, "entries": verdict.entries, "head": verdict.head, "problem": verdict.problem}
    text = f"The audit log is whole: {verdict.entries} entries. Its head, to be noted elsewhere: {verdict.head}"
    if not verdict.whole:
        text = f"The audit log is NOT whole: {verdict.problem}. Keep the database as it is; look who could write to it."
    _answer(shape, text, as_json=as_json)
    return 0 if verdict.whole else 1


def run_whoami(config: Path | None, *, as_json: bool) -> int:
    """Say who acts here."""
    person = find_person()
    with open_desk(config):
        pass  # opens the key: who cannot read it is told so
    text = f"{person.id}: may do everything here, because you can read the key. Roles count in Slack."
    return _answer({"id": person.id, "roles": ["*"]}, text, as_json=as_json)


def log_shape(logged: Logged) -> dict[str, object]:
    """One entry for a script."""
    entry = logged.entry
    return {
        "seq": logged.seq,
        "at": logged.at.isoformat(),
        "who": entry.who,
        "where": entry.where,
        "action": entry.action,
        "request_id": entry.request_id,
        "service": entry.service,
        "raw": entry.raw,
        "plan_hash": entry.plan_hash,
        "decision": entry.decision,
        "run_id": entry.run_id,
        "detail": entry.detail,
        "hash": logged.hash,
    }


def request_shape(request: Request) -> dict[str, object]:
    """One request for a script; keys are kept stable."""
    plan = request.plan
    return {
        "id": request.id,
        "token": request.token,
        "state": request.state.value,
        "service": request.service,
        "target": request.target,
        "requested_by": request.requested_by,
        "reason": request.reason,
        "start_at": request.start_at.isoformat() if request.start_at else None,
        "now": plan.current if plan else None,
        "then": plan.target if plan else None,
        "forks": plan.forks if plan else None,
        "retires": plan.retires if plan else None,
        "later": [[at.isoformat(), number] for at, number in plan.later] if plan else [],
        "plan_hash": request.plan_hash,
        "plan_expires": request.plan_expires.isoformat() if request.plan_expires else None,
        "needs": request.need.value if request.need else None,
        "why": request.need_why,
        "run_id": request.run_id,
        "error": request.error,
    }


def render_request(request: Request) -> Sequence[str]:
    """A request for a person: what it is, where it is, and the next command."""
    plan, token = request.plan, request.token
    lines = [f"{token}: {request.service} to {request.target}: {request.state.value}"]
    if plan is not None and not request.unplanned and request.open:
        lines.append(f"  now {plan.current}, then {plan.target}: {plan.forks} to fork, {plan.retires} to retire")
        lines.extend(f"  {place.host}: {place.forks} more, room for {place.room_after} after" for place in plan.places)
        lines.extend(f"  {note}" for note in plan.notes)
        lines.extend(f"  at {at:%Y-%m-%d %H:%M} UTC to {number}" for at, number in plan.later)
        if plan.expected_seconds:
            lines.append(f"  it will take about {plan.expected_seconds:.0f} s")
    if request.start_at is not None and request.open:
        lines.append(f"  begins at {When(request.start_at, request.zone)}, {request.start_at:%Y-%m-%d %H:%M} UTC")
    if plan is not None and plan.idle and request.result is None and request.state is State.SUCCEEDED:
        lines.append("  nothing to do: the fleet is as asked")
    if request.error:
        lines.append(f"  {request.error}")
    if request.state is State.AWAITING and request.need is not None:
        lines.append(f"  needs {request.need.value}'s approval: {request.need_why}")
        lines.append(f"  next: forkyard approve {token}, or: forkyard cancel {token}")
    return lines


def show_request(request: Request, *, as_json: bool) -> int:
    """Show a request; code 2 when it failed."""
    _answer(request_shape(request), "\n".join(render_request(request)), as_json=as_json)
    return 0 if request.state is not State.FAILED else 2


def _answer(shape: dict[str, object], text: str, *, as_json: bool) -> int:
    if as_json:
        emit(shape)
    else:
        make_console().print(text, markup=False, soft_wrap=True)
    return 0


def _read_time(text: str, now: datetime) -> When:
    try:
        return read_when(text.split(), now, local_zone())
    except InvalidRequest as error:
        message = f"--at {error}"
        raise InvalidRequest(message) from error


def local_zone() -> str:
    """The zone of this machine's clocks, as far as it says."""
    link = Path("/etc/localtime")
    name = str(link.resolve()).partition("zoneinfo/")[2] if link.is_symlink() else ""
    return name if name not in {"", "Etc/UTC", "UTC"} else "Z"
