"""The chat reader on recorded streams: same deltas at any chunking, and the texts, calls and ends they spell."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.wire.chat_stream import ChatStreamReader, read_event
from serving.wire.vocabulary import Event
from tests.support.wire import captures, load

STREAMS = [
    c
    for c in captures()
    if c.request.start.startswith("POST /v1/chat/completions")
    and (c.response.header("content-type") or "").startswith("text/event-stream")
]


def events_of(body: bytes, places: list[int] | None = None) -> list[Event]:
    reader = ChatStreamReader()
    marks = sorted({0, len(body), *(p % (len(body) + 1) for p in places or [])})
    events = [e for a, b in itertools.pairwise(marks) for e in reader.feed(body[a:b])]
    assert reader.rest() == b""
    return events


def test_there_are_recorded_streams() -> None:
    assert len(STREAMS) >= 25


@pytest.mark.parametrize("capture", STREAMS, ids=lambda c: c.name)
def test_every_recorded_stream_is_understood_and_kept_byte_for_byte(capture) -> None:
    body = capture.response.body
    events = events_of(body)
    assert b"".join(e.raw for e in events) == body
    assert {e.kind for e in events} <= {"delta", "usage", "error", "done"}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 100_000), max_size=40))
def test_the_deltas_are_the_same_at_any_chunking(capture, places: list[int]) -> None:
    body = capture.response.body[:20_000]
    body = body[: body.rfind(b"\n\n") + 2]
    assert events_of(body, places) == events_of(body)


def joined(name: str, choice: int = 0) -> tuple[str, str, dict[int, list[str]], str | None]:
    text, reasoning, calls, finish = "", "", {}, None
    for event in events_of(load(name).response.body):
        for delta in event.choices:
            if delta.choice != choice:
                continue
            text += delta.text or ""
            reasoning += delta.reasoning or ""
            for tool in delta.tools:
                call = calls.setdefault(tool.index, ["", ""])
                call[0] += tool.name or ""
                call[1] += tool.arguments
            finish = delta.finish or finish
    return text, reasoning, calls, finish


def test_a_tool_call_is_spelt_whole() -> None:
    _text, reasoning, calls, finish = joined("tools_parallel_stream")
    assert reasoning == "\nTwo cities, so two calls at once.\n"
    assert [(n, json.loads(a)) for n, a in calls.values()] == [
        ("get_weather", {"city": "Paris"}),
        ("get_weather", {"city": "Oslo"}),
    ]
    assert finish == "tool_calls"


def test_tokens_without_text_are_counted_and_spell_the_opener() -> None:
    events = events_of(load("tools_logprobs_stream").response.body)
    blind = [d for e in events for d in e.choices if d.tokens and not d.text and not d.reasoning and not d.tools]
    assert "<tool_call>" in "".join(d.logprob_text or "" for d in blind)


def test_both_choices_are_told_apart() -> None:
    assert joined("n2_stream", 0)[3] == "stop"
    assert joined("n2_stream", 1)[3] == "stop"


def test_a_failure_in_mid_stream_is_an_error_event_before_the_end() -> None:
    kinds = [e.kind for e in events_of(load("s2_engine_killed").response.body)]
    assert kinds[-2:] == ["error", "done"]


def test_usage_is_read_wherever_it_stands() -> None:
    events = events_of(load("chat_continuous_usage").response.body)
    assert all(e.usage is not None for e in events if e.kind in ("delta", "usage"))


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b'"x"',
        b"{}",
        b'{"choices":{}}',
        b'{"choices":[{"index":0,"delta":{"content":1}}]}',
        b"[" * 5000,
        b'{"choices":[{"index":0,"delta":{"function_call":{"name":"f"}}}]}',
    ],
)
def test_what_is_not_understood_says_so(data: bytes) -> None:
    assert read_event(b"data: " + data + b"\n\n").kind == "unknown"


@pytest.mark.parametrize(
    "raw",
    [
        b'data: {"error":{"code":1},"choices":[{"index":0,"delta":{"tool_calls":[]}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{},"message":{"tool_calls":[]}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{},"tool_calls":[{}]}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"custom":{"name":"x"}}]}}]}\n\n',
        b' data: {"choices":[]}\n\n',
        b'Data: {"choices":[]}\n\n',
        b'\xef\xbb\xbfdata: {"choices":[]}\n\n',
        b'{"choices":[]}\n\n',
        b'eventdata: {"choices":[]}\n\n',
    ],
)
def test_what_another_client_might_read_is_not_understood(raw: bytes) -> None:
    assert read_event(raw).kind == "unknown"


@pytest.mark.parametrize("raw", [b": ping\n\n", b"event: x\nid: 1\n\n", b"\n\n", b"retry: 5\r\n\r\n", b"id\n\n"])
def test_what_clients_pass_over_is_a_comment(raw: bytes) -> None:
    assert read_event(raw).kind == "comment"


def test_reasoning_that_is_said_twice_is_understood_only_if_it_is_the_same() -> None:
    def event(**delta: str) -> Event:
        said = json.dumps({"choices": [{"index": 0, "delta": delta}]})
        return read_event(f"data: {said}\n\n".encode())

    assert event(reasoning="a", reasoning_content="a").choices[0].reasoning == "a"
    assert event(reasoning_content="b").choices[0].reasoning == "b"
    assert event(reasoning="a", reasoning_content="b").kind == "unknown"
