"""Requests at the command line: the same desk as in Slack, its words and exit codes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli import requests as command
from cli import schedule
from cli.failures import CAN_BE_MENDED, exit_code
from flows.runs import Runs
from forkyard.commands import Amount, Scale
from forkyard.errors import InvalidRequest, NotFound, NotPermitted, PermanentError, Unavailable, Unsupported
from forkyard.model import LeaseHolder, ScaleRequest
from forkyard.moments import When
from forkyard.requests import Entry, Request, State
from forkyard.requests.plans import PlaceRecord, PlanRecord, find_later
from forkyard.roles import Person
from forkyard.settings import Settings
from tests.support.prefect_api import RUN, Script, scripted_api


@pytest.fixture
def script() -> Script:
    return Script(states=("SCHEDULED",))


@pytest.fixture
def config(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration of a service, of which nothing runs but Prefect."""

    def plan(_settings: Settings, request: Request, **_: object) -> PlanRecord:
        forks = request.target
        record = PlanRecord(
            request_id=request.id,
            service=request.service,
            current=0,
            target=request.target,
            forks=forks,
            retires=0,
            removes=0,
            places=(PlaceRecord(parent="game", host="here", forks=forks, room=16),),
            start_at=request.start_at,
        )
        later = find_later(record.current, request.hold_seconds, request.start_at or datetime.now(UTC))
        return PlanRecord(**{name: getattr(record, name) for name in record.__slots__} | {"later": later})

    monkeypatch.setattr("cli.requests.plan_now", plan)
    with scripted_api(script) as api:
        path = tmp_path / "forkyard.toml"
        path.write_text(f'state_dir = "{tmp_path}/state"\nprefect.api_url = "{api}"\n[services.game]\n')
        yield path


