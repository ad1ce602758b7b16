"""What happened in a history: which result answers which call."""

from __future__ import annotations

from proxy.history import Step, turns
from serving.wire.request import SentCall, SentMessage

KEY = b"k" * 16


def results(*messages: SentMessage, start: int = 0) -> list[tuple[str | None, str]]:
    steps: list[Step] = [step for turn in turns(messages, start, KEY) for step in turn.steps]
    return [(step.call_id, step.name) for step in steps]


def called(*calls: tuple[str | None, str]) -> SentMessage:
    return SentMessage("assistant", "", calls=tuple(SentCall(call_id, name, "{}") for call_id, name in calls))


def result(call_id: str | None) -> SentMessage:
    return SentMessage("tool", "r", tool_call_id=call_id)


def test_a_result_answers_the_call_that_it_names_and_else_the_next_one() -> None:
    calls = called(("a", "one"), ("b", "two"), (None, "three"), ("b", "four"))
    said = results(calls, result("b"), result(None), result("b"), result(None), result(None), result("x"))
    assert said == [("b", "two"), ("a", "one"), ("b", "four"), (None, "three"), (None, ""), ("x", "")]


def test_results_before_the_point_from_which_on_it_is_told_have_had_their_calls() -> None:
    calls = called(("a", "one"), ("a", "two"))
    assert results(calls, result("a"), result("a"), start=2) == [("a", "two")]
    assert results(calls, result("a"), result("a"), start=1) == [("a", "one"), ("a", "two")]


def test_as_many_results_as_there_are_calls_are_one_pass_in_whatever_order() -> None:
    """Looking through all calls for each result would take minutes."""
    ids = [f"call-{number}" for number in range(50_000)]
    said = results(called(*((call_id, call_id) for call_id in ids)), *(result(call_id) for call_id in reversed(ids)))
    assert said == [(call_id, call_id) for call_id in reversed(ids)]
