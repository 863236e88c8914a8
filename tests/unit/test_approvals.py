"""Signatures, warrants, roles, and whose approval a plan needs."""

import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forkyard.approvals import (
    Approval,
    Kind,
    approval_from_json,
    approval_to_json,
    check_warrant,
    make_warrant,
    sign,
    verify,
)
from forkyard.decisions import CALENDAR, find_need, judge_approver
from forkyard.errors import InvalidRequest, NotPermitted
from forkyard.keys import load_key
from forkyard.requests import Need, Request, State, StateChanged
from forkyard.requests.plans import PlaceRecord, PlanRecord, record_from_json, record_to_json
from forkyard.roles import Person, check, check_place, list_roles, list_services, list_verbs, may
from forkyard.settings import ChatopsSettings, RequestSettings, RoleSettings, ServiceSettings, Settings

NOW = datetime(2026, 11, 27, 5, 0, tzinfo=UTC)
APPROVAL = Approval(request_id="r1", plan_hash="h1", approver="U2", at=NOW, kind=Kind.OTHER, reason="fine")
CHATOPS = ChatopsSettings(
    teams=("T1",),
    channels=("C1",),
    roles={
        "operators": RoleSettings(users=("U1",), services=("game",), verbs=("scale", "plan", "status")),
        "approvers": RoleSettings(users=("U2",), groups=("S1",), services=("*",), verbs=("*",)),
        "nothing": RoleSettings(users=("U3",), verbs=("*",)),
    },
)


def a_plan(*, current: int = 0, target: int = 4, forks: int = 4, retires: int = 0) -> PlanRecord:
    place = PlaceRecord(parent="game", host="here", forks=forks, room=9)
    return PlanRecord(
        request_id="r1",
        service="game",
        current=current,
        target=target,
        forks=forks,
        retires=retires,
        removes=0,
        places=(place,),
        later=((NOW, 2),),
        start_at=NOW,
    )


def a_request(**fields: object) -> Request:
    given = {
        "id": "abcdef00-0000-4000-8000-000000000000",
        "state": State.AWAITING,
        "service": "game",
        "target": 4,
        "requested_by": "U1",
        "requested_at": NOW,
        "plan": a_plan(),
        "plan_expires": NOW + timedelta(minutes=15),
        "need": Need.OTHER,
        "need_why": "it is large",
    }
    return Request(**(given | fields))  # type: ignore[arg-type]


def test_a_genuine_approval_is_accepted_and_survives_json() -> None:
    signed = sign(b"key", APPROVAL)
    again = approval_from_json(json.loads(json.dumps(approval_to_json(signed))))
    assert again == signed
    verify(b"key", again, request_id="r1", plan_hash="h1")


@pytest.mark.parametrize(
    "changed",
    [
        {"approver": "U9"},
        {"at": NOW + timedelta(seconds=1)},
        {"kind": Kind.BREAK_GLASS},
        {"reason": ""},
        {"signature": "0" * 64},
        {"request_id": "r2"},
        {"plan_hash": "h2"},
        {"approver": "U", "reason": "2fine"},
    ],
)
def test_an_approval_that_was_changed_in_any_field_is_not_accepted(changed: dict[str, object]) -> None:
    forged = replace(sign(b"key", APPROVAL), **changed)  # type: ignore[arg-type]
    with pytest.raises(NotPermitted):
        verify(b"key", forged, request_id=forged.request_id, plan_hash=forged.plan_hash)


def test_an_approval_of_another_key_or_for_another_plan_is_not_accepted() -> None:
    signed = sign(b"key", APPROVAL)
    with pytest.raises(NotPermitted, match="not signed here"):
        verify(b"another", signed, request_id="r1", plan_hash="h1")
    with pytest.raises(NotPermitted, match="another plan"):
        verify(b"key", signed, request_id="r1", plan_hash="h2")


def test_the_key_is_made_once_and_for_us_alone(tmp_path: Path) -> None:
    file = tmp_path / "state" / "approvals.key"
    key = load_key(file)
    assert len(key) == 32
    assert load_key(file) == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {path.name for path in file.parent.iterdir()} == {"approvals.key", "approvals.key.made"}


