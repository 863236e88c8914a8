"""From the command to the first good answer through Nginx, and back to nothing."""

import os
import signal

import pytest

from tests.support.lab import Lab, until


def test_a_scale_up_ends_with_every_child_answering_through_nginx(empty_lab: Lab) -> None:
    answer = empty_lab.scale(3)

    assert answer.code == 0, answer.err
    report = answer.json
    assert (report["wanted"], report["serving"]) == (3, 3)
    names = {child["name"] for child in report["children"]}
    assert len(names) == 3
    assert empty_lab.who_answers(30) == names
    assert report["run_url"].startswith("http://127.0.0.1:")


def test_status_tells_of_each_child_what_scripts_rely_on(empty_lab: Lab) -> None:
    empty_lab.scale(2)

    game = empty_lab.game()

    assert (game["wanted"], game["serving"]) == (2, 2)
    for child in game["children"]:
        assert child["phase"] == "serving"
        assert child["address"].startswith("10.79.")
        assert child["parent"] == "game"
        assert child["host"]
        assert child["pid"] > 1
        assert 0 < child["pss_bytes"] < 768 << 20
        assert set(child["seconds"]) >= {"forked", "identified", "registered", "serving"}


def test_a_second_identical_request_forks_nothing(empty_lab: Lab) -> None:
    first = empty_lab.scale(2).json
    second = empty_lab.scale(2)

    assert second.code == 0
    assert {c["name"] for c in second.json["children"]} == {c["name"] for c in first["children"]}
    assert {c["pid"] for c in second.json["children"]} == {c["pid"] for c in first["children"]}


def test_scaling_down_leaves_exactly_what_was_asked_for(empty_lab: Lab) -> None:
    before = {child["name"] for child in empty_lab.scale(3).json["children"]}

    answer = empty_lab.scale(1)

    assert answer.code == 0, answer.err
    left = {child["name"] for child in empty_lab.game()["children"]}
    assert len(left) == 1
    assert left < before
    assert empty_lab.who_answers(10) == left


def test_a_dry_run_changes_nothing_and_says_what_it_would_do(empty_lab: Lab) -> None:
    answer = empty_lab.scale(4, "--dry-run")

    assert answer.code == 0, answer.err
    assert empty_lab.game()["children"] == []
    assert empty_lab.game()["wanted"] in {0, None}


def test_a_child_whose_qemu_is_killed_leaves_nginx_by_itself_and_the_next_request_replaces_it(empty_lab: Lab) -> None:
    children = empty_lab.scale(2).json["children"]
    victim = children[0]

    os.kill(victim["pid"], signal.SIGKILL)
    until(lambda: empty_lab.who_answers(10) == {children[1]["name"]}, seconds=60)
    again = empty_lab.scale(2)

    assert again.code == 0, again.err
    names = {child["name"] for child in empty_lab.game()["children"]}
    assert victim["name"] not in names
    assert len(empty_lab.who_answers(20)) == 2


def test_a_fork_goes_on_where_the_parent_stood(empty_lab: Lab) -> None:
    empty_lab.scale(1)

    # The world of the game began in the parent, before the fork: a booted app would begin at zero.
    assert empty_lab.ask()["ticks"] > 0
    assert empty_lab.ask()["served"] >= 1


@pytest.mark.parametrize(
    ("target", "words"),
    [("-1", "negative"), ("13", "maximum of 12"), ("many", "whole number")],
)
def test_a_target_that_cannot_be_is_refused_in_words_and_with_code_2(lab: Lab, target: str, words: str) -> None:
    answer = lab.run("scale", "game", "--to", target)

    assert answer.code == 2
    assert words in answer.err
    assert "Traceback" not in answer.err


def test_ctrl_c_leaves_a_consistent_fleet(empty_lab: Lab) -> None:
    empty_lab.scale(1)
    process = empty_lab.start("scale", "game", "--to", "4", "--json")
    until(lambda: len(empty_lab.game()["children"]) > 1, seconds=60)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)

    assert process.returncode == 130, err
    game = empty_lab.game()
    assert game["serving"] == len(game["children"])
    assert empty_lab.run("reap", "--json").json["services"]["game"]["found"] == 0
