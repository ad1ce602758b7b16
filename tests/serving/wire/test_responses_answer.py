"""What a whole answer of ``/v1/responses`` says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.wire.responses import Responses
from serving.wire.responses_answer import read_answer
from serving.wire.responses_stream import ResponsesReader
from serving.wire.vocabulary import ToolCall
from serving.wire.writer import ChoiceChange
from tests.support.chat import Call, Say
from tests.support.responses import call_item, message_item, reasoning_item, response, whole
from tests.support.wire import captures, load

GOOD = Call("get_weather", '{"city": "Oslo"}')
WHOLE = [
    c
    for c in captures()
    if c.request.start.startswith("POST /v1/responses ") and c.response.body.startswith(b'{"id":"resp_')
]


@pytest.mark.parametrize("capture", WHOLE, ids=lambda c: c.name)
def test_every_recorded_answer_is_understood(capture) -> None:
    answer = read_answer(capture.response.body)
    assert answer is not None
    (choice,) = answer.choices
    said = json.loads(capture.response.body)
    assert answer.answer_id == said["id"]
    assert answer.usage is not None
    assert answer.usage.completion == said["usage"]["output_tokens"]
    assert len(choice.calls) == sum(item["type"] == "function_call" for item in said["output"])
    assert choice.finish == ("length" if said["status"] == "incomplete" else "tool_calls" if choice.calls else "stop")


def test_a_recorded_call_is_read() -> None:
    answer = read_answer(load("responses_tool").response.body)
    assert answer is not None
    call = ToolCall(0, 0, "chatcmpl-tool-b0009dda1ab3c3bb", "get_weather", '{"city": "Paris"}')
    assert answer.choices[0].calls == (call,)
    assert answer.choices[0].reasoning.startswith("\nThe user wants the weather")


def test_the_logprobs_of_the_whole_answer_are_at_hand() -> None:
    answer = read_answer(whole(Say("Hm.", "Look.", (GOOD,)), logprobs=True))
    assert answer is not None
    shown = answer.choices[0].shown
    assert shown is not None
    assert b'<tool_call>\n{"name": "get_weather"' in shown.spelled
    assert sum(shown.lengths) == len(shown.spelled)
    assert set(shown.logprobs) == {-0.25}


def test_an_answer_in_the_background_is_not_there_yet() -> None:
    answer = read_answer(json.dumps(response([], "queued", "resp_1", background=True)).encode())
    assert answer is not None
    assert answer.pending
    assert answer.choices[0].finish is None


ITEM = message_item("Hi.", "msg_1")
CALL = call_item(GOOD, 0)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "custom_tool_call", "id": "c", "call_id": "c", "name": "p", "input": "x"},
        {"type": "mcp_call", "id": "m", "name": "p", "arguments": "{}", "server_label": "s"},
        {**ITEM, "tool_calls": [{"id": "x"}]},
        {**ITEM, "content": [{"type": "refusal", "refusal": "No."}]},
        {**ITEM, "content": [{**ITEM["content"][0], "type": "tool_use"}]},
        {**ITEM, "arguments": "{}"},
        {**CALL, "input": "x"},
        {**CALL, "arguments": None},
        {**CALL, "content": ITEM["content"]},
        {**reasoning_item("R", "rs_1", None), "encrypted_content": "zzz"},
        {"id": "x"},
    ],
)
def test_what_another_reader_might_take_for_a_call_is_not_understood(item: dict[str, Any]) -> None:
    assert read_answer(json.dumps(response([ITEM, CALL, item], "completed", "resp_1")).encode()) is None


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"output":{}}', b'{"output":[],"output":[]}', b'{"output":[]} x']
)
def test_what_is_no_answer_is_not_understood(body: bytes) -> None:
    assert read_answer(body) is None


def test_raw_messages_do_not_show_what_was_refused() -> None:
    value = json.loads(whole(Say("", "", (GOOD,))))
    value["output_messages"] = [{"message": '<tool_call>{"name": "get_weather"}', "tokens": [1, 2]}]
    body = json.dumps(value, separators=(",", ":")).encode()
    writer = Responses().whole(None)  # type: ignore[arg-type]
    changed = writer.whole(body, [ChoiceChange(0, {0: "No."}, 1, "stop")])
    given = json.loads(changed)
    assert given.pop("output_messages") is None
    assert [item["content"][0]["text"] for item in given.pop("output")] == ["No."]
    assert given == {name: said for name, said in value.items() if name not in ("output", "output_messages")}


@pytest.mark.parametrize(("closing", "status"), [("stop", "completed"), ("content_filter", "incomplete")])
def test_a_cut_leaves_nothing_but_its_text(closing: str, status: str) -> None:
    writer = Responses().whole(None)  # type: ignore[arg-type]
    body = whole(Say("Hm.", "Hi.", (GOOD,)))
    given = json.loads(writer.whole(body, [ChoiceChange(0, {}, 1, closing, "Stopped.")]))
    assert [item["content"][0]["text"] for item in given["output"]] == ["Stopped."]
    assert given["status"] == status


def test_an_event_of_bytes_that_are_no_text_is_not_understood() -> None:
    raw = b'event: error\ndata: {"type":"error","delta":"\xed\xa0\xbd"}\n\n'
    (event,) = ResponsesReader().feed(raw)
    assert event.kind == "unknown"
