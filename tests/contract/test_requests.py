"""What the requests' store promises, on SQLite and on PostgreSQL."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from forkyard.approvals import Approval, Kind, sign, verify
from forkyard.errors import InvalidRequest, NotFound, Unavailable
from forkyard.names import new_request_id
from forkyard.requests import Entry, Need, Notice, Request, ServiceLock, State, StateChanged
from forkyard.requests.plans import PlaceRecord, PlanRecord
from forkyard.requests.store import Store, open_store
from forkyard.requests.tables import open_engine
from forkyard.settings import RequestSettings, Settings
from tests.support.postgres import Postgres, running_postgres

NOW = datetime(2026, 11, 27, 5, 0, 1, 250, tzinfo=UTC)
ENTRY = Entry(who="U1", action="scale", service="game", raw="scale game to 4")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An empty database."""
    url = ""
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.make_database()
    return Settings(state_dir=tmp_path / "state", requests=RequestSettings(url=url))


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """A store on it."""
    with open_store(settings) as opened:
        yield opened


def a_row(**fields: object) -> Request:
    given = {"id": new_request_id(), "service": "game", "target": 4, "requested_by": "U1", "requested_at": NOW}
    return Request(**(given | fields))  # type: ignore[arg-type]


def a_plan(request: Request) -> PlanRecord:
    place = PlaceRecord(parent="game", host="here", forks=4, room=9, limited_by="memory")
    return PlanRecord(
        request_id=request.id,
        service="game",
        current=0,
        target=4,
        forks=4,
        retires=0,
        removes=0,
        places=(place,),
        parents=("abc",),
        notes=("a note",),
        start_at=NOW,
        expected_seconds=12.5,
    )


def awaiting(store: Store) -> Request:
    row, _ = store.add(a_row(), ENTRY)
    row = store.move(row, State.PLANNED, ENTRY, plan=a_plan(row), plan_expires=NOW, need=Need.OTHER)
    return store.move(row, State.AWAITING, ENTRY)


def test_a_request_is_read_back_as_it_was_written(store: Store) -> None:
    row = a_row(raw="scale “game” to 4 \U0001f680", start_at=NOW, zone="Europe/Berlin", result={"ok": True})
    row = replace(row, plan=a_plan(row), need=Need.REQUESTER)
    found, fresh = store.add(row, ENTRY)
    assert fresh
    assert replace(found, updated_at=None) == row
    assert found.plan_hash == row.plan_hash != ""
    assert store.find(row.token) == found == store.get(row.id)


def test_the_same_delivery_makes_one_request(store: Store) -> None:
    first, fresh = store.add(a_row(delivery="d1"), ENTRY)
    again, repeated = store.add(a_row(delivery="d1"), ENTRY)
    assert (fresh, repeated) == (True, False)
    assert again.id == first.id
    assert len(store.read_log()) == 1


def test_a_notice_is_kept_once_until_it_was_told(store: Store) -> None:
    row, _ = store.add(a_row(), ENTRY)
    assert [store.announce(Notice(row, "begins", "check 1")) for _ in range(2)] == [True, False]
    assert [store.announce(Notice(row, text)) for text in ("one", "two", "one")] == [True, True, False]
    assert [notice.request for notice in store.list_notices()] == [row] * 3
    for notice in store.list_notices():
        store.mark_told(notice.key)
    assert store.list_notices() == []
    assert (store.is_announced("check 1"), store.is_announced("check 2")) == (True, False)


def test_a_database_from_before_there_were_notices_gets_their_table(settings: Settings, store: Store) -> None:
    row, _ = store.add(a_row(), ENTRY)
    with store._write() as connection:  # noqa: SLF001 - as the tables were
        connection.execute(text("DROP TABLE notices"))
    with open_store(settings) as again:
        assert again.get(row.id) == row
        assert again.announce(Notice(row, "begins"))


def test_twenty_deliveries_at_once_make_one_request(store: Store) -> None:
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda _: store.add(a_row(delivery="d1"), ENTRY), range(20)))
    assert sum(fresh for _, fresh in made) == 1
    assert len({row.id for row, _ in made}) == 1


