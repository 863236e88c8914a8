"""The command line as scripts meet it: exit codes, what stands on stdout, and that it is quick."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.failures import exit_code, report_failure
from cli.lab_checks import name_parents
from forkyard.errors import (
    CapacityExhausted,
    CredentialsRejected,
    ForkyardError,
    InvalidRequest,
    LeaseHeld,
    NotFound,
    NotPermitted,
    NotReady,
    OutcomeUnknown,
    PermanentError,
    Unavailable,
    Unsupported,
    VerificationFailed,
)
from forkyard.model import FrozenParent, VmId
from forkyard.settings import CONFIG_VARIABLE

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, object]:
        """The one object on stdout."""
        answer = json.loads(self.stdout)
        assert isinstance(answer, dict)
        return answer


def forkyard(*arguments: str, config: Path | None = None) -> Answer:
    """Run the real command in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != CONFIG_VARIABLE}  # noqa: TID251
    if config is not None:
        environment[CONFIG_VARIABLE] = str(config)
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | {"COLUMNS": "80"},
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A configuration of which nothing runs: no Consul, no Nginx, no Prefect, no parent."""
    path = tmp_path / "forkyard.toml"
    path.write_text(
        f"""
        state_dir = "{tmp_path}/state"
        run_dir = "/tmp/forkyard-of-nobody"
        consul.url = "http://127.0.0.1:1"
        nginx.url = "http://127.0.0.1:1"
        nginx.directory = "{tmp_path}/nginx"
        nginx.namespace = ""
        qemu.namespace = ""
        prefect.api_url = "http://127.0.0.1:1/api"
        [lab]
        load_balancer_port = 2
        consul_port = 3
        prefect_port = 4
        [services.game]
        maximum = 6
        """
    )
    return path


def test_help_fits_80_columns_and_names_every_command() -> None:
    answer = forkyard("--help")
    assert answer.code == 0
    assert max(len(line) for line in answer.stdout.splitlines()) <= 80
    for command in ("doctor", "lab", "parent", "plan", "scale", "status", "watch", "reap", "sync", "bench"):
        assert f" {command} " in answer.stdout


def test_the_version_is_said() -> None:
    assert forkyard("--version").stdout.startswith("forkyard 0.")


def test_an_unknown_service_is_the_persons_to_mend(nowhere: Path) -> None:
    answer = forkyard("plan", "shop", "--to", "3", config=nowhere)
    assert answer.code == 2
    assert answer.stderr == "forkyard: shop: no such service in forkyard.toml. Known services: game.\n"
    assert answer.stdout == ""


@pytest.mark.parametrize("command", ["scale", "plan"])
@pytest.mark.parametrize("number", ["many", "1.5", ""])
def test_what_is_not_a_number_is_refused(command: str, number: str, nowhere: Path) -> None:
    assert forkyard(command, "game", "--to", number, config=nowhere).code == 2


@pytest.mark.parametrize(
    ("number", "message"), [("-1", "-1 is negative"), ("7", "7 is above this service's maximum of 6")]
)
def test_a_number_out_of_range_is_refused_before_anything_is_asked(number: str, message: str, nowhere: Path) -> None:
    answer = forkyard("scale", "game", "--to", number, config=nowhere)
    assert answer.code == 2
    assert message in answer.stderr


def test_an_error_is_json_when_json_was_asked_for(nowhere: Path) -> None:
    answer = forkyard("scale", "game", "--to", "7", "--json", config=nowhere)
    assert answer.code == 2
    assert answer.json["exit_code"] == 2
    error = answer.json["error"]
    assert isinstance(error, dict)
    assert error["kind"] == "InvalidRequest"
    assert "7 is above" in error["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("scale", "game", "--to", "many"),
            "Invalid value for '--to': many is not a whole number. Ask for",
        ),
        (("scale", "game"), "Missing option '--to'. Try `"),
        (("plan", "game", "--too", "3"), "No such option: --too"),
        (("scal",), "No such command 'scal'."),
    ],
)
def test_a_command_that_cannot_be_parsed_is_json_when_json_was_asked_for(words: tuple[str, ...], message: str) -> None:
    answer = forkyard(*words, "--json")
    assert answer.code == answer.json["exit_code"] == 2
    error = answer.json["error"]
    assert isinstance(error, dict)
    assert error["kind"] == "InvalidRequest"
    assert message in error["message"]
    assert answer.stderr == f"forkyard: {error['message']}\n"


@pytest.mark.parametrize("command", [("status",), ("plan", "game", "--to", "2"), ("reap",)])
def test_without_consul_the_error_names_it_and_says_what_to_do(command: tuple[str, ...], nowhere: Path) -> None:
    answer = forkyard(*command, config=nowhere)
    assert answer.code == 1
    assert "127.0.0.1:1" in answer.stderr
    assert "forkyard doctor" in answer.stderr or "forkyard lab up" in answer.stderr


def test_a_broken_configuration_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[services.game]\nmaximun = 3\n")
    answer = forkyard("status", config=path)
    assert answer.code == 2
    assert answer.stderr == (f"forkyard: {path}: line 2: services.game.maximun: no such key. Did you mean `maximum`?\n")


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    answer = forkyard("--config", str(tmp_path / "none.toml"), "status")
    assert answer.code == 2
    assert "none.toml: cannot be read" in answer.stderr


def test_doctor_says_what_does_not_answer_and_what_to_do(nowhere: Path) -> None:
    answer = forkyard("doctor", "--json", config=nowhere)
    checks = answer.json["checks"]
    assert isinstance(checks, list)
    found = {check["name"]: check for check in checks}
    assert found["consul"]["state"] != "ok"
    assert "its address in forkyard.toml" in found["consul"]["next_step"]
    assert found["forkyard.toml"]["state"] == "ok"
    assert all(check["next_step"] for check in checks if check["state"] != "ok")
    assert not [check for check in checks if "the check itself broke" in check["detail"]]


def test_doctor_asks_nothing_of_a_lab_where_there_is_none(nowhere: Path) -> None:
    checks = forkyard("doctor", "--json", config=nowhere).json["checks"]
    assert isinstance(checks, list)
    found = {check["name"]: check for check in checks}
    assert found["lab"]["state"] == "ok"
    assert not {"ports", "dockerd"} & found.keys()
    parts = ("consul", "nginx", "prefect", "parent: game", "orphans: game")
    assert not [name for name in parts if "lab up" in found[name]["next_step"]]
    assert not [check for check in checks if "lab needs" in check["detail"]]


def test_doctor_names_a_few_parents_and_counts_those_of_a_cluster() -> None:
    def make(number: int) -> FrozenParent:
        moment = datetime(2026, 11, 26, 2, number, tzinfo=UTC)
        return FrozenParent(VmId(f"vm-{number}"), f"game-esx{number}", "game", f"esx{number}", moment, 1 << 30, "print")

    assert name_parents([make(7)]) == "game-esx7 (frozen 2026-11-26 02:07)"
    many = name_parents([make(number) for number in range(1, 60)])
    assert many == "59 parents on 59 hosts, the oldest frozen 2026-11-26 02:01"


def test_doctor_judges_the_machine_although_the_configuration_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("x = 1\n")
    answer = forkyard("doctor", "--json", config=path)
    assert answer.code == 2
    checks = answer.json["checks"]
    assert isinstance(checks, list)
    assert {"forkyard.toml", "system", "memory"} <= {check["name"] for check in checks}


def test_an_unknown_bench_is_refused_with_those_that_are_there() -> None:
    answer = forkyard("bench", "speed")
    assert answer.code == 2
    assert "scale-4" in answer.stderr


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    code = "import sys, cli.main; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    heavy = {"prefect", "pydantic", "httpx", "consul", "docker", "pyroute2", "qemu", "fastapi", "requests"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("x"), 2),
        (NotPermitted("x"), 2),
        (NotFound("x"), 2),
        (Unsupported("x"), 2),
        (CredentialsRejected("x"), 2),
        (CapacityExhausted("x"), 2),
        (PermanentError("x"), 1),
        (VerificationFailed("x"), 1),
        (Unavailable("x"), 1),
        (NotReady("x"), 1),
        (LeaseHeld("x"), 1),
        (OutcomeUnknown("x"), 1),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("x"), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (PermissionError(errno.EACCES, "Permission denied"), 2),
        (OSError(errno.EIO, "Input/output error"), 1),
    ],
)
def test_every_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_a_bug_keeps_its_traceback_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_failure(ZeroDivisionError("3 / 0")) == 1
    said = capsys.readouterr().err
    assert "this is a bug in forkyard: ZeroDivisionError" in said
    path = Path(said.rsplit(" is in ", 1)[1].strip().removesuffix("."))
    assert "3 / 0" in path.read_text()
    path.unlink()


def test_a_full_disk_is_told_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_failure(OSError(errno.ENOSPC, "No space left on device", "/var/lib/forkyard/x")) == 2
    said = capsys.readouterr().err
    assert said.startswith("forkyard: /var/lib/forkyard/x: No space left on device. Free some room")


@pytest.mark.parametrize("command", [("lab", "up"), ("lab", "down"), ("parent", "build"), ("parent", "freeze")])
def test_without_root_a_sentence_says_what_is_needed(command: tuple[str, ...], nowhere: Path) -> None:
    # A user that every Linux has, and a file that it may read; the checkout's own can be read by all.
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write(nowhere.read_text())
        config.flush()
        Path(config.name).chmod(0o644)
        argv = [sys.executable, "-m", "cli.main", "--config", config.name, *command]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, user=65534, group=65534, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs root" in done.stderr


def test_every_error_of_the_tree_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def tree(kind: type[ForkyardError]) -> list[type[ForkyardError]]:
        # Those of forkyard.errors: which others exist depends on what was imported before.
        below = [one for one in kind.__subclasses__() if one.__module__ == kind.__module__]
        return [kind, *(leaf for one in below for leaf in tree(one))]

    for kind in tree(ForkyardError):
        report_failure(kind("game: a message"))
        assert capsys.readouterr().err.startswith("forkyard: game: a message")
