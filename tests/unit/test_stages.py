"""A request's stages: counted, written in words, and read back from them."""

from hypothesis import given
from hypothesis import strategies as st

from forkyard.model import Phase
from forkyard.report import STAGES, Interval
from forkyard.stages import Stage, make_stages, read_stages, read_wait, write_stages, write_wait

FORKED, IDENTIFIED = Phase.FORKED, Phase.IDENTIFIED

CHILDREN = [
    [Interval(FORKED, 1.0, 1.2), Interval(IDENTIFIED, 1.2, 2.0, ok=False), Interval(IDENTIFIED, 2.1, 3.0)],
    [Interval(FORKED, 1.1, 1.5), Interval(IDENTIFIED, 1.5, 2.5, ok=False)],
    [],
]


def test_a_stage_that_all_came_through_says_how_long_it_took_from_the_first_to_the_last() -> None:
    assert make_stages(CHILDREN, {FORKED: 2}) == (Stage(FORKED, 2, 2, seconds=0.5),)


def test_a_stage_under_way_counts_who_came_and_which_tries_failed_and_has_no_time_yet() -> None:
    assert make_stages(CHILDREN, {IDENTIFIED: 2}) == (Stage(IDENTIFIED, 1, 2, None, failed=2),)


def test_a_stage_that_nobody_has_come_to_is_there_and_one_that_nobody_goes_through_is_not() -> None:
    assert make_stages([], {FORKED: 2, Phase.RETIRED: 0}) == (Stage(FORKED, 0, 2),)


def test_a_request_that_is_over_has_the_stages_that_were_tried_each_with_its_time() -> None:
    assert make_stages(CHILDREN) == (Stage(FORKED, 2, 2, 0.5), Stage(IDENTIFIED, 1, 2, 1.8, failed=2))


def test_a_replaced_child_makes_no_more_than_all() -> None:
    assert make_stages(CHILDREN, {FORKED: 1})[0].done == 1


def test_the_words_are_short() -> None:
    words = write_stages(make_stages(CHILDREN, {FORKED: 2, IDENTIFIED: 2}))
    assert words == "forked 2 of 2 in 0.5 s, identified 1 of 2 (2 failed)"


def test_words_that_are_no_stage_are_passed_over() -> None:
    assert read_stages("observing the fleet, cats 3 of 4, forked 1 of 2") == (Stage(FORKED, 1, 2),)


@given(st.from_regex(r"\S+", fullmatch=True), st.text())
def test_who_is_waited_for_is_read_back(who: str, reason: str) -> None:
    assert read_wait(write_wait(who, reason)) == (who, reason)
    assert read_wait("forked 1 of 2") is None


@given(
    st.lists(
        st.builds(
            Stage,
            st.sampled_from(STAGES),
            st.integers(0, 5000),
            st.integers(0, 5000),
            st.none() | st.integers(0, 99999).map(lambda tenths: tenths / 10),
            st.integers(0, 500),
        )
    )
)
def test_what_was_written_is_read_back(stages: list[Stage]) -> None:
    assert read_stages(write_stages(stages)) == tuple(stages)
