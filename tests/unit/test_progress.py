"""What a person sees of a run at its end."""

from typing import Any

import pytest

from cli.progress import show_report


def a_report(message: str = "3 of 3 serving", *, children: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"service": "game", "message": message, "ok": True, "children": children}


def test_a_message_that_names_its_service_is_not_told_with_the_name_twice(capsys: pytest.CaptureFixture[str]) -> None:
    show_report(a_report("game: is locked"), None, 0.7)
    assert capsys.readouterr().out == "game: is locked (0.7 s)\n"


COMING = ("forked", "identified", "registered", "ready", "serving")


def a_child(name: str, phase: str, *phases: str) -> dict[str, Any]:
    return {"name": name, "phase": phase, "seconds": dict.fromkeys(phases, 12.3), "pss_bytes": 1220 << 20}


def test_a_narrow_table_does_not_wrap_what_stands_above_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    show_report(a_report(children=(a_child("game-b773cb-2", "serving"),)), None, 0.7)
    assert capsys.readouterr().out.startswith("game: 3 of 3 serving (0.7 s)\nchild ")


def test_children_that_come_and_go_in_one_run_keep_whole_headings_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    came = a_child("game-b773cb-12", "serving", *COMING)
    went = a_child("game-5f4beb-12", "draining", "draining", "retired")
    show_report(a_report(children=(came, went)), None, 0.7)
    _, heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["child", "phase", *COMING, "MiB"]
    assert [row.split()[:2] for row in rows] == [["game-b773cb-12", "serving"], ["game-5f4beb-12", "draining"]]


def test_children_that_only_go_show_how_long_that_took(capsys: pytest.CaptureFixture[str]) -> None:
    show_report(a_report(children=(a_child("game-5f4beb-2", "retired", "draining", "retired"),)), None, 0.7)
    assert capsys.readouterr().out.splitlines()[1].split() == ["child", "phase", "draining", "retired", "MiB"]
