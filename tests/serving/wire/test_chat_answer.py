"""Whole answers: what they say, and that what a client could read otherwise is not understood."""

import json

import pytest

from serving.wire.chat_answer import read_answer
from tests.support.chat import Call, Say, whole
from tests.support.wire import captures

WHOLE = [
    c
    for c in captures()
    if c.request.start.startswith("POST /v1/chat/completions")
    and c.response.start.endswith("200 OK")
    and c.response.header("content-type") == "application/json"
]


@pytest.mark.parametrize("capture", WHOLE, ids=lambda c: c.name)
def test_every_recorded_whole_answer_is_understood(capture) -> None:
    assert read_answer(capture.response.body) is not None


def test_text_reasoning_calls_and_usage_are_read() -> None:
    body = whole(Say("I think.", "Here.", (Call("a", "{}"), Call("b", '{"x": 1}')), finish="length"))
    answer = read_answer(body)
    assert answer is not None and answer.usage is not None
    (choice,) = answer.choices
    assert (choice.text, choice.reasoning, choice.finish) == ("Here.", "I think.", "length")
    assert [(c.name, c.arguments, c.complete) for c in choice.calls] == [("a", "{}", True), ("b", '{"x": 1}', False)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"function_call":null', '"function_call":{"name":"x","arguments":"{}"}'),
        ('"message":{', '"message":{"tool_calls":[]},"message":{'),
        ('"choices":[', '"choices":[],"choices":['),
        ('"reasoning":null', '"reasoning":null,"reasoning":"x"'),
        ('"stop_reason":null', '"stop_reason":null,"delta":{"tool_calls":[]}'),
        ('"stop_reason":null', '"stop_reason":null,"tool_calls":[{}]'),
        ('"type":"function"', '"type":"function","custom":{"name":"x"}'),
    ],
)
def test_what_another_client_might_read_is_not_understood(old: str, new: str) -> None:
    body = whole(Say(calls=(Call("a", "{}"),))).decode()
    assert old in body
    assert json.loads(body.replace(old, new, 1))
    assert read_answer(body.replace(old, new, 1).encode()) is None
    assert read_answer(body.encode() + b"{}") is None


def test_reasoning_that_is_said_twice_is_understood_only_if_it_is_the_same() -> None:
    def reasoning(**says: str) -> str | None:
        answer = read_answer(json.dumps({"choices": [{"index": 0, "message": {"content": "", **says}}]}).encode())
        return answer.choices[0].reasoning if answer is not None else None

    assert reasoning(reasoning="a", reasoning_content="a") == "a"
    assert reasoning(reasoning_content="b") == "b"
    assert reasoning(reasoning="a", reasoning_content="b") is None