def test_a_request_moves_once_whoever_comes_first(store: Store) -> None:
    row = awaiting(store)

    def try_it(number: int) -> bool:
        try:
            store.move(row, State.DENIED, Entry(who=f"U{number}", action="deny"))
        except StateChanged as error:
            return error.now.state is not State.DENIED
        return True

    with ThreadPoolExecutor(10) as pool:
        won = list(pool.map(try_it, range(10)))
    assert sum(won) == 1
    assert [logged.entry.action for logged in store.read_log()].count("deny") == 1


def test_a_state_that_may_not_follow_is_refused_and_nothing_is_written(store: Store) -> None:
    row, _ = store.add(a_row(), ENTRY)
    with pytest.raises(StateChanged, match="is drafted meanwhile and cannot become running"):
        store.move(row, State.RUNNING, ENTRY)
    assert store.get(row.id) == row
    assert len(store.read_log()) == 1


def test_a_stale_copy_cannot_change_anything(store: Store) -> None:
    row = awaiting(store)
    store.amend(row, run_id="run-1")
    with pytest.raises(StateChanged):
        store.move(row, State.DENIED, ENTRY)
    assert store.get(row.id).run_id == "run-1"


def test_a_request_that_stands_no_more_takes_along_the_later_steps_that_have_not_begun(store: Store) -> None:
    first, _ = store.add(a_row(state=State.SCHEDULED), ENTRY)
    step, begun, retry = (
        store.add(a_row(state=State.SCHEDULED, parent=first.id, kind=kind), ENTRY)[0]
        for kind in ("later", "later", "retry")
    )
    store.move(begun, State.RUNNING, ENTRY)
    store.amend(step, run_id="run-1")
    store.move(first, State.CANCELLED, replace(ENTRY, who="U2", raw="cancel it"))
    states = [store.get(row.id).state for row in (first, step, begun, retry)]
    assert states == [State.CANCELLED, State.CANCELLED, State.RUNNING, State.SCHEDULED]
    said = store.read_log()[-1].entry
    assert (said.who, said.action, said.raw, said.request_id, said.run_id) == ("U2", "cancel", "", step.id, "run-1")
    assert said.detail == f"with {first.token}"
    assert store.verify_log().whole


def test_an_approval_is_kept_with_its_signature(store: Store) -> None:
    row = awaiting(store)
    approval = sign(
        store.key,
        Approval(request_id=row.id, plan_hash=row.plan_hash, approver="U2", at=NOW, kind=Kind.OTHER, reason="fine"),
    )
    moved = store.approve(row, a_plan(row), approval, Entry(who="U2", action="approve", request_id=row.id))
    assert moved.state is State.APPROVED
    (kept,) = store.approvals(row.id)
    assert kept == approval
    verify(store.key, kept, request_id=row.id, plan_hash=row.plan_hash)


def test_requests_are_listed_newest_first_and_by_state_and_service(store: Store) -> None:
    for number, service in enumerate(["game", "shop", "game"]):
        store.add(a_row(service=service, requested_at=NOW + timedelta(seconds=number), target=number), ENTRY)
    assert [row.target for row in store.list_requests()] == [2, 1, 0]
    assert [row.target for row in store.list_requests(service="game")] == [2, 0]
    assert store.list_requests(states=[State.RUNNING]) == []


def test_an_id_that_is_nobodys_or_several_peoples_is_told(store: Store) -> None:
    for number in range(2):
        store.add(a_row(id=f"abcdef0{number}-0000-4000-8000-000000000000"), ENTRY)
    with pytest.raises(NotFound, match="ffffff: there is no such request"):
        store.find("ffffff")
    with pytest.raises(InvalidRequest, match="several requests begin so"):
        store.find("abcdef")
    with pytest.raises(NotFound):
        store.find("%")
    assert store.find("abcdef01").target == 4


def test_a_lock_names_its_holder(store: Store) -> None:
    lock = ServiceLock("game", "U1", "audit", NOW)
    store.lock(lock, Entry(who="U1", action="lock", service="game"))
    assert store.locks() == {"game": lock}
    with pytest.raises(InvalidRequest, match="game: is locked already, by U1 since 2026-11-27 05:00 UTC: audit"):
        store.lock(lock, ENTRY)
    store.unlock("game", ENTRY)
    with pytest.raises(InvalidRequest, match="not locked"):
        store.unlock("game", ENTRY)


