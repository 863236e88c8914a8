"""
`forkyard doctor`: look at everything that a scale needs, and say of each finding what to do next.

A check looks and judges; it changes nothing, raises nothing, and takes a few seconds at the most.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from cli.output import emit, make_console
from forkyard.errors import ForkyardError, InvalidRequest
from forkyard.settings import Settings, find_config, load_settings


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    state: State
    detail: str
    next_step: str = ""


Check = Callable[[Settings], Iterable[Finding]]

_COLOURS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red"}


def passed(name: str, detail: str) -> Finding:
    """A check that is content."""
    return Finding(name, State.OK, detail)


def warned(name: str, detail: str, next_step: str) -> Finding:
    """A check that found what works, but not as well as it could."""
    return Finding(name, State.WARN, detail, next_step)


def failed(name: str, detail: str, next_step: str) -> Finding:
    """A check that found what keeps a scale from working."""
    return Finding(name, State.FAIL, detail, next_step)


def run_doctor(config: Path | None, *, as_json: bool) -> int:
    """Make all checks; code 0 unless one failed."""
    findings = list(_diagnose(config))
    worst = [finding for finding in findings if finding.state is State.FAIL]
    if as_json:
        emit({"healthy": not worst, "checks": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
    return 2 if worst else 0


def _diagnose(config: Path | None) -> Iterable[Finding]:
    from cli.lab_checks import LAB_CHECKS  # noqa: PLC0415 - the checks import this module's words
    from cli.machine_checks import MACHINE_CHECKS  # noqa: PLC0415 - as above
    from cli.request_checks import check_calendar, check_key  # noqa: PLC0415 - as above

    try:
        settings = load_settings(config)
    except InvalidRequest as error:
        yield failed("forkyard.toml", str(error), "Mend the file, then run `forkyard doctor` again.")
        settings = Settings()  # the machine can be judged all the same
        checks: tuple[Check, ...] = MACHINE_CHECKS
    else:
        services = ", ".join(sorted(settings.services))
        found = find_config(config)
        if services:
            yield passed("forkyard.toml", f"{found}: {services}")
        else:
            yield failed("forkyard.toml", f"{found} has no service", "Add a table such as [services.game].")
        calendar = partial(check_calendar, config=config)
        checks = (*MACHINE_CHECKS, *LAB_CHECKS, check_key, calendar)
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="check") as pool:
        for findings in pool.map(lambda check: _guarded(check, settings), checks):
            yield from findings


def _guarded(check: Check, settings: Settings) -> list[Finding]:
    name = getattr(check, "__name__", "check").removeprefix("check_").replace("_", " ")
    try:
        return list(check(settings))
    except ForkyardError as error:
        return [failed(name, str(error), "See the message.")]
    except Exception as error:  # noqa: BLE001 - a doctor that dies of one organ says nothing of the others
        return [failed(name, f"the check itself broke: {type(error).__name__}: {error}", "This is a bug in forkyard.")]


def _show(findings: list[Finding]) -> None:
    from rich.table import Table  # noqa: PLC0415 - only for people

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        colour = _COLOURS[finding.state]
        table.add_row(f"[{colour}]{finding.state.value}[/{colour}]", finding.name, _escape(finding.detail))
        if finding.next_step:
            table.add_row("", "", f"[dim]->[/dim] {_escape(finding.next_step)}")
    console = make_console()
    console.print(table)
    counts = {state: sum(finding.state is state for finding in findings) for state in State}
    console.print(f"\n{counts[State.OK]} ok, {counts[State.WARN]} warnings, {counts[State.FAIL]} failed")


def _escape(text: str) -> str:
    # Brackets in a message (a TOML table's name) are not markup.
    return text.replace("[", "\\[")
