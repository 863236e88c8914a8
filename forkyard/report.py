"""
What one request did, as a value; and that value as markdown, as a table and as JSON.

Pure but for `Journal`, which threads write while the request is at work. Seconds count from the request's start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from threading import Lock
from typing import Any, cast

from forkyard.model import LeaseHolder, Phase, ScalePlan

UP = (Phase.FORKED, Phase.IDENTIFIED, Phase.REGISTERED, Phase.READY, Phase.SERVING)
"""The stages of a child that is made, in their order."""

DOWN = (Phase.DRAINING, Phase.RETIRED)
"""The stages of one that goes."""

STAGES = (*UP, *DOWN)
"""The phases in which time is spent, in their order."""


_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Interval:
    """The way of one child into one phase."""

    phase: Phase
    start: float
    end: float
    ok: bool = True


@dataclass(frozen=True, slots=True)
class ChildReport:
    """What became of one child."""

    name: str
    phase: Phase
    """Where it is at the end; FAILED only if it is still there."""
    address: str | None = None
    parent: str | None = None
    host: str | None = None
    pid: int | None = None
    fork_id: str | None = None
    pss_bytes: int | None = None
    """Memory of its VM's process at the last look, where the hypervisor can tell."""
    intervals: tuple[Interval, ...] = ()
    error: str | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each phase took."""
        return {i.phase.value: round(i.end - i.start, 3) for i in self.intervals}


@dataclass(frozen=True, slots=True)
class Report:
    """What one request did, and what is there now."""

    service: str
    request_id: str
    wanted: int
    before: int | None
    """Children that counted when the request began; None: it ended before anybody looked."""
    serving: int | None
    """Children that serve now, as observed at the end; None: nobody could look."""
    seconds: float
    ok: bool
    message: str
    children: tuple[ChildReport, ...]
    """The service's children that are there now, and those that this request made or removed."""
    notes: tuple[str, ...] = ()
    requested_by: str = ""
    reason: str = ""
    dry_run: bool = False
    refused: bool = False
    """Whether the request itself was wrong, so that the person who asked can mend it."""
    run_url: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something could not be done to one child."""

    text: str
    mendable: bool = False
    """Whether a person can mend it."""


class Journal:
    """Who is on the way into which phase since when; written by many threads."""

    def __init__(self, started: datetime) -> None:
        """Count seconds from *started*."""
        self.started = started
        self._lock = Lock()
        self._open: dict[tuple[str, Phase], float] = {}
        self._done: dict[str, list[Interval]] = {}
        self._failures: dict[str, Failure] = {}
        self._remarks: list[str] = []
        self._plan: ScalePlan | None = None
        self.waits_for: LeaseHolder | None = None
        """Who changes the service while this request waits for that."""

    def begin(self, name: str, phase: Phase, at: datetime) -> None:
        """Note that the child sets out for *phase*."""
        with self._lock:
            self._open[name, phase] = (at - self.started).total_seconds()

    def end(self, name: str, phase: Phase, seconds: float, error: str | None, *, mendable: bool = False) -> None:
        """Note that it arrived, or why it did not."""
        with self._lock:
            start = self._open.pop((name, phase))
            self._done.setdefault(name, []).append(Interval(phase, start, start + seconds, error is None))
        if error is not None:
            self.failed(name, error, mendable=mendable)

    def failed(self, name: str, error: str, *, mendable: bool = False) -> None:
        """Note what could not be done to the child; of several the last one stands."""
        with self._lock:
            self._failures[name] = Failure(error, mendable)

    def planned(self, plan: ScalePlan) -> None:
        """Note the plan; the first one's figures are the report's."""
        with self._lock:
            self._plan = self._plan or plan

    @property
    def plan(self) -> ScalePlan | None:
        """The first plan."""
        return self._plan

    def remark(self, text: str) -> None:
        """Note something about the request as a whole, for its report."""
        with self._lock:
            self._remarks.append(text)

    def remarks(self) -> tuple[str, ...]:
        """What was remarked, each once."""
        with self._lock:
            return tuple(dict.fromkeys(self._remarks))

    def intervals(self) -> dict[str, tuple[Interval, ...]]:
        """What is done, by child."""
        with self._lock:
            return {name: tuple(done) for name, done in self._done.items()}

    def failures(self) -> dict[str, Failure]:
        """Each child's last failure."""
        with self._lock:
            return dict(self._failures)


