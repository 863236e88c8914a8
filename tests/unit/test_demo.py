import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from forkyard.model import Phase
from forkyard.report import ChildReport, Interval, Report, report_to_json
from forkyard.settings import Settings
from lab.demo import Demo, draw_picture, render_page

LAB: dict[str, Any] = {
    "load_balancer": "http://127.0.0.1:18080",
    "consul": "http://127.0.0.1:18500",
    "prefect": "http://127.0.0.1:14200",
    "slack": {"page": "http://127.0.0.1:14300/"},
}
SECONDS = {"forked": 0.41, "identified": 1.2, "registered": 3.75, "ready": 1.0, "serving": 0.2}
NAMES = [f"game-3fa2b1-{n}" for n in range(1, 5)]
CHILDREN = [{"name": name, "address": f"10.77.1.{n}", "seconds": SECONDS} for n, name in enumerate(NAMES, 1)]
DEMO = Demo(
    service="game",
    wanted=4,
    seconds=11.82,
    children=CHILDREN,
    answers=dict.fromkeys(NAMES, 2),
    lab=LAB,
    run_url="http://127.0.0.1:14200/runs/flow-run/0192d8a1-5f6b-7c1e-9a44-0123456789ab",
    picture=Path("/var/lib/forkyard/demo/game-timeline.svg"),
)


def test_the_page_tells_of_every_child_and_fits_80_columns_but_for_addresses() -> None:
    page = render_page(DEMO)
    lines = page.splitlines()
    assert lines[0] == "game: 4 children answer players, 11.8 s after the command"
    assert all(any(name in line and "3.75" in line for line in lines) for name in NAMES)
    assert [line for line in lines if len(line) > 80 and "://" not in line] == []


def test_the_page_says_how_to_go_on_and_how_to_stop() -> None:
    page = render_page(DEMO)
    assert "forkyard scale game --to 8" in page
    assert "make down" in page
    assert LAB["load_balancer"] in page
    assert str(DEMO.run_url) in page


def test_a_fleet_that_was_there_before_has_no_seconds() -> None:
    assert "they were there already" in render_page(replace(DEMO, seconds=None))


def test_the_picture_is_of_the_last_request_that_did_something(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert draw_picture(settings, "game") is None
    records = tmp_path / "reports" / "game"
    records.mkdir(parents=True)
    (records / "broken.json").write_text("{")
    child = ChildReport("game-3fa2b1-1", Phase.SERVING, intervals=(Interval(Phase.FORKED, 0, 0.4),))
    report = Report("game", "3fa2b1", 1, 0, 1, 2.0, ok=True, message="1 serves", children=(child,))
    (records / "good.json").write_text(json.dumps(report_to_json(report)))
    picture = draw_picture(settings, "game")
    assert picture is not None
    assert "game-3fa2b1-1" in picture.read_text()
