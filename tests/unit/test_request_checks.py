"""What `forkyard doctor` says of the calendar and of the key."""

from pathlib import Path

from cli.doctor import Finding, State
from cli.request_checks import check_calendar, check_key
from forkyard.keys import load_key
from forkyard.settings import RequestSettings, ServiceSettings, Settings


def judge(home: Path, *, calendar: Path | None = None) -> list[Finding]:
    settings = Settings(
        state_dir=home, requests=RequestSettings(calendar=calendar), services={"game": ServiceSettings()}
    )
    return [*check_calendar(settings, home / "forkyard.toml"), *check_key(settings)]


def test_where_there_is_neither_nothing_is_said(tmp_path: Path) -> None:
    assert judge(tmp_path) == []


def test_a_broken_calendar_and_a_key_that_is_gone_are_found(tmp_path: Path) -> None:
    (tmp_path / "presales.toml").write_text('[events.sale]\nservice = "game"\ntarget = "twelve"\n')
    load_key(tmp_path / "approvals.key")
    broken, right = judge(tmp_path)
    assert (broken.state, right.state) == (State.FAIL, State.OK)
    assert "events.sale.target" in broken.detail
    (tmp_path / "approvals.key").unlink()
    assert "is gone" in judge(tmp_path)[1].detail
    assert not (tmp_path / "approvals.key").exists()


def test_a_calendar_that_is_named_must_be_there(tmp_path: Path) -> None:
    (found,) = judge(tmp_path, calendar=tmp_path / "sales.toml")
    assert found.state is State.FAIL
