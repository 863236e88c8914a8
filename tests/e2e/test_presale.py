"""A pre-sale for real: announced a minute and a half ahead, approved in Slack, begun at its second."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.bot.conftest import text_of
from tests.e2e.test_slack import People, people
from tests.support.lab import until

__all__ = ["people"]

AHEAD, LEAD = timedelta(seconds=90), timedelta(minutes=1)
"""From now to the run, and from the run to the sale."""

ALONE = timedelta(seconds=30)
"""Before and after the run's moment, no other run of this test is due."""

_CALENDAR = """
[services.game]
base = 0

[events.launch]
service = "game"
start = "{start:%Y-%m-%dT%H:%M:%S}"
zone = "Z"
target = 1
lead = "1m"
hold = "1h"
reason = "the launch"
"""


@pytest.fixture
def launch(people: People) -> Iterator[datetime]:
    """The moment at which the calendar wants a run to begin."""
    path = people.lab.config.with_name("presales.toml")
    start = datetime.now(UTC).replace(microsecond=0) + AHEAD
    path.write_text(_CALENDAR.format(start=start + LEAD))
    yield start
    path.write_text("# It is over.\n")
    assert people.lab.run("schedule", "sync").code == 0
    # The end of what has begun stays, until somebody cancels it.
    for row in people.lab.run("schedule", "list", "--json").json["requests"]:
        assert people.lab.run("schedule", "cancel", row["token"]).code == 0
    path.unlink()


def test_a_pre_sale_begins_at_its_second(people: People, launch: datetime) -> None:
    last = people.newest()["ts"]
    synced = people.lab.run("schedule", "sync")
    assert synced.code == 0, synced.err
    plan = people.until_shown("Approve", after=last)
    assert people.slack.click(plan, "approve", "ben")["ok"]

    until(lambda: len(begun(people, launch)) == 1, seconds=AHEAD.total_seconds() + 30, what="the pre-sale's run")
    (moment,) = begun(people, launch)
    assert abs(moment - launch) <= timedelta(seconds=2), moment
    # Not the newest any more: the sale's end is a request too.
    until(lambda: "*1 serves*" in text_of(people.message(plan["ts"])["blocks"]), seconds=60, what="the sale's server")
    assert len(people.lab.game()["children"]) == 1


def begun(people: People, launch: datetime) -> list[datetime]:
    """When runs that change the fleet have begun around *launch*, as Prefect has it."""
    api = people.lab.settings.prefect.api_url
    # Prefect also gives a start to a run that was cancelled before its time, as that of an earlier sale's end was.
    wanted = {
        "expected_start_time": {"after_": (launch - ALONE).isoformat(), "before_": (launch + ALONE).isoformat()},
        "state": {"type": {"not_any_": ["CANCELLED"]}},
    }
    body = {"flow_runs": wanted, "flows": {"name": {"any_": ["scale"]}}}
    answer = httpx.post(f"{api}/flow_runs/filter", json=body, timeout=30, trust_env=False)
    moments = [run["start_time"] for run in answer.raise_for_status().json()]
    return [datetime.fromisoformat(moment) for moment in moments if moment is not None]