def test_a_key_that_is_gone_is_missed_and_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "approvals.key"
    key = load_key(file)
    kept = file.rename(tmp_path / "backup")
    with pytest.raises(InvalidRequest, match=r"is gone, and there was a key\. Restore it"):
        load_key(file)
    kept.rename(file)
    assert load_key(file) == key
    file.unlink()
    (tmp_path / "approvals.key.made").unlink()
    assert load_key(file) != key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_reach_is_not_used(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "approvals.key"
    load_key(file)
    file.chmod(mode)
    with pytest.raises(NotPermitted, match="chmod 600"):
        load_key(file)


def test_a_key_file_without_a_key_is_told(tmp_path: Path) -> None:
    file = tmp_path / "approvals.key"
    handle = os.open(file, os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(handle, b"abc\n")
    os.close(handle)
    with pytest.raises(InvalidRequest, match="holds no key"):
        load_key(file)


def test_a_warrant_is_good_for_its_run_only(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    warrant = make_warrant(settings, "r1", "game", 4, "local:root")
    assert check_warrant(settings, warrant, request_id="r1", service="game", target=4).approver == "local:root"
    for request_id, service, target in (("r2", "game", 4), ("r1", "shop", 4), ("r1", "game", 5)):
        with pytest.raises(NotPermitted):
            check_warrant(settings, warrant, request_id=request_id, service=service, target=target)


def test_a_warrant_that_is_old_forged_or_unreadable_is_refused(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    fields = json.loads(make_warrant(settings, "r1", "game", 4, "local:root"))
    key = load_key(tmp_path / "approvals.key")
    old = replace(approval_from_json(fields), at=datetime.now(UTC) - timedelta(minutes=16))
    ordinary = replace(approval_from_json(fields), kind=Kind.OTHER)
    for text, says in (
        (json.dumps(approval_to_json(sign(key, old))), "no longer good"),
        (json.dumps(approval_to_json(sign(key, ordinary))), "not permitted"),
        (json.dumps(fields | {"approver": "local:eve"}), "not signed here"),
        ("{}", "cannot be read"),
        ("[]", "cannot be read"),
        ("x", "cannot be read"),
    ):
        with pytest.raises(NotPermitted, match=says):
            check_warrant(settings, text, request_id="r1", service="game", target=4)


def test_direct_runs_can_be_switched_off(tmp_path: Path) -> None:
    on = Settings(state_dir=tmp_path)
    off = replace(on, requests=RequestSettings(direct=False))
    with pytest.raises(NotPermitted, match="--ask"):
        make_warrant(off, "r1", "game", 4, "local:root")
    with pytest.raises(NotPermitted):
        check_warrant(off, make_warrant(on, "r1", "game", 4, "local:root"), request_id="r1", service="game", target=4)


def test_nobody_may_do_anything_unless_a_role_says_so() -> None:
    nobody = Person("U9")
    assert list_verbs(CHATOPS, nobody) == ["whoami", "help"]
    assert list_verbs(ChatopsSettings(), Person("U1")) == ["whoami", "help"]
    with pytest.raises(
        NotPermitted, match=r"scale game: you have no role for it. Ask one of <@U1>, <@U2>, <!subteam\^S1>"
    ):
        check(CHATOPS, nobody, "scale", "game")
    with pytest.raises(NotPermitted, match="Nobody may yet"):
        check(ChatopsSettings(), nobody, "scale", "game")


def test_a_role_is_for_its_services_and_verbs() -> None:
    one = Person("U1")
    assert may(CHATOPS, one, "scale", "game")
    assert not may(CHATOPS, one, "scale", "shop")
    assert not may(CHATOPS, one, "approve", "game")
    assert list_services(CHATOPS, one, "scale", ["shop", "game"]) == ["game"]
    assert not may(CHATOPS, Person("U3"), "scale", "game")
    assert not may(CHATOPS, Person("U3"), "scale")


def test_a_group_gives_its_members_a_role() -> None:
    member = Person("U7", frozenset({"S1"}))
    assert may(CHATOPS, member, "approve", "shop")
    assert list_roles(CHATOPS, member) == ["approvers"]


def test_a_person_called_like_a_wildcard_is_nobody() -> None:
    everybody = ChatopsSettings(roles={"all": RoleSettings(users=("*",), services=("*",), verbs=("*",))})
    assert not may(everybody, Person("U1"), "scale", "game")


def test_workspace_and_channel_must_be_allowed() -> None:
    check_place(CHATOPS, "T1", "C1")
    with pytest.raises(NotPermitted, match="workspace"):
        check_place(CHATOPS, "T2", "C1")
    with pytest.raises(NotPermitted, match="channel"):
        check_place(CHATOPS, "T1", "C2")
    with pytest.raises(NotPermitted):
        check_place(ChatopsSettings(), "", "")


@pytest.mark.parametrize(
    ("plan", "policy", "requester", "need"),
    [
        (a_plan(forks=3), ServiceSettings(), "U1", Need.REQUESTER),
        (a_plan(forks=4), ServiceSettings(), "U1", Need.OTHER),
        (a_plan(forks=2, retires=2), ServiceSettings(), "U1", Need.OTHER),
        (a_plan(current=4, target=3, forks=0, retires=1), ServiceSettings(), "U1", Need.REQUESTER),
        (a_plan(current=4, target=3, forks=0, retires=1), ServiceSettings(production=True), "U1", Need.OTHER),
        (a_plan(current=3, target=4, forks=1), ServiceSettings(production=True), "U1", Need.OTHER),  # later: to 2
        (a_plan(current=2, target=4, forks=2), ServiceSettings(production=True), "U1", Need.REQUESTER),
        (a_plan(forks=1), ServiceSettings(), CALENDAR, Need.OTHER),
        (a_plan(forks=1), ServiceSettings(approval_above=0), "U1", Need.OTHER),
    ],
)
def test_what_is_large_or_shrinks_production_needs_another_person(
    plan: PlanRecord, policy: ServiceSettings, requester: str, need: Need
) -> None:
    assert find_need(plan, policy, requester)[0] is need


def judge(request: Request, who: str, *, now: datetime = NOW, break_glass: str = "") -> Kind:
    return judge_approver(CHATOPS, request, Person(who), now=now, break_glass=break_glass)


def test_the_approver_is_not_the_requester_of_what_is_large() -> None:
    assert judge(a_request(), "U2") is Kind.OTHER
    own = a_request(requested_by="U2")
    with pytest.raises(NotPermitted, match="another person's approval than yours: it is large") as caught:
        judge(own, "U2")
    assert "break-glass" in str(caught.value)
    assert judge(own, "U2", break_glass="nobody is awake") is Kind.BREAK_GLASS


def test_who_must_ask_another_is_not_named_among_the_others() -> None:
    with pytest.raises(NotPermitted, match=r"Ask one of <!subteam\^S1>; if nobody"):
        judge(a_request(requested_by="U2"), "U2")


@pytest.mark.parametrize(
    ("chatops", "others"), [(CHATOPS, r" \(<@U2>, <!subteam\^S1>\)"), (ChatopsSettings(), "")], ids=["roles", "none"]
)
def test_at_the_command_line_others_are_there_and_in_slack_and_the_command_is_the_command_lines(
    chatops: ChatopsSettings, others: str
) -> None:
    own, ann = a_request(requested_by="local:ann"), Person("local:ann")
    with pytest.raises(NotPermitted, match=rf"Somebody else approves it here, .*the role there{others}; if") as caught:
        judge_approver(chatops, own, ann, now=NOW)
    assert str(caught.value).endswith('if nobody can be waited for: forkyard approve abcdef --break-glass "TEXT"')


def test_one_server_is_one() -> None:
    for forks, words in ((1, "1 server"), (2, "2 servers")):
        assert find_need(a_plan(forks=forks), ServiceSettings(), "U1")[1].startswith(f"it changes {words}, and up to")


def test_what_is_small_is_confirmed_by_its_requester() -> None:
    small = a_request(need=Need.REQUESTER)
    assert judge(small, "U1") is Kind.REQUESTER
    assert judge(small, "U2") is Kind.OTHER
    with pytest.raises(NotPermitted, match="no role"):
        judge(small, "U9")


def test_a_role_that_was_taken_away_counts_no_more() -> None:
    with pytest.raises(NotPermitted, match="no role"):
        judge(a_request(requested_by="U8", need=Need.REQUESTER), "U8")
    with pytest.raises(NotPermitted, match="no role"):
        judge(a_request(requested_by="U8"), "U8", break_glass="urgent")


def test_what_is_over_or_too_old_is_not_approved() -> None:
    for state in State:
        if state is not State.AWAITING:
            with pytest.raises(StateChanged):
                judge(a_request(state=state), "U2")
    with pytest.raises(InvalidRequest, match=r"could be approved until 2026-11-27 05:15:00 UTC.* retry abcdef"):
        judge(a_request(), "U2", now=NOW + timedelta(minutes=16))


def test_a_plans_hash_is_of_what_is_done_and_of_nothing_else() -> None:
    plan = a_plan()
    assert record_from_json(record_to_json(plan)) == plan
    same = replace(plan, expected_seconds=9.0, notes=("x",), places=(replace(plan.places[0], room=5),))
    assert same.hash == plan.hash
    for other in (
        replace(plan, target=5),
        replace(plan, current=1),
        replace(plan, request_id="r2"),
        replace(plan, later=()),
        replace(plan, start_at=None),
        replace(plan, parents=("x",)),
        replace(plan, places=(replace(plan.places[0], host="there"),)),
    ):
        assert other.hash != plan.hash


def test_a_small_first_step_with_a_large_one_behind_it_needs_another_person() -> None:
    plan = replace(a_plan(forks=3), later=((NOW + timedelta(hours=1), 400), (NOW + timedelta(hours=2), 4)))
    need, why = find_need(plan, ServiceSettings(), "U1")
    assert need is Need.OTHER
    assert "changes 396 servers" in why