def report_to_json(report: Report) -> dict[str, object]:
    """The report as a JSON object, with seconds per phase for each child."""
    children = [asdict(child) | {"seconds": child.seconds} for child in report.children]
    return {**asdict(replace(report, children=())), "children": children}


def report_from_json(message: Mapping[str, object]) -> Report:
    """The report in a JSON object that `report_to_json` made; raises TypeError, KeyError or ValueError for others."""
    fields = dict(message)
    children = fields.pop("children")
    notes = fields.pop("notes", ())
    if not isinstance(children, list) or not isinstance(notes, list | tuple):
        text = "a report's children and notes are lists"
        raise TypeError(text)
    return Report(children=tuple(_child(child) for child in children), notes=tuple(notes), **fields)  # type: ignore[arg-type]


def _child(fields: dict[str, object]) -> ChildReport:
    known = {key: value for key, value in fields.items() if key not in {"seconds", "intervals", "phase"}}
    intervals = fields["intervals"]
    if not isinstance(intervals, list | tuple):
        text = "a child's intervals are a list"
        raise TypeError(text)
    found = tuple(_interval(interval) for interval in cast("Sequence[dict[str, Any]]", intervals))
    return ChildReport(phase=Phase(str(fields["phase"])), intervals=found, **known)  # type: ignore[arg-type]


def _interval(fields: dict[str, Any]) -> Interval:
    return Interval(Phase(fields["phase"]), fields["start"], fields["end"], fields.get("ok", True))


def make_rows(report: Report) -> list[dict[str, object]]:
    """One row per child for a table: what it is, where it is, and seconds per phase."""
    used = [phase for phase in STAGES if any(phase.value in child.seconds for child in report.children)]
    measured = any(child.pss_bytes is not None for child in report.children)
    return [_row(child, used, measured=measured) for child in report.children]


def _row(child: ChildReport, used: Sequence[Phase], *, measured: bool) -> dict[str, object]:
    row: dict[str, object] = {"child": child.name, "phase": child.phase.value, "address": child.address or ""}
    seconds = child.seconds
    row |= {f"{phase.value} s": _round(seconds.get(phase.value)) for phase in used}
    if measured:
        row |= {"memory MiB": "" if child.pss_bytes is None else round(child.pss_bytes / _MIB)}
    return row | {"note": child.error or ""}


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)


def render_markdown(report: Report) -> str:
    """The report as a page for a person."""
    asked = f" by {report.requested_by}" if report.requested_by else ""
    before = _known(report.before)
    lines = [
        f"# {report.service}: {report.message}",
        "",
        (
            f"Asked for **{report.wanted}**{asked}{f' ({report.reason})' if report.reason else ''}; "
            f"there were {before}; now **{_known(report.serving)}** serve, after {report.seconds:.1f} s."
        ),
        *(f"\n- {note}" for note in report.notes),
        "",
        *_table(make_rows(report)),
        "",
        f"Request `{report.request_id}`{', a dry run: nothing was changed' if report.dry_run else ''}.",
    ]
    return "\n".join(lines)


def _table(rows: list[dict[str, object]]) -> list[str]:
    if not rows:
        return ["No children."]
    head = list(rows[0])
    body = ["| " + " | ".join(_cell(row[key]) for key in head) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *body]


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _round(value: float | None) -> float | str:
    return "" if value is None else round(value, 2)


__all__ = [
    "DOWN",
    "STAGES",
    "UP",
    "ChildReport",
    "Failure",
    "Interval",
    "Journal",
    "Report",
    "make_rows",
    "render_markdown",
    "report_from_json",
    "report_to_json",
]
