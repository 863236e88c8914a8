"""Ten children of one parent share nothing that they must not, as seen from outside of them."""

from cli.bench.identity import ALIKE, WITNESSES
from forkyard.wire import POINTS
from tests.support.lab import Lab

CHILDREN = 10


def test_ten_children_differ_in_every_point_that_they_must(empty_lab: Lab) -> None:
    answer = empty_lab.run("bench", "identity", "--json", timeout=400)

    assert answer.code == 0, answer.err
    (run,) = answer.json["runs"]
    assert run["points"].keys() == set(POINTS)
    assert run["outside"].keys() == {*WITNESSES, "player's session", "clock"}
    for point, values in (run["points"] | run["outside"]).items():
        assert len(values) == CHILDREN, point
        assert point in ALIKE or len(set(values.values())) == CHILDREN, (point, values)
