"""Taking requests back: by whom, and while they are being begun."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from forkyard.errors import NotPermitted
from forkyard.requests import State
from forkyard.requests.moves import SYSTEM, make_entry
from forkyard.settings import ChatopsSettings, RoleSettings
from tests.flows.office import ASKER, RUN, Office, furnished


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path) as made:
        yield made


def test_a_cancel_is_not_lost_to_a_run_that_is_named_or_begins_in_that_moment(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, begun = office.approved(4), office.approved(5)
    stale = {named.token: named, begun.token: begun}
    office.store.amend(named, run_id=RUN)
    office.store.move(begun, State.RUNNING, make_entry(begun, SYSTEM, "start"), run_id="run-2")
    monkeypatch.setattr(office.store, "find", stale.__getitem__)
    assert office.desk.cancel(ASKER, named.token).state is State.CANCELLED
    assert office.desk.cancel(ASKER, begun.token).run_id == "run-2"
    said = office.store.read_log()[-1].entry
    assert (said.action, said.decision, said.run_id) == ("cancel", "asked", "run-2")
    assert office.state(begun) is State.RUNNING


def test_what_somebody_asked_for_they_cancel_only_while_they_could_still_ask_for_it(office: Office) -> None:
    approved = office.approved(4)
    role = RoleSettings(users=("U1",), services=("game",), verbs=("status",))
    office.settings = replace(office.settings, chatops=ChatopsSettings(roles={"gone": role}))
    with pytest.raises(NotPermitted, match="cancel game: you have no role for it"):
        office.desk.cancel(ASKER, approved.token)
    assert office.state(approved) is State.APPROVED
    role = replace(role, verbs=("scale",))
    office.settings = replace(office.settings, chatops=ChatopsSettings(roles={"back": role}))
    assert office.desk.cancel(ASKER, approved.token).state is State.CANCELLED
