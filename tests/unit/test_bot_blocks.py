"""Every message that the bot can make is one that Slack takes: judged by slackblocks and the small Slack."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.answers import (
    ServiceSight,
    render_complaint,
    render_help,
    render_home,
    render_log,
    render_schedule,
    render_status,
    render_whoami,
)
from bot.blocks import line_chart
from bot.forms import FIELDS, draft_request, make_deny_form, make_scale_form, write_draft
from bot.messages import Message, Sight, render_request, stamp
from bot.tickets import Ticket, make_ticket, read_ticket
from flows.runs import Progress
from forkyard.errors import InvalidRequest
from forkyard.grammar import Complaint, parse
from forkyard.model import Phase
from forkyard.names import new_request_id
from forkyard.report import Report
from forkyard.requests import Entry, Need, PlanRecord, Request, ServiceLock, State
from forkyard.requests.audit import Logged
from forkyard.requests.plans import PlaceRecord
from forkyard.stages import write_wait
from forkyard.usages import USAGES
from lab.slack.limits import check_blocks, check_view
from tests.support.fleets import a_child, a_fleet, a_vm
from tests.support.pretend_prefect import make_children
from tests.support.slack_blocks import judge, judge_view

NOW = datetime(2026, 11, 27, 5, tzinfo=UTC)
# Markup, mentions, right-to-left marks, controls, emoji, and 3,000 characters of it.
WORDS = st.text(max_size=60) | st.sampled_from(
    ["<!channel>", "*_~`", "\u202egnp.exe", "a" * 3000, "", "|<@U1>|", "😀" * 400]
)
COUNT = st.integers(0, 2000)


@st.composite
def plans(draw: st.DrawFn) -> PlanRecord:
    place = st.builds(PlaceRecord, parent=WORDS, host=WORDS, forks=COUNT, room=COUNT, limited_by=WORDS)
    moment = st.integers(0, 10**6).map(lambda s: NOW + timedelta(seconds=s))
    return PlanRecord(
        request_id="r",
        service="game",
        current=draw(COUNT),
        target=draw(COUNT),
        forks=draw(COUNT),
        retires=draw(COUNT),
        removes=draw(COUNT),
        places=tuple(draw(st.lists(place, max_size=9))),
        notes=tuple(draw(st.lists(WORDS, max_size=9))),
        later=tuple(draw(st.lists(st.tuples(moment, COUNT), max_size=60))),
        expected_seconds=draw(st.none() | st.floats(0, 10**5)),
    )


@st.composite
def requests(draw: st.DrawFn) -> Request:
    result = {
        "ok": True,
        "wanted": 4,
        "before": 0,
        "serving": 3,
        "seconds": 1.5,
        "message": draw(WORDS),
        "refused": False,
    }
    return Request(
        id=new_request_id(),
        state=draw(st.sampled_from(State)),
        service="game",
        target=draw(COUNT),
        requested_by=draw(st.sampled_from(["U012AB3CD", "local:root", "calendar", "local:<x>"])),
        requested_at=NOW,
        reason=draw(WORDS),
        start_at=draw(st.none() | st.just(NOW)),
        zone=draw(st.sampled_from(["Z", "Europe/Berlin"])),
        plan=draw(st.none() | plans()),
        plan_expires=draw(st.none() | st.just(NOW)),
        need=draw(st.sampled_from(Need)),
        need_why=draw(WORDS),
        run_id=draw(st.none() | st.just("11111111-2222-4333-8444-555555555555")),
        result=draw(st.none() | st.just(result)),
        error=draw(WORDS),
        kind=draw(st.sampled_from(["", "retry", "rollback", "later"])),
    )


@st.composite
def sights(draw: st.DrawFn) -> Sight:
    stages = [f"{name} {draw(COUNT)} of {draw(COUNT)}" for name in ("forked", "serving", "draining")]
    said = draw(st.just(", ".join(stages)) | WORDS.map(lambda reason: write_wait("U012AB3CD", reason)))
    progress = Progress("RUNNING", draw(WORDS), draw(st.floats(0, 100)), said)
    children = make_children("abc123", draw(st.integers(0, 5)), failed=draw(st.integers(0, 2)))
    report = Report("game", "r", 4, 0, 3, 1.5, ok=False, message=draw(WORDS), children=children)
    return Sight(
        request=draw(requests()),
        progress=draw(st.none() | st.just(progress)),
        report=draw(st.none() | st.just(report)),
        approved_by=draw(st.sampled_from(["", "U012AB3CD"])),
        run_url=draw(st.sampled_from(["", "http://127.0.0.1:14200/runs/flow-run/1"])),
        kept=draw(st.booleans()),
        trouble=draw(WORDS),
    )


def check(message: Message) -> None:
    check_blocks(message.blocks, "message")
    judge(message.blocks)


@settings(max_examples=60, deadline=None)
@given(sights())
def test_a_request_in_any_state_is_a_message_that_slack_takes(sight: Sight) -> None:
    message = render_request(sight)
    check(replace(message, blocks=stamp(message, sight.request, NOW, sight.run_url)))
    assert "<!channel>" not in str(message.blocks)
    assert "\u202e" not in str(message.blocks)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=300) | WORDS)
def test_an_answer_to_anything_that_is_typed_is_a_message_that_slack_takes(text: str) -> None:
    command = parse(text, NOW, "Z", ["game"])
    if isinstance(command, Complaint):
        check(render_complaint(command))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.builds(Entry, who=WORDS, action=WORDS, raw=WORDS, detail=WORDS, request_id=st.none() | WORDS), max_size=30
    )
)
def test_a_log_of_anything_is_a_message_that_slack_takes(entries: list[Entry]) -> None:
    check(render_log([Logged(seq, NOW, entry, "") for seq, entry in enumerate(entries)]))


@settings(max_examples=20, deadline=None)
@given(st.lists(requests(), max_size=40))
def test_a_home_tab_of_any_requests_is_one_that_slack_takes(found: list[Request]) -> None:
    view = {"type": "home", "blocks": render_home("U012AB3CD", found, found, found, {})}
    check_view(view, ("home",))
    judge_view(view)


@st.composite
def service_sights(draw: st.DrawFn) -> ServiceSight:
    past = [r for r in draw(st.lists(requests(), max_size=4)) if r.result]
    phases = draw(st.lists(st.sampled_from(Phase), max_size=4))
    fleet = a_fleet(*(a_child(a_vm(f"game-{number}"), phase) for number, phase in enumerate(phases)))
    return ServiceSight(
        service=draw(st.sampled_from(["game", "s" * 40])),
        fleet=draw(st.none() | st.just(fleet)),
        trouble=draw(WORDS),
        held_by=draw(WORDS),
        lock=draw(st.none() | WORDS.map(lambda why: ServiceLock("game", "U012AB3CD", why, NOW))),
        following=draw(st.none() | requests()),
        history=tuple(replace(r, updated_at=NOW - timedelta(hours=draw(st.integers(0, 30)))) for r in past),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(service_sights(), max_size=120))
def test_a_status_of_any_fleets_with_its_chart_is_a_message_that_slack_takes(found: list[ServiceSight]) -> None:
    check(render_status(found, NOW))


def test_lines_of_a_chart_whose_names_are_cut_to_the_same_are_told_apart() -> None:
    names = ["game-production-europe-1", "game-production-europe-2", "shop"]
    chart = line_chart("serving", ["now"], [(name, [1.0]) for name in names])
    lines = [line["name"] for line in chart["chart"]["series"]]
    assert (len(set(lines)), lines[2], max(map(len, lines)) <= 20) == (3, "shop", True)


@settings(max_examples=20, deadline=None)
@given(st.lists(requests(), max_size=30), WORDS, st.lists(WORDS, max_size=5))
def test_schedule_and_whoami_of_anything_are_messages_that_slack_takes(
    found: list[Request], zone: str, roles: list[str]
) -> None:
    check(render_schedule(found))
    check(render_whoami("U012AB3CD", roles, list(USAGES), zone))


@settings(max_examples=40, deadline=None)
@given(
    requests(), st.fixed_dictionaries(dict.fromkeys(FIELDS, WORDS)), st.lists(st.just("game"), min_size=1, max_size=1)
)
def test_forms_filled_in_with_anything_are_modals_that_slack_takes(
    request: Request, draft: dict[str, str], services: list[str]
) -> None:
    for filled in (draft, draft_request(request), {}):
        assert len(write_draft(filled)) <= 2000
        view = make_scale_form(services, filled, channel="C012AB3CD", edits=make_ticket(request))
        check_view(view, ("modal",))
        judge_view(view)
    view = make_deny_form(request, read_ticket(make_ticket(request)), "C012AB3CD")
    check_view(view, ("modal",))
    judge_view(view)


def test_help_of_every_verb_is_a_message_that_slack_takes() -> None:
    check(render_help(list(USAGES), None, ["game"]))
    for verb in USAGES:
        check(render_help(list(USAGES), verb, []))


def test_the_same_request_gives_the_same_message() -> None:
    sight = Sight(Request(id="r", service="game", target=4, requested_by="U1", requested_at=NOW))
    assert render_request(sight) == render_request(sight)


def test_whoever_approves_sees_where_it_ends_however_many_steps_there_are() -> None:
    def render(steps: int) -> str:
        later = tuple((NOW + timedelta(minutes=n), 1000 + n) for n in range(steps))
        plan = PlanRecord(
            request_id="r", service="game", current=0, target=4, forks=4, retires=0, removes=0, later=later
        )
        asked = Request(
            id="r", state=State.AWAITING, service="game", target=4, requested_by="U1", requested_at=NOW, plan=plan
        )
        message = render_request(Sight(replace(asked, need=Need.OTHER, start_at=NOW)))
        check(message)
        return str(message.blocks)

    assert all(f"to {1000 + n} at" in render(40) for n in range(40))
    many = render(60)
    assert ("to 1038 at" in many, "20 more steps" in many, "to 1059 at" in many) == (True, True, True)


def test_a_button_of_an_older_forkyard_is_read_and_what_is_no_button_of_ours_is_not() -> None:
    assert read_ticket("r|abc|7") == read_ticket("r|abc") == Ticket("r", "abc")
    with pytest.raises(InvalidRequest, match="/fleet status"):
        read_ticket("something")
