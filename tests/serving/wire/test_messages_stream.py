"""Streams of ``/v1/messages``: recorded ones at any chunking, what is not understood, runs of deltas read as one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.exchange import Seen
from proxy.gate import Gate
from serving.wire.messages_stream import MessagesStreamReader
from serving.wire.messages_writer import MessagesStreamWriter
from serving.wire.vocabulary import Event, ToolDelta, Usage
from tests.support.chat import Call, Say
from tests.support.messages import block_delta, block_start, block_stop, end, event, start, stream
from tests.support.wire import load

RECORDED = ("messages_stream", "messages_tool_stream", "messages_tool_parallel_stream", "s4_killed_messages")
CUTS = st.lists(st.integers(0, 8000), max_size=12)


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[a:b] for a, b in pairwise(places)]


def read(pieces: list[bytes], *, runs: bool = False) -> tuple[MessagesStreamReader, list[Event]]:
    reader = MessagesStreamReader()
    reader.runs = runs
    return reader, [one for piece in pieces for one in reader.feed(piece)]


def told(pieces: list[bytes], *, runs: bool) -> tuple[Any, ...]:
    """What must not depend on how the events came: bytes, what was seen, what the gate gives."""
    reader, events = read(pieces, runs=runs)
    seen, gate = Seen(), Gate(MessagesStreamWriter(reader.counts))
    for one in events:
        seen.add(one)
        gate.feed(one)
    choices = {number: (c.said, c.thought, c.finish, c.tokens, c.calls) for number, c in seen.choices.items()}
    raw = b"".join(one.raw for one in events) + reader.rest()
    return choices, seen.events, seen.usage, seen.answer_id, reader.counts, raw, b"".join(gate.take())


@pytest.mark.parametrize("name", RECORDED)
@settings(max_examples=30, deadline=None)
@given(cuts=CUTS)
def test_a_recorded_stream_says_the_same_at_any_chunking(name: str, cuts: list[int]) -> None:
    body = load(name).response.body
    assert told(chunks(body, cuts), runs=True) == told([body], runs=False)
    _, events = read(chunks(body, cuts))
    assert b"".join(one.raw for one in events) == body
    assert {one.kind for one in events} <= {"delta", "done", "error"}


def test_a_recorded_answer_is_what_it_says() -> None:
    _, events = read([load("messages_tool_parallel_stream").response.body])
    seen = Seen()
    for one in events:
        seen.add(one)
    choice = seen.choices[0]
    assert choice.thought == "\nTwo cities, so two calls at once.\n"
    assert choice.said == "\n\n"
    assert [choice.call(i)[1:] for i in (0, 1)] == [
        ("get_weather", '{"city": "Paris"}'),
        ("get_weather", '{"city": "Oslo"}'),
    ]
    assert (choice.finish, seen.usage) == ("tool_calls", Usage(276, 66))
    assert seen.answer_id == "chatcmpl-b1a9270f5d919a1e"
    assert events[-1].kind == "done"


def test_tokens_from_the_cache_are_part_of_the_prompt() -> None:
    usage = {"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 3}
    closing = event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})
    _, events = read([start(), closing])
    assert events[-1].usage == Usage(prompt=28, completion=7, cached=20)


TEXT = [start(), block_start(0, type="text", text="")]
CALL = [start(), block_start(0, type="tool_use", id="t", name="run", input={})]
ODD: dict[str, tuple[list[bytes], bytes]] = {
    "a delta of another block": (TEXT, block_delta(1, type="text_delta", text="x")),
    "a delta of another kind": (TEXT, block_delta(0, type="input_json_delta", partial_json="{}")),
    "a delta that nobody knows": (TEXT, block_delta(0, type="citations_delta", citation={})),
    "text and arguments": (TEXT, block_delta(0, type="text_delta", text="x", partial_json="{}")),
    "arguments and text": (CALL, block_delta(0, type="input_json_delta", partial_json="{}", text="x")),
    "a text that is a number": (TEXT, block_delta(0, type="text_delta", text=5)),
    "a block in a block": (TEXT, block_start(1, type="tool_use", id="t", name="run", input={})),
    "the end of another block": (TEXT, block_stop(1)),
    "an end without a start": (TEXT[:1], block_stop(0)),
    "the message's end in a block": (TEXT, end("end_turn")[0]),
    "the stream's end in a block": (TEXT, end("end_turn")[1]),
    "a second start": (TEXT[:1], start()),
    "a start that says something": ([], start().replace(b'"content":[]', b'"content":[{"type":"tool_use"}]')),
    "a block before the start": ([], block_start(0, type="text", text="")),
    "a block after the end": ([start(), end("end_turn")[0]], block_start(0, type="text", text="")),
    "an index that is not the next": (TEXT[:1], block_start(1, type="text", text="")),
    "a block that nobody knows": (TEXT[:1], block_start(0, type="mcp_tool_use", id="x", name="y", input={})),
    "a text with a name": (TEXT[:1], block_start(0, type="text", text="", name="run")),
    "a call without a name": (TEXT[:1], block_start(0, type="tool_use", id="t", input={})),
    "a call that says text": (CALL, block_delta(0, type="text_delta", text="x")),
    "a message's end that says text": (TEXT[:1], event({"type": "message_delta", "delta": {"text": "x"}})),
    "another event's name": (
        TEXT,
        block_delta(0, type="text_delta", text="x").replace(b"content_block_delta", b"x", 1),
    ),
    "no name": (TEXT, b"data:" + block_delta(0, type="text_delta", text="x").partition(b"data:")[2]),
    "two names": (TEXT, b"event: ping\n" + block_delta(0, type="text_delta", text="x")),
    "a name and no data": ([], b"event: error\n\n"),
    "no JSON": ([], b"event: message_start\ndata: {\n\n"),
    "no UTF-8": (TEXT, block_delta(0, type="text_delta", text="x").replace(b'"x"', b'"\xff"')),
    "input that is no UTF-8": (
        CALL[:1],
        block_start(0, type="tool_use", name="x", input={"a": "b"}).replace(b'"b"', b'"\xff"'),
    ),
    "half a surrogate": (TEXT, block_delta(0, type="text_delta", text="x").replace(b'"x"', b'"\\ud800"')),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_not_understood_is_unknown(name: str) -> None:
    before, odd = ODD[name]
    for runs in (True, False):
        _, events = read([*before, odd], runs=runs)
        assert [one.kind for one in events] == ["delta"] * len(before) + ["unknown"]
        assert events[-1].raw == odd


def test_all_of_a_block_that_is_not_understood_is_unknown_and_the_next_is_read_again() -> None:
    _, events = read(
        [
            start(),
            block_start(0, type="server_tool_use", id="x", name="y", input={}),
            block_delta(0, type="input_json_delta", partial_json="{}"),
            block_stop(0),
            block_start(1, type="text", text=""),
        ]
    )
    assert [one.kind for one in events] == ["delta", "unknown", "unknown", "unknown", "delta"]


def test_other_line_ends_and_comments_are_understood_as_clients_understand_them() -> None:
    body = b"".join(stream(Say(text="Hi.", calls=(Call("run", '{"a":1}'),))))
    odd = b": hello\n\n" + event({"type": "ping"}) + body.replace(b"\n", b"\r\n")
    _, events = read([odd])
    assert [one.kind for one in events][:2] == ["comment", "delta"]
    assert [one.choices for one in events][2:] == [one.choices for one in read([body])[1]]


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("", True),
        ("{}", True),
        ('{"a":1}', True),
        ('{"a":1}}', True),
        ("NaN", True),
        ("[" * 99_999, True),
        ("{", False),
    ],
)
def test_a_call_is_done_when_its_block_stops_unless_it_may_have_been_cut_off(text: str, done: bool) -> None:
    pieces = [block_delta(0, type="input_json_delta", partial_json=text)] if text else []
    _, events = read([*CALL, *pieces, block_stop(0)])
    assert events[-1].choices[0].tools == (ToolDelta(0, arguments="" if text else "{}", done=done),)


def test_an_event_without_its_end_is_harmless_only_if_no_client_would_act_on_it() -> None:
    reader, _ = read(TEXT)
    assert reader.harmless(b"event: message_stop")
    assert reader.harmless(end("end_turn")[1].rstrip(b"\n"))
    assert reader.harmless(b": comment")
    assert not reader.harmless(block_start(1, type="tool_use", id="t", name="run", input={}).rstrip(b"\n"))
    assert not reader.harmless(block_delta(0, type="text_delta", text="x").rstrip(b"\n"))


def test_deltas_that_come_together_come_as_one_event_in_their_own_block_only() -> None:
    def texts(index: int, *words: str) -> bytes:
        return b"".join(block_delta(index, type="text_delta", text=word) for word in words)

    _, events = read([*TEXT, texts(0, "a"), texts(0, "b", "c"), texts(0, "d") + block_stop(0)], runs=True)
    assert [(one.count, one.choices[0].text) for one in events[2:]] == [(1, "a"), (2, "bc"), (1, "d"), (1, None)]
    _, events = read([*TEXT, texts(0, "a"), texts(0, "b"), block_stop(0), texts(0, "c", "d")], runs=True)
    assert [one.kind for one in events][-2:] == ["unknown", "unknown"]


SAYS = st.builds(
    Say,
    reasoning=st.sampled_from(["", "I look around.\n", 'A "quote" … 🌤️ and more']),
    text=st.sampled_from(["", "\n\n", "I will clean up now.\n", '{"type":"text_delta","text":"x"}', "Grüße 🌤️\n"]),
    calls=st.lists(st.sampled_from([Call("f", '{"text":"a"}'), Call("g", "")]), max_size=2).map(tuple),
)


@settings(max_examples=150, deadline=None)
@given(SAYS, st.integers(1, 4), CUTS)
def test_both_ways_say_the_same_at_any_chunking(say: Say, interval: int, cuts: list[int]) -> None:
    pieces = chunks(b"".join(stream(say, interval=interval)), cuts)
    assert told(pieces, runs=True) == told(pieces, runs=False)
