"""A request's report as a page, a table and JSON."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from forkyard.model import Phase
from forkyard.report import ChildReport, Failure, Interval, Journal, Report, make_rows, render_markdown
from forkyard.report import report_from_json as read
from forkyard.report import report_to_json as write

START = datetime(2026, 1, 1, tzinfo=UTC)
REPORT = Report(
    service="game",
    request_id="r-1",
    wanted=2,
    before=0,
    serving=1,
    seconds=3.25,
    ok=False,
    message="1 of 2 serving",
    children=(
        ChildReport(
            "game-r-1",
            Phase.SERVING,
            address="10.0.0.1",
            pss_bytes=47 << 20,
            intervals=(Interval(Phase.FORKED, 0.0, 0.5), Interval(Phase.SERVING, 2.0, 2.25)),
        ),
        ChildReport("game-r-2", Phase.RETIRED, intervals=(Interval(Phase.FORKED, 0.0, 1.0, ok=False),), error="a|b"),
    ),
    notes=("a note",),
    requested_by="anna",
    reason="sale",
)


def test_json_and_back_is_the_same_report() -> None:
    assert read(json.loads(json.dumps(write(REPORT)))) == REPORT


def test_json_has_seconds_per_phase_for_each_child() -> None:
    children = write(REPORT)["children"]
    assert isinstance(children, list)
    assert children[0]["seconds"] == {"forked": 0.5, "serving": 0.25}


@pytest.mark.parametrize("broken", [{}, {"children": 3}, {"children": [{}]}])
def test_what_is_no_report_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises((TypeError, KeyError)):
        read(broken)


def test_the_table_has_a_column_for_each_phase_that_occurs() -> None:
    rows = make_rows(REPORT)
    assert list(rows[0]) == ["child", "phase", "address", "forked s", "serving s", "memory MiB", "note"]
    assert rows[1]["note"] == "a|b"
    assert [row["memory MiB"] for row in rows] == [47, ""]


def test_children_whose_memory_nobody_could_tell_have_no_column_for_it() -> None:
    rows = make_rows(replace(REPORT, children=(REPORT.children[1],)))
    assert "memory MiB" not in rows[0]


def test_the_page_says_who_asked_for_what_and_what_is_there() -> None:
    page = render_markdown(REPORT)
    for part in ("1 of 2 serving", "anna", "sale", "a note", "10.0.0.1", "r-1", r"a\|b"):
        assert part in page


def test_a_page_of_a_service_without_children_says_so() -> None:
    empty = Report("game", "r", 0, 0, 0, 0.1, ok=True, message="0 of 0 serving", children=())
    assert "No children." in render_markdown(empty)


def test_the_journal_keeps_who_came_how_far() -> None:
    journal = Journal(START)
    for name, error in (("a", None), ("b", "no")):
        journal.begin(name, Phase.FORKED, START + timedelta(seconds=1))
        journal.end(name, Phase.FORKED, 0.5, error)
    assert journal.failures() == {"b": Failure("no")}
    assert journal.intervals()["a"] == (Interval(Phase.FORKED, 1.0, 1.5),)


def test_a_remark_is_kept_once() -> None:
    journal = Journal(START)
    journal.remark("x")
    journal.remark("x")
    assert journal.remarks() == ("x",)
