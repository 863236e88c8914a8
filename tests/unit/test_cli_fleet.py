"""The commands that look at a fleet or change it here, on a pretended world; their JSON is what scripts rely on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cli.fleet
import cli.in_process
import cli.reap
from cli.fleet import run_plan, run_status, run_watch
from cli.reap import run_reap
from cli.scale import ScaleOptions, run_scale
from forkyard.errors import Unavailable
from forkyard.history import write_history
from forkyard.settings import Settings, load_settings
from forkyard.world import World
from tests.flows.yard import Yard, make_yard

CHILD_KEYS = {"name", "address", "phase", "parent", "host", "pid", "pss_bytes", "seconds"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "forkyard.toml"
    path.write_text(
        f"""
        state_dir = "{tmp_path}/state"
        prefect.api_url = "http://127.0.0.1:1/api"
        [services.game]
        maximum = 8
        """
    )
    return path


@pytest.fixture
def yard(monkeypatch: pytest.MonkeyPatch) -> Yard:
    """A pretended world that every command opens instead of the one that its settings name."""
    yard = make_yard()

    @contextmanager
    def open_pretended(settings: Settings, service: str) -> Iterator[World]:
        settings.service(service)
        yield yard.world

    for module in (cli.fleet, cli.in_process, cli.reap):
        monkeypatch.setattr(module, "open_world", open_pretended)
    return yard


def say_json(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def game(answer: dict[str, object]) -> dict[str, object]:
    services = answer["services"]
    assert isinstance(services, dict)
    found = services["game"]
    assert isinstance(found, dict)
    return found


def options(target: int, *, as_json: bool = True, dry_run: bool = False) -> ScaleOptions:
    return ScaleOptions("game", target, dry_run=dry_run, reason="", yes=True, in_process=False, as_json=as_json)


def test_status_has_the_keys_that_scripts_rely_on(yard: Yard, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yard.scale(2)
    name = yard.names()[0]
    report = {"children": [{"name": name, "seconds": {"forked": 0.5}}]}
    write_history(load_settings(config), "game", "r", report)
    assert run_status(config, None, check=False, as_json=True) == 0
    found = game(say_json(capsys))
    assert (found["wanted"], found["serving"]) == (2, 2)
    children = found["children"]
    assert isinstance(children, list)
    assert all(set(child) >= CHILD_KEYS for child in children)
    assert children[0]["seconds"] == {"forked": 0.5}
    assert children[0]["phase"] == "serving"


def test_status_fits_80_columns(yard: Yard, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yard.scale(3)
    run_status(config, "game", check=False, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("game: 3 of 3 serving")
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert all(any(name in line for line in lines) for name in yard.names())


def test_status_can_be_asked_whether_all_is_well(yard: Yard, config: Path) -> None:
    yard.scale(2)
    assert run_status(config, None, check=True, as_json=True) == 0
    yard.fake.kill(yard.names()[0])
    assert run_status(config, None, check=True, as_json=True) == 1
    assert run_status(config, None, check=False, as_json=True) == 0


def test_children_of_an_nginx_that_does_not_run_serve_nobody(
    yard: Yard, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yard.scale(2)
    yard.fake.fail("check_running", Unavailable("no nginx runs. Start it."))
    assert run_status(config, None, check=True, as_json=True) == 1
    answer = game(say_json(capsys))
    assert (answer["serving"], answer["unserved"]) == (0, "no nginx runs. Start it.")
    assert run_status(config, None, check=False, as_json=False) == 0
    shown = capsys.readouterr().out
    assert "game: 0 of 2 serving" in shown
    assert "Nobody is served: no nginx runs. Start it." in shown


def test_the_status_of_a_dead_child_says_why_and_what_to_type(
    yard: Yard, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yard.scale(2)
    yard.fake.kill(yard.names()[0])
    run_status(config, None, check=False, as_json=False)
    shown = capsys.readouterr().out
    assert "1 failed: the VM's process is gone." in shown
    assert "Next: forkyard scale game --to 2" in shown


def test_a_plan_shows_each_place_before_and_after(yard: Yard, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yard.scale(1)
    assert run_plan(config, "game", 4, as_json=False) == 0
    shown = capsys.readouterr().out
    assert "game: 1 now, 4 wanted, 2000 allowed" in shown
    assert "+3" in shown
    assert "3 to fork" in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    assert run_plan(config, "game", 4, as_json=True) == 0
    assert say_json(capsys)["changes"] == {"fork": 3, "retire": 0, "remove": 0}


def test_a_dry_run_changes_nothing(yard: Yard, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_scale(config, options(3, dry_run=True)) == 0
    answer = say_json(capsys)
    assert {"wanted", "serving", "seconds", "children", "run_url"} <= answer.keys()
    assert yard.names() == []


def test_without_a_prefect_server_the_same_runbook_works_here(
    yard: Yard, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_scale(config, options(2)) == 0
    answer = say_json(capsys)
    assert (answer["wanted"], answer["serving"], answer["run_url"]) == (2, 2, None)
    children = answer["children"]
    assert isinstance(children, list)
    assert {"forked", "identified"} <= children[0]["seconds"].keys()
    assert len(yard.names()) == 2


def test_what_does_not_fit_is_the_persons_to_mend(yard: Yard, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yard.fake.capacity = 1
    assert run_scale(config, options(3)) == 2
    said = capsys.readouterr()
    assert "3 more children are needed and 1 fit" in said.err
    assert json.loads(said.out.splitlines()[-1])["exit_code"] == 2
    assert yard.names() == []


def test_reaping_says_what_was_found_and_removed(yard: Yard, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yard.scale(2)
    gone = yard.names()[0]
    yard.fake.kill(gone)
    assert run_reap(config, None, dry_run=True, as_json=True) == 1
    assert say_json(capsys)["clean"] is False
    assert run_reap(config, None, dry_run=False, as_json=True) == 0
    found = game(say_json(capsys))
    assert (found["found"], found["removed"], found["clean"]) == (1, 1, True)
    assert yard.names() != []
    assert gone not in yard.names()


def test_watching_tells_each_change_once(yard: Yard, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yard.scale(1)
    looks = 0

    class Interrupting(type(yard.world.registry)):  # type: ignore[misc]
        def registrations(self, service: str) -> object:
            nonlocal looks
            looks += 1
            if looks == 3:
                yard.fake.kill(yard.names()[0])
            if looks == 5:
                raise KeyboardInterrupt
            return super().registrations(service)

    yard.world = World(yard.world.settings, "game", yard.world.hypervisor, Interrupting(yard.fake), yard.world.balancer)
    assert run_watch(config, "game", every=0.01, as_json=False) == 0
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["game: 1 of 1 serving", "game: 0 of 1 serving, 1 failed"]