def sit_down(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("cli.requests.find_person", lambda: Person(f"local:{name}"))


def answer(capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401 - JSON
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def ask(
    config: Path, capsys: pytest.CaptureFixture[str], target: int, *, at: str | None = None, hold: str | None = None
) -> Any:  # noqa: ANN401 - JSON
    assert command.run_ask(config, "game", target, at=at, hold=hold, reason="sale", as_json=True) == 0
    return answer(capsys)


def test_what_is_asked_waits_is_approved_by_another_and_starts_once(
    config: Path, script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sit_down(monkeypatch, "ann")
    asked = ask(config, capsys, 8)
    assert (asked["state"], asked["needs"]) == ("awaiting approval", "another person")
    assert (asked["forks"], asked["then"]) == (8, 8)
    with pytest.raises(NotPermitted, match="another person's approval than yours"):
        command.run_approve(config, asked["token"], break_glass="", as_json=True)
    sit_down(monkeypatch, "bob")
    assert command.run_approve(config, asked["token"], break_glass="", as_json=True) == 0
    approved = answer(capsys)
    assert (approved["state"], approved["run_id"]) == ("approved", RUN)
    assert (script.parameters["target"], script.parameters["request_id"]) == (8, asked["id"])
    assert "warrant" not in script.parameters


def test_a_plan_that_the_fleet_has_left_behind_is_planned_again_instead_of_approved(
    config: Path, script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(config, capsys, 2)
    look = vars(command)["plan_now"]
    monkeypatch.setattr("cli.requests.plan_now", lambda *a, **k: replace(look(*a, **k), current=9, forks=0, retires=7))
    assert command.run_approve(config, asked["token"], break_glass="", as_json=True) == 2
    out, err = capsys.readouterr()
    shown = json.loads(out)
    assert "not approved, but planned again: 9 children count now, and 0 when it was approved" in err
    assert "must be approved again" in err
    assert (shown["state"], shown["now"], shown["retires"]) == ("awaiting approval", 9, 7)
    assert script.parameters == {}


def test_a_fleet_that_cannot_be_seen_is_left_to_the_run_to_judge(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(config, capsys, 2)

    def fail(*_: object, **__: object) -> PlanRecord:
        message = "the host does not answer"
        raise Unavailable(message)

    monkeypatch.setattr("cli.requests.plan_now", fail)
    assert command.run_approve(config, asked["token"], break_glass="", as_json=True) == 0
    assert answer(capsys)["state"] == "approved"


def test_break_glass_needs_a_reason_and_is_in_the_log(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sit_down(monkeypatch, "ann")
    asked = ask(config, capsys, 8)
    command.run_approve(config, asked["token"], break_glass="nobody is awake", as_json=True)
    capsys.readouterr()
    command.run_log(config, asked["token"], None, as_json=True)
    entries = answer(capsys)["entries"]
    assert ("break-glass", "nobody is awake") in [(entry["decision"], entry["detail"]) for entry in entries]


def test_a_time_and_a_hold_are_kept_and_said(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(days=1)
    asked = ask(config, capsys, 2, at=f"{begin:%Y-%m-%dT%H:%M} Z", hold="6h")
    assert asked["start_at"] == begin.isoformat()
    assert asked["later"] == [[(begin + timedelta(hours=6)).isoformat(), 0]]
    command.run_approve(config, asked["token"], break_glass="", as_json=False)
    out = capsys.readouterr().out
    assert "game to 2: scheduled" in out
    assert f"begins at {When(begin, 'Z')}" in out
    with pytest.raises(InvalidRequest, match=r"--at .* is past"):
        ask(config, capsys, 2, at="2020-01-01T00:00Z")


def test_a_person_is_told_the_next_command(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.run_ask(config, "game", 8, at=None, hold=None, reason="", as_json=False)
    out = capsys.readouterr().out
    assert "now 0, then 8: 8 to fork, 0 to retire" in out
    assert "here: 8 more, room for 8 after" in out
    assert "next: forkyard approve " in out


def test_a_request_that_never_had_a_run_is_cancelled_without_asking_for_runs(
    config: Path, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ask(config, capsys, 4)
    script.asked.clear()
    command.run_cancel(config, asked["token"], as_json=True)
    assert answer(capsys)["state"] == "cancelled"
    assert script.asked == []


def test_what_runs_in_a_process_of_the_command_line_is_not_said_to_be_cancelled(
    config: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    with command.open_desk(config) as (desk, _):
        draft, _ = desk.ask(command.find_person(), Scale("game", Amount(2)))
        row = replace(draft, id="d" * 32, state=State.RUNNING)
        desk.store.add(row, Entry(who="local:root", action="scale"))
    holder = LeaseHolder(row.id, "root", "here", 4711, datetime.now(UTC), "")
    monkeypatch.setattr("cli.requests.find_holder", lambda *_: holder)
    with pytest.raises(Unsupported, match=r"goes on.*kill -INT 4711") as refused:
        command.run_cancel(config, row.id, as_json=True)
    assert exit_code(refused.value) == CAN_BE_MENDED
    assert script.asked == []


def test_an_approval_is_not_held_up_by_a_request_whose_run_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Runs.start_scale

    def refuse(runs: Runs, request: ScaleRequest, **given: Any) -> str:  # noqa: ANN401 - Runs' own
        if request.target == 3:
            message = "no more runs of this one"
            raise PermanentError(message)
        return start(runs, request, **given)

    monkeypatch.setattr(Runs, "start_scale", refuse)
    refused = ask(config, capsys, 3)
    with pytest.raises(PermanentError, match="no more runs"):
        command.run_approve(config, refused["token"], break_glass="", as_json=True)
    asked = ask(config, capsys, 2)
    assert command.run_approve(config, asked["token"], break_glass="", as_json=True) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["run_id"] == RUN
    assert f"{refused['token']}: no run yet: no more runs of this one" in err


def test_deny_cancel_and_retry(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ask(config, capsys, 2)
    assert command.run_deny(config, asked["token"], "not today", as_json=True) == 0
    assert answer(capsys)["state"] == "denied"
    command.run_again(config, asked["token"], back=False, as_json=True)
    again = answer(capsys)
    assert (again["state"], again["target"]) == ("awaiting approval", 2)
    command.run_cancel(config, again["token"], as_json=True)
    assert answer(capsys)["state"] == "cancelled"
    with pytest.raises(NotFound, match="no such request"):
        command.run_cancel(config, "ffffff", as_json=True)


def test_no_id_at_all_is_no_request(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        ask(config, capsys, 2)
    for nothing in ("", " "):
        with pytest.raises(InvalidRequest, match="Which request"):
            command.run_approve(config, nothing, break_glass="", as_json=True)


def test_a_lock_is_told_to_who_asks(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run_lock(config, "game", "audit", as_json=True) == 0
    assert answer(capsys)["reason"] == "audit"
    with pytest.raises(NotPermitted, match="is locked by local:"):
        ask(config, capsys, 2)
    assert command.run_unlock(config, "game", as_json=False) == 0
    assert capsys.readouterr().out == "game: unlocked.\n"


def test_a_log_that_was_changed_ends_with_code_1(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ask(config, capsys, 2)
    assert command.run_verify(config, None, as_json=True) == 0
    noted = answer(capsys)
    assert (noted["whole"], noted["entries"]) == (True, 3)
    with command.open_desk(config) as (desk, _), desk.store._write() as connection:  # noqa: SLF001 - a burglar's way
        connection.exec_driver_sql("DROP TRIGGER audit_no_UPDATE")
        connection.exec_driver_sql("UPDATE audit SET who = 'local:eve' WHERE seq = 1")
    assert command.run_verify(config, noted["head"], as_json=False) == 1
    assert "NOT whole: entry 1 was changed" in capsys.readouterr().out
    assert asked["state"] == State.AWAITING.value


def test_a_log_is_read_by_people(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(config, capsys, 2)
    assert command.run_log(config, "game", "2h", as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith(' drafted (scale game to 2 because "sale")')
    assert command.run_log(config, "nothing", None, as_json=False) == 0
    assert capsys.readouterr().out == "Nothing is in the log of this.\n"


def test_who_can_read_the_key_is_told_what_that_means(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run_whoami(config, as_json=False) == 0
    assert "because you can read the key" in capsys.readouterr().out
    (config.parent / "state" / "approvals.key").chmod(0o644)
    with pytest.raises(NotPermitted, match="chmod 600"):
        command.run_whoami(config, as_json=False)


def test_the_schedule_says_what_comes_and_a_move_is_approved_anew(
    config: Path, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(days=1)
    asked = ask(config, capsys, 2, at=f"{begin:%Y-%m-%dT%H:%M} Z")
    command.run_approve(config, asked["token"], break_glass="", as_json=True)
    capsys.readouterr()
    schedule.run_list(config, None, as_json=False)
    assert f"{asked['token']}: game to 2 at {When(begin, 'Z')}: scheduled" in capsys.readouterr().out
    later = begin + timedelta(hours=1)
    schedule.run_move(config, asked["token"], f"{later:%Y-%m-%dT%H:%M} Z", as_json=True)
    moved = answer(capsys)
    assert (moved["state"], moved["start_at"], moved["run_id"]) == ("awaiting approval", later.isoformat(), None)
    assert script.cancelled.is_set()


def test_what_waits_for_approval_is_listed_below_what_is_scheduled(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert schedule.run_list(config, None, as_json=False) == 0
    assert capsys.readouterr().out == "Nothing is scheduled, and nothing waits for approval.\n"
    now = ask(config, capsys, 8)
    begin = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(days=1)
    later, scheduled = (ask(config, capsys, 2, at=f"{begin + timedelta(days=n):%Y-%m-%dT%H:%M} Z") for n in (0, 1))
    command.run_approve(config, scheduled["token"], break_glass="", as_json=True)
    capsys.readouterr()
    assert schedule.run_list(config, "game", as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [scheduled["token"], now["token"], later["token"]]
    assert lines[1] == f"{now['token']}: game to 8 now: awaiting approval"
    assert schedule.run_list(config, None, as_json=True) == 0
    shown = answer(capsys)
    assert [row["token"] for row in shown["requests"]] == [later["token"], scheduled["token"]]
    assert [row["token"] for row in shown["waiting"]] == [now["token"], later["token"]]


def test_a_calendar_is_checked_and_brought_to_requests(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(hours=20)
    calendar = config.with_name("presales.toml")
    calendar.write_text(f'[events.sale]\nservice = "game"\nstart = "{begin:%Y-%m-%dT%H:%M}"\ntarget = 8\nhold = "2h"\n')
    assert schedule.run_check(config, calendar, as_json=True) == 0
    (found,) = answer(capsys)["occurrences"]
    assert [number for _, number in found["steps"]] == [8, 0]
    schedule.run_check(config, None, as_json=False)
    assert "no run tells yet how long it takes; starting 15 min before" in capsys.readouterr().out
    schedule.run_sync(config, as_json=True)
    (notice,) = answer(capsys)["notices"]
    assert "Approve it: approve" in notice
    schedule.run_list(config, "game", as_json=True)
    listed = answer(capsys)
    assert [row["state"] for row in listed["requests"]] == ["awaiting approval"]
    assert [(event["event"], event["state"]) for event in listed["events"]] == [("sale", "awaiting approval")]
    command.run_cancel(config, listed["requests"][0]["token"], as_json=True)
    capsys.readouterr()
    schedule.run_list(config, "game", as_json=False)
    assert capsys.readouterr().out.endswith(f"; {listed['requests'][0]['token']} is cancelled\n")
    calendar.write_text("[events.sale]\n")
    with pytest.raises(InvalidRequest, match=r"line 1: events.sale.service: is missing"):
        schedule.run_check(config, calendar, as_json=True)


def test_what_is_on_record_is_listed_before_it_complains_of_a_calendar_that_is_gone(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(hours=20)
    calendar = config.with_name("presales.toml")
    calendar.write_text(f'[events.sale]\nservice = "game"\nstart = "{begin:%Y-%m-%dT%H:%M}"\ntarget = 8\nhold = "2h"\n')
    schedule.run_sync(config, as_json=True)
    capsys.readouterr()
    calendar.unlink()
    with pytest.raises(InvalidRequest, match="is gone, but requests that came from it are open"):
        schedule.run_list(config, None, as_json=False)
    assert "game to 8 at" in capsys.readouterr().out
    with pytest.raises(InvalidRequest, match="is gone"):
        schedule.run_list(config, None, as_json=True)
    assert capsys.readouterr().out == ""


def test_a_sync_with_a_broken_calendar_looks_at_what_is_on_record_before_it_complains(config: Path) -> None:
    config.with_name("presales.toml").write_text("[events.sale]\n")
    with command.open_desk(config) as (desk, _):
        asked, _ = desk.ask(command.find_person(), Scale("game", Amount(8)))
        desk.store.move(asked, State.PLANNED, Entry(who="a test", action="plan"))
        planned = desk.store.get(asked.id)
        ago = desk.store.now() - timedelta(minutes=1)
        desk.store.move(planned, State.AWAITING, Entry(who="a test", action="plan"), plan_expires=ago)
    with pytest.raises(InvalidRequest, match="is missing"):
        schedule.run_sync(config, as_json=True)
    with command.open_desk(config) as (desk, _):
        assert desk.store.get(asked.id).state is State.EXPIRED
