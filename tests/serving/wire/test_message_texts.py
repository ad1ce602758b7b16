"""Texts of a request are changed where they stand: all else keeps its bytes, and the result reads as it should."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.wire.dialects import DIALECTS
from serving.wire.message_texts import TextChange, message_places, rewrite
from serving.wire.request import ChatRequest
from serving.wire.splice import Unspliceable

NOTICE = '[Withheld by policy a.b/c. "It" gave orders.]'
WORDS = st.text('ab \n"\\é☂\u2028<', min_size=0, max_size=12)
NONEMPTY = st.text('ab"\\é☂<', min_size=1, max_size=12)

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Read"}, {"type": "text", "text": 'both "pages".'}]},
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "tool", "tool_call_id": "c1", "content": "first\npage ☂"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "second page"}]},
        ],
        "model": "m",
        "odd": {"kept": [1.0, 1e3]},
    },
    "/v1/messages": {
        "system": [{"type": "text", "text": "Be"}, {"type": "text", "text": " brief."}],
        "messages": [
            {"role": "user", "content": "Read both."},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {}}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "first page"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "second"}]},
                    {"type": "text", "text": "Well?"},
                    {"type": "text", "text": ""},
                ],
            },
        ],
        "model": "m",
        "max_tokens": 5,
    },
    "/v1/responses": {
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": "Read both."},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "So."}]},
            {"type": "function_call_output", "call_id": "c1", "output": "first page"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "second"}]},
        ],
        "model": "m",
    },
    "/v1/completions": {"prompt": ["Count to", "The weather"], "model": "m"},
    "/v1/chat/completions/batch": {
        "messages": [[{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]],
        "model": "m",
    },
}


def view_of(path: str, value: dict[str, Any]) -> ChatRequest:
    view = DIALECTS[path].request(value)
    assert isinstance(view, ChatRequest), view
    return view


def raw(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


CASES = [
    (path, index)
    for path, body in BODIES.items()
    for index, message in enumerate(view_of(path, body).messages)
    if message.text
]


@pytest.mark.parametrize("path", BODIES)
def test_every_message_has_its_place(path: str) -> None:
    view = view_of(path, BODIES[path])
    assert len(message_places(DIALECTS[path].api, BODIES[path])) == len(view.messages)


@pytest.mark.parametrize(("path", "index"), CASES)
def test_a_span_is_masked_and_nothing_else_changes(path: str, index: int) -> None:
    body, view = raw(BODIES[path]), view_of(path, BODIES[path])
    text = view.messages[index].text
    for start in range(len(text)):
        for end in {start + 1, len(text)}:
            change = TextChange(spans=((start, end, "[x]"),))
            new = rewrite(DIALECTS[path].api, body, view, {index: change})
            again = view_of(path, json.loads(new))
            expected = [one.text if at != index else change.of(text) for at, one in enumerate(view.messages)]
            assert [one.text.replace("\n", "") for one in again.messages] == [one.replace("\n", "") for one in expected]
            assert again.fields == view.fields
            assert len(new) <= len(body) + 3


@pytest.mark.parametrize(("path", "index"), CASES)
def test_a_message_is_withheld_whole(path: str, index: int) -> None:
    body, view = raw(BODIES[path]), view_of(path, BODIES[path])
    new = rewrite(DIALECTS[path].api, body, view, {index: TextChange(whole=NOTICE)})
    again = view_of(path, json.loads(new))
    assert again.messages[index].text.strip() == NOTICE
    assert [one for at, one in enumerate(again.messages) if at != index] == [
        one for at, one in enumerate(view.messages) if at != index
    ]


@given(
    parts=st.lists(st.one_of(WORDS, WORDS.map(lambda text: {"type": "text", "text": text})), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 60), min_size=2, max_size=6),
    words=WORDS,
)
def test_spans_over_several_parts_leave_no_character_of_what_is_masked(
    parts: list[Any], cuts: list[int], words: str
) -> None:
    value = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    body, view = raw(value), view_of("/v1/chat/completions", value)
    text = view.messages[0].text
    edges = sorted({min(cut, len(text)) for cut in cuts})
    spans = tuple((a, b, words) for a, b in zip(edges[::2], edges[1::2], strict=False))
    change = TextChange(spans=spans)
    new = rewrite("chat", body, view, {0: change})
    (message,) = view_of("/v1/chat/completions", json.loads(new)).messages
    assert message.text.replace("\n", "") == change.of(text).replace("\n", "")


def test_what_is_not_as_it_was_read_is_not_changed() -> None:
    value = BODIES["/v1/chat/completions"]
    view = view_of("/v1/chat/completions", value)
    other = msgspec.structs.replace(view.messages[3], text="another page")
    wrong = msgspec.structs.replace(view, messages=(*view.messages[:3], other, *view.messages[4:]))
    with pytest.raises(Unspliceable):
        rewrite("chat", raw(value), wrong, {3: TextChange(spans=((0, 3, "x"),))})
    fewer = msgspec.structs.replace(view, messages=view.messages[1:])
    with pytest.raises(Unspliceable):
        rewrite("chat", raw(value), fewer, {0: TextChange(spans=((0, 3, "x"),))})


def test_media_go_with_a_result_that_is_withheld() -> None:
    content = [{"type": "text", "text": "See."}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    value = {"model": "m", "messages": [{"role": "tool", "tool_call_id": "c", "content": content}]}
    view = view_of("/v1/chat/completions", value)
    new = json.loads(rewrite("chat", raw(value), view, {0: TextChange(whole=NOTICE)}))
    assert new["messages"][0]["content"] == NOTICE
