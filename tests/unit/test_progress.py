"""What a person sees of a run at its end."""

from typing import Any

import pytest

from cli.progress import show_report


def a_report(message: str = "3 of 3 serving", *, children: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"service": "game", "message": message, "ok": True, "children": children}


def test_a_message_that_names_its_service_is_not_told_with_the_name_twice(capsys: pytest.CaptureFixture[str]) -> None:
    show_report(a_report("game: is locked"), None, 0.7)
    assert capsys.readouterr().out == "game: is locked (0.7 s)\n"
