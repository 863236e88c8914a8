"""`forkyard scale` against a Prefect API: what it starts, what it shows, how it ends."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.scale import carry_out
from forkyard.errors import Unavailable
from forkyard.requests import Entry, ServiceLock
from forkyard.requests.store import open_store
from forkyard.settings import CONFIG_VARIABLE, PrefectSettings, Settings
from tests.support.fleets import a_request
from tests.support.prefect_api import RUN, Script, scripted_api

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"prefect", "httpx", "sqlalchemy", "rich", "consul", "docker", "pyroute2", "qemu", "pyVmomi", "slack_bolt"}
"""What a run of its own needs, and the command that only asks for one does not."""


def result(*, ok: bool = True, refused: bool = False, message: str = "2 of 2 serving") -> dict[str, Any]:
    child = {
        "name": "game-aaaaaa-1",
        "phase": "serving",
        "address": "10.77.1.1",
        "parent": "game",
        "host": "here",
        "pid": 7,
        "fork_id": "f",
        "pss_bytes": 220 << 20,
        "error": None,
        "seconds": {"forked": 0.4, "serving": 1.5},
        "intervals": [{"phase": "forked", "start": 0.0, "end": 0.4, "ok": True}],
    }
    return {
        "service": "game",
        "request_id": "r",
        "wanted": 2,
        "before": 0,
        "serving": 2 if ok else 0,
        "seconds": 3.5,
        "ok": ok,
        "refused": refused,
        "message": message,
        "notes": ["a note"],
        "children": [child],
    }


def start(api: str, directory: Path, *arguments: str, imports: bool = False) -> subprocess.Popen[str]:
    config = directory / "forkyard.toml"
    config.write_text(
        f'state_dir = "{directory}/state"\nprefect.api_url = "{api}"\nconsul.url = "http://127.0.0.1:1"\n[services.game]\n'
    )
    environment = {key: value for key, value in os.environ.items() if key != CONFIG_VARIABLE}  # noqa: TID251
    return subprocess.Popen(
        [
            sys.executable,
            *(["-X", "importtime"] if imports else []),
            "-m",
            "cli.main",
            "--config",
            str(config),
            "scale",
            "game",
            *arguments,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment | {"COLUMNS": "80"},
    )


def run(script: Script, directory: Path, *arguments: str, imports: bool = False) -> tuple[int, str, str]:
    with scripted_api(script) as api, start(api, directory, *arguments, imports=imports) as process:
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, out, err


def test_a_run_that_did_what_was_asked_ends_with_its_object(tmp_path: Path) -> None:
    script = Script(result=result())
    code, out, err = run(script, tmp_path, "--to", "2", "--because", "pre-sale", "--json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["wanted"], answer["serving"]) == (2, 2)
    assert answer["run_url"].endswith(f"/runs/flow-run/{RUN}")
    assert answer["children"][0]["seconds"] == {"forked": 0.4, "serving": 1.5}
    assert answer["children"][0]["pss_bytes"] == 220 << 20
    assert answer["seconds"] > 0
    assert (script.parameters["target"], script.parameters["reason"]) == (2, "pre-sale")
    assert "game: forked 1 of 2\n" in err
    assert "look at http://127.0.0.1:" in err


def test_a_person_sees_a_table_that_fits_80_columns(tmp_path: Path) -> None:
    code, out, _ = run(Script(result=result()), tmp_path, "--to", "2")
    assert code == 0
    assert "game-aaaaaa-1" in out
    assert out.index("MiB") < out.index(" 220\n")
    assert "a note" in out
    assert all(len(line) <= 80 for line in out.splitlines() if "http" not in line)


def test_a_locked_service_is_told_before_any_run_is_started(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    with open_store(settings) as store:
        store.lock(ServiceLock("game", "local:ann", "audit", datetime.now(UTC)), Entry(who="local:ann", action="lock"))
    script = Script(result=result())
    code, out, err = run(script, tmp_path, "--to", "2")
    assert (code, out, script.parameters) == (2, "", {})
    assert err.startswith("forkyard: game: is locked by local:ann since ")
    assert err.endswith(": audit. When it is over: unlock game\n")
    with open_store(settings) as store:
        assert store.read_log(about="game")[-1].entry.decision == "refused"


def test_what_a_run_wrote_down_is_kept_for_status(tmp_path: Path) -> None:
    run(Script(result=result()), tmp_path, "--to", "2")
    (record,) = (tmp_path / "state" / "reports" / "game").glob("*.json")
    assert json.loads(record.read_text())["children"][0]["name"] == "game-aaaaaa-1"


@pytest.mark.parametrize(("refused", "code"), [(True, 2), (False, 1)])
def test_a_fleet_that_is_not_as_asked_is_no_success(tmp_path: Path, refused: bool, code: int) -> None:  # noqa: FBT001
    script = Script(
        states=("RUNNING", "FAILED"), result=result(ok=False, refused=refused, message="game: no memory is left")
    )
    ended, out, err = run(script, tmp_path, "--to", "2", "--json")
    assert ended == code
    assert json.loads(out)["ok"] is False
    assert err.endswith("forkyard: game: no memory is left\n")


def test_a_run_that_crashed_without_a_report_is_told_with_what_to_do(tmp_path: Path) -> None:
    code, out, err = run(Script(states=("RUNNING", "CRASHED"), message="killed"), tmp_path, "--to", "2", "--json")
    assert code == 1
    assert "without a report (killed)" in err
    assert json.loads(out)["exit_code"] == 1


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_cancels_the_run_and_waits_for_its_end(tmp_path: Path, sign: signal.Signals) -> None:
    script = Script(states=("RUNNING",), result=result(ok=False, message="stopped"))
    with scripted_api(script) as api, start(api, tmp_path, "--to", "2", "--json") as process:
        assert script.running.wait(30)
        process.send_signal(sign)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert script.cancelled.is_set()
    assert json.loads(out)["exit_code"] == 130
    assert "cancelling" in err


def test_a_run_that_nobody_begins_is_cancelled_so_that_it_does_not_begin_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.runs.UNSERVED", timedelta(seconds=1))
    script = Script(states=("SCHEDULED",), texts=("",))
    with scripted_api(script) as api, pytest.raises(Unavailable, match="forkyard lab up"):
        carry_out(Settings(prefect=PrefectSettings(api_url=api)), a_request(2))
    assert script.cancelled.is_set()


def test_a_deployment_that_is_not_registered_is_told_with_what_to_do(tmp_path: Path) -> None:
    class Bare(Script):
        def answer(self, verb: str, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
            if path == "/api/health":
                return super().answer(verb, path, body)
            raise KeyError(path)

    code, _, err = run(Bare(), tmp_path, "--to", "2")
    assert code == 2
    assert "forkyard lab up" in err


def test_a_direct_run_imports_nothing_heavy_before_it_begins_nor_afterwards(tmp_path: Path) -> None:
    # What costs the seconds is imports; how many there are in all is the bench's to say.
    code, _, err = run(Script(states=("COMPLETED",), result=result()), tmp_path, "--to", "2", "--json", imports=True)
    told = [line.rpartition("|")[2].strip() for line in err.splitlines() if line.startswith("import time:")]
    imported = {name.partition(".")[0] for name in told}
    assert code == 0
    assert {"cli", "flows", "typer"} <= imported
    assert not imported & HEAVY
