"""One budget of edits: an end always has room, numbers take what is left."""

from bot.pace import INTERVAL, MOST, WINDOW, Pace, Weight


def make_pace() -> tuple[list[float], Pace]:
    now = [1000.0]
    return now, Pace(lambda: now[0])


def test_ten_runs_that_end_at_once_after_many_changes_are_all_shown_at_once() -> None:
    _, pace = make_pace()
    while pace.allows("run", Weight.PHASE):
        pace.spend("run")
    ends = 0
    while pace.allows("run", Weight.END):
        pace.spend("run")
        ends += 1
    assert ends == 10


def test_no_minute_has_more_edits_than_the_budget() -> None:
    now, pace = make_pace()
    edits: list[float] = []
    for _ in range(600):
        now[0] += 0.5
        if pace.allows("run", Weight.END):
            pace.spend("run")
            edits.append(now[0])
    assert max(sum(at <= other < at + WINDOW for other in edits) for at in edits) == MOST


def test_numbers_of_one_message_wait_three_seconds_and_a_phase_does_not() -> None:
    now, pace = make_pace()
    pace.spend("run")
    assert not pace.allows("run", Weight.NUMBER)
    assert pace.allows("run", Weight.PHASE)
    now[0] += INTERVAL
    assert pace.allows("run", Weight.NUMBER)


def test_nothing_is_sent_while_slack_wants_rest() -> None:
    now, pace = make_pace()
    pace.rest(5)
    assert not pace.allows("run", Weight.END)
    now[0] += 5
    assert pace.allows("run", Weight.END)


def test_ten_runs_that_begin_at_once_leave_room_for_their_first_stages() -> None:
    _, pace = make_pace()
    for _ in range(10):
        assert pace.allows("run", Weight.PHASE)  # approved
        pace.spend("run")
    while pace.allows("run", Weight.BEGIN):
        pace.spend("run")
    stages = 0
    while pace.allows("run", Weight.PHASE):
        pace.spend("run")
        stages += 1
    assert stages >= 10
