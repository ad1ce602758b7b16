"""Which run goes in circles, and which only looks like it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from proxy.breakers import loops
from proxy.breakers.loops import Grade
from proxy.history import Turn
from serving.settings import BreakerSettings
from serving.wire.request import SentMessage
from tests.proxy.breakers.made_up import Harness, book, request, said

LOOK = ("look", '{"at":"x"}', "nothing")
LIST = ("list", "{}", "a b c")
READ = ("read", "{}", "text")


def repeats(*turns: tuple[tuple[str, str, str], ...]) -> list[int]:
    """The repeats after each turn of calls with their results."""
    agent = Harness(book())
    return [agent.does(*turn).loop.repeats for turn in turns]


def test_the_same_call_with_the_same_result_repeats() -> None:
    assert repeats((LOOK,), (LOOK,), (LOOK,), (LOOK,)) == [0, 1, 2, 3]


def test_arguments_and_results_are_the_same_however_they_are_written() -> None:
    spaced = ("look", '{ "at": "x" }', "  nothing\n")
    assert repeats((LOOK,), (spaced,), (LOOK,)) == [0, 1, 2]


def test_polling_with_changing_results_is_no_loop() -> None:
    turns = [(("status", "{}", f"{percent} %"),) for percent in range(6)]
    assert repeats(*turns) == [0] * 6


def test_polling_that_gets_stuck_is_a_loop_from_there() -> None:
    turns = [(("status", "{}", f"{percent} %"),) for percent in (1, 2, 3, 3, 3, 3)]
    assert repeats(*turns) == [0, 0, 0, 1, 2, 3]


def test_another_call_with_a_new_result_begins_the_count_anew() -> None:
    assert repeats((LOOK,), (LOOK,), (LOOK,), (LIST,), (LOOK,), (LOOK,)) == [0, 1, 2, 0, 0, 1]


def test_another_call_whose_result_is_known_is_nothing_new() -> None:
    assert repeats((LOOK,), (LIST,), (LIST,), (LOOK,), (LIST,), (LIST,)) == [0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize("period", [1, 2, 3, 4])
def test_a_cycle_repeats_once_per_round(period: int) -> None:
    cycle = [((f"tool{number}", "{}", "same"),) for number in range(period)]
    counted = repeats(*cycle * 4)
    assert counted[period - 1 :: period] == [0, 1, 2, 3]
    assert max(counted[:-1]) == 2 if period > 1 else counted == [0, 1, 2, 3]


def test_testing_again_after_each_edit_is_no_loop() -> None:
    test = ("test", "{}", "1 failed")
    turns = [turn for number in range(5) for turn in ((("edit", f'{{"line":{number}}}', "ok"),), (test,))]
    assert repeats(*turns) == [0] * 10


def test_a_new_word_from_the_user_begins_the_count_anew() -> None:
    agent = Harness(book())
    for _ in range(3):
        agent.does(LOOK)
    agent.is_given("Nothing there.")
    agent.history.append(said("user", "Look again."))
    assert agent.asks().loop.repeats == 0
    assert [agent.does(LOOK).loop.repeats for _ in range(3)] == [0, 1, 2]


def test_a_word_of_the_user_beside_the_result_begins_the_count_anew() -> None:
    agent = Harness(book())
    for _ in range(3):
        agent.does(LOOK)
    agent.history.append(said("user", "Try something else."))
    assert agent.asks().loop.repeats == 0


def test_parallel_calls_in_one_turn_are_no_repeat_of_each_other() -> None:
    assert repeats((LOOK, LOOK, LOOK, LOOK), (LOOK, LOOK)) == [0, 1]


def test_a_turn_of_parallel_calls_repeats_in_any_order() -> None:
    assert repeats((LOOK, LIST), (LIST, LOOK), (LOOK, LIST)) == [0, 1, 2]


def test_one_new_result_among_parallel_calls_is_something_new() -> None:
    turns = [(LOOK, ("status", "{}", f"{percent} %")) for percent in range(5)]
    assert repeats(*turns) == [0] * 5


def test_a_result_that_cannot_be_compared_is_something_new() -> None:
    agent = Harness(book())
    for _ in range(3):
        agent.does(LOOK)
    (shot,) = agent.is_given("", ("screenshot", "{}"))
    agent.history.append(SentMessage("tool", "", tool_call_id=shot, media=("image_url",)))
    assert agent.asks().loop.repeats == 0
    assert agent.does(LOOK).loop.repeats == 0


def test_calls_that_take_turns_in_company_still_repeat() -> None:
    assert repeats((LOOK, LIST), (LOOK,), (LOOK, LIST), (LOOK,)) == [0, 1, 2, 3]


def test_a_refused_call_feeds_no_detector() -> None:
    agent = Harness(book())
    agent.asks()
    for _ in range(6):
        agent.is_given("The call was not executed: it is not allowed.")
        agent.history.append(said("user", "Go on."))
        assert agent.asks().loop == loops.START


def test_forks_of_one_run_do_not_count_for_each_other() -> None:
    agent = Harness(book())
    agent.does(LIST)
    stem = list(agent.history)
    for branch in range(5):
        agent.history = list(stem)
        agent.prefix = str(branch)
        assert agent.does(LOOK).loop.repeats == 0


def test_a_request_sent_again_counts_its_results_once() -> None:
    agent = Harness(book())
    agent.does(LOOK)
    agent.does(LOOK)
    assert [agent.asks().loop.repeats for _ in range(5)] == [1] * 5


def test_a_loop_is_seen_in_an_unknown_history_too() -> None:
    agent = Harness(book())
    for _ in range(4):
        agent.does(LOOK)
    assert book().identify("alice", request(*agent.history)).loop.repeats == 3


def test_what_a_stretch_remembers_is_bounded() -> None:
    agent = Harness(book())
    for number in range(loops.PAIRS_KEPT + 10):
        seen = agent.does(("look", f'{{"at":{number}}}', "x"))
    assert len(seen.loop.seen) == loops.PAIRS_KEPT


def test_grades_come_from_the_settings() -> None:
    usual, strict = BreakerSettings(), BreakerSettings(repeat_alert=1, repeat_trip=2)
    assert [loops.grade(n, usual) for n in range(5)] == [Grade.NONE, Grade.NONE, Grade.ALERT, Grade.TRIP, Grade.TRIP]
    assert [loops.grade(n, strict) for n in range(3)] == [Grade.NONE, Grade.ALERT, Grade.TRIP]


def test_forgiven_repeats_do_not_count_and_new_ones_do() -> None:
    agent = Harness(book())
    for _ in range(4):
        seen = agent.does(LOOK)
    forgiven = dict(seen.loop.counts)
    counted = [loops.unforgiven(seen.loop, forgiven)]
    counted += [loops.unforgiven(agent.does(LOOK).loop, forgiven) for _ in range(3)]
    assert counted == [0, 1, 2, 3]


def test_what_was_forgiven_before_something_new_came_is_not_forgiven_twice() -> None:
    agent = Harness(book())
    for _ in range(4):
        seen = agent.does(LOOK)
    forgiven = dict(seen.loop.counts)
    agent.does(LIST)
    assert [loops.unforgiven(agent.does(LOOK).loop, forgiven) for _ in range(3)] == [0, 1, 2]


def test_nothing_happened_yet_at_the_start() -> None:
    assert loops.advance(loops.START, Turn()) == loops.START
    assert loops.unforgiven(loops.START, {}) == loops.START.repeats == 0


FOLDER = os.environ.get("EVAL_DIR") or str(Path(__file__).parents[4] / "shared" / "eval")


@pytest.mark.skipif(
    not (Path(FOLDER) / "runs.jsonl").is_file(),
    reason="neither EVAL_DIR nor ../shared/eval holds runs.jsonl (whole runs of ordinary agents)",
)
def test_ordinary_runs_never_trip() -> None:
    tripped: list[tuple[str, int]] = []
    with (Path(FOLDER) / "runs.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            recorded = json.loads(line)
            trip = _first_trip(recorded["messages"])
            if trip is not None:
                tripped.append((recorded["id"], trip))
    assert tripped == []


def _first_trip(messages: list[dict[str, object]]) -> int | None:
    """Plays a run turn by turn; the place of the assistant turn that would have been refused."""
    runs = book()
    agent = Harness(runs)
    agent.history = []
    for place, message in enumerate(messages):
        calls = [
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or []  # type: ignore[attr-defined]
        ]
        text, answers = message.get("content") or "", message.get("tool_call_id")
        sent = said(str(message["role"]), str(text), calls, str(answers) if answers else None)
        if sent.role == "assistant":
            seen = agent.asks()
            if loops.grade(seen.loop.repeats, BreakerSettings()) is Grade.TRIP:
                return place
            runs.left(seen, sent.text, calls)
        agent.history.append(sent)
    assert len(runs) == 1
    return None