def test_the_log_is_read_by_service_request_and_person(store: Store) -> None:
    for number in range(3):
        store.note(Entry(who=f"U{number}", action="status", service="game", request_id=f"abcd{number}"))
    assert [logged.entry.who for logged in store.read_log(about="game")] == ["U0", "U1", "U2"]
    assert [logged.entry.who for logged in store.read_log(about="@U1")] == ["U1"]
    assert [logged.entry.who for logged in store.read_log(about="abcd2")] == ["U2"]
    assert [logged.entry.who for logged in store.read_log(request_id="abcd2")] == ["U2"]
    assert store.read_log(request_id="abcd") == []
    assert store.read_log(since=datetime.now(UTC) + timedelta(hours=1)) == []


def test_entries_written_at_once_form_one_chain(store: Store) -> None:
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda number: store.note(Entry(who=f"U{number}", action="status")), range(40)))
    verdict = store.verify_log()
    assert (verdict.whole, verdict.entries) == (True, 40)


def test_the_log_refuses_to_be_changed(settings: Settings, store: Store) -> None:
    store.note(ENTRY)
    engine = open_engine(settings)
    for statement in ("UPDATE audit SET who = 'U9'", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(text(statement))
    engine.dispose()
    assert store.verify_log().whole


@pytest.mark.parametrize(
    ("tampering", "problem"),
    [
        ("UPDATE audit SET who = 'U9' WHERE seq = 2", "entry 2 was changed"),
        ("UPDATE audit SET detail = 'x' WHERE seq = 3", "entry 3 was changed"),
        ("DELETE FROM audit WHERE seq = 2", "entry 2 is missing"),
        ("DELETE FROM audit WHERE seq = 3", "the newest were cut off"),
        ("DELETE FROM audit; DELETE FROM audit_head", "not in it"),
        ("UPDATE audit_head SET seq = 2", "the head was changed"),
        ("DELETE FROM audit_head", "the head is missing"),
    ],
)
def test_what_was_done_to_the_log_behind_its_back_is_found(
    settings: Settings, store: Store, tampering: str, problem: str
) -> None:
    for number in range(3):
        store.note(Entry(who=f"U{number}", action="status", detail="ünïcode \U0001f680"))
    noted = store.verify_log()
    assert noted.whole
    engine = open_engine(settings)
    with engine.begin() as connection:
        sqlite = connection.dialect.name == "sqlite"
        for trigger in ("audit_no_UPDATE", "audit_no_DELETE") if sqlite else ("audit_no_change ON audit",):
            connection.execute(text(f"DROP TRIGGER {trigger}"))
        for statement in tampering.split("; "):
            connection.execute(text(statement))
    engine.dispose()
    verdict = store.verify_log(expected=noted.head)
    assert not verdict.whole
    assert problem in verdict.problem


def test_two_processes_may_make_the_tables_at_once(settings: Settings) -> None:
    def open_it(_: int) -> bool:
        with open_store(settings) as store:
            return store.verify_log().whole

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(open_it, range(6)))


def test_a_hundred_requests_at_once_are_all_on_record_and_cost_little(store: Store) -> None:
    # The processor's time, not the wall's: a machine that tests is seldom idle.
    began = time.process_time()
    with ThreadPoolExecutor(30) as pool:
        made = list(pool.map(lambda number: store.add(a_row(delivery=f"d{number}"), ENTRY), range(100)))
    took = time.process_time() - began
    assert all(fresh for _, fresh in made)
    assert len(store.list_requests(limit=500)) == 100
    assert store.verify_log().entries == 100
    assert took < 5, took


def test_a_database_that_is_away_is_told_and_not_a_bug(settings: Settings, store: Store, tmp_path: Path) -> None:
    del store
    nowhere = RequestSettings(url=f"postgresql+psycopg://nobody@/none?host={tmp_path}", key_file=tmp_path / "key")
    with pytest.raises(Unavailable, match="does not answer"), open_store(replace(settings, requests=nowhere)):
        pass


def test_a_password_comes_from_its_file_and_stands_in_no_message(settings: Settings, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    os.chmod(secret, 0o600)  # noqa: PTH101 - as the page on settings says
    chosen = RequestSettings(
        url="postgresql+psycopg://forkyard@127.0.0.1:1/none", password_file=secret, key_file=tmp_path / "key"
    )
    engine = open_engine(replace(settings, requests=chosen))
    assert engine.url.password == "hunter2"  # noqa: S105 - the test's own
    engine.dispose()
    with pytest.raises(Unavailable) as caught, open_store(replace(settings, requests=chosen)):
        pass
    assert "hunter2" not in str(caught.value)
