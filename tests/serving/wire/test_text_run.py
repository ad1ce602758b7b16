"""Plain events that come together may be read as one; whatever the bytes, the two ways of reading agree."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Seen
from proxy.gate import Gate
from serving.wire.chat_stream import ChatStreamReader
from serving.wire.chat_writer import ChatWriter
from serving.wire.vocabulary import Event


def event(delta: dict[str, Any], *, index: int = 0, finish: str | None = None, ascii_only: bool = False) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=ascii_only).encode() + b"\n\n"


def texts(*parts: str) -> bytes:
    return b"".join(event({"content": part}) for part in parts)


def read(chunks: list[bytes], *, runs: bool) -> tuple[list[Event], bytes]:
    reader = ChatStreamReader()
    reader.runs = runs
    events = [one for chunk in chunks for one in reader.feed(chunk)]
    return events, reader.rest()


def told(events: list[Event]) -> tuple[Any, ...]:
    """What the two ways must agree on: bytes, what was seen, and what the gate gives."""
    seen, gate = Seen(), Gate(ChatWriter())
    for one in events:
        seen.add(one)
        gate.feed(one)
    choices = {number: (c.said, c.thought, c.finish, c.tokens, c.calls) for number, c in seen.choices.items()}
    return choices, seen.events, seen.usage, seen.answer_id, b"".join(one.raw for one in events), b"".join(gate.take())


def test_texts_that_come_together_come_as_one_event() -> None:
    events, rest = read([texts("a"), texts(" b", " c", " d"), texts("e") + event({}, finish="stop")], runs=True)

    assert [(one.count, one.choices[0].text) for one in events] == [(1, "a"), (3, " b c d"), (1, "e"), (1, None)]
    assert rest == b""


def test_a_run_begins_in_the_very_bytes_that_show_its_frame() -> None:
    events, _ = read(
        [event({"role": "assistant", "content": ""}) + texts("a", "b", "c") + b"data: [DONE]\n\n"], runs=True
    )

    assert [(one.kind, one.count) for one in events] == [("delta", 1), ("delta", 1), ("delta", 2), ("done", 1)]


def test_a_run_ends_before_the_text_that_needs_more_and_goes_on_behind_it() -> None:
    chunk = texts("b", "c", 'say "hi"', "d", "e") + texts("f")[:-5]

    events, rest = read([texts("a"), chunk, texts("f")[-5:] + texts("g", "h")], runs=True)

    assert [(one.count, one.choices[0].text) for one in events] == [
        (1, "a"),
        (2, "bc"),
        (1, 'say "hi"'),
        (2, "de"),
        (1, "f"),
        (2, "gh"),
    ]
    assert rest == b""


def test_reasoning_that_comes_together_comes_as_one_event_and_text_after_it_too() -> None:
    thought = [event({"reasoning": part}) for part in ("x", "y", "z")]

    events, _ = read([thought[0], thought[1] + thought[2], texts("a"), texts("b", "c")], runs=True)

    assert [(one.count, one.choices[0].reasoning, one.choices[0].text) for one in events] == [
        (1, "x", None),
        (2, "yz", None),
        (1, None, "a"),
        (2, None, "bc"),
    ]


def test_without_leave_every_event_comes_by_itself() -> None:
    events, _ = read([texts("a"), texts("b", "c", "d")], runs=False)

    assert [one.count for one in events] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(event({"content": 'say "hi"'}), id="a quote"),
        pytest.param(event({"content": "new\nline"}), id="an escape"),
        pytest.param(event({"content": "é"}, ascii_only=True), id="a unicode escape"),
        pytest.param(event({"content": "b", "tool_calls": [{"index": 0, "function": {"name": "f"}}]}), id="a call"),
        pytest.param(event({"content": "b"}, finish="stop"), id="an end"),
        pytest.param(event({"content": "b"}, index=1), id="another choice"),
        pytest.param(texts("b").replace(b'"b"', b'"b\x07"'), id="a control character"),
        pytest.param(texts("b").replace(b'"b"', b'"\xff"'), id="no UTF-8"),
        pytest.param(texts("b").replace(b'"b"', b'"b","content":"c"'), id="a second content"),
        pytest.param(texts("b")[:-2], id="cut off"),
    ],
)
def test_an_event_that_says_more_is_read_the_long_way(odd: bytes) -> None:
    chunks = [texts("a"), texts("p", "q") + odd + texts("r", "s")]

    quick, slow = read(chunks, runs=True), read(chunks, runs=False)

    assert told(quick[0]) == told(slow[0])
    assert quick[1] == slow[1]


def test_a_text_that_has_the_frame_of_another_event_in_it_is_only_text() -> None:
    spelt = texts("x").decode()
    chunks = [texts("a"), texts("b", spelt, "c"), texts("d", "e")]

    assert told(read(chunks, runs=True)[0]) == told(read(chunks, runs=False)[0])


_PIECES = st.one_of(
    st.text(max_size=6).map(lambda text: event({"content": text})),
    st.text(alphabet="ab é\u20ac", min_size=1, max_size=3).map(lambda text: event({"content": text})),
    st.text(alphabet='ab"\\\n', max_size=4).map(lambda text: event({"reasoning": text})),
    st.sampled_from(
        [
            event({"role": "assistant", "content": ""}),
            event({"content": "one"}, index=1),
            event({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]}),
            event({"content": "end"}, finish="stop"),
            b": comment\n\n",
        ]
    ),
)


@given(st.lists(_PIECES, max_size=30), st.lists(st.integers(0, 4000), max_size=8))
def test_both_ways_say_the_same_at_any_chunking(pieces: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(pieces) + b"data: [DONE]\n\n"
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    chunks = [whole[a:b] for a, b in pairwise(places)]

    assert told(read(chunks, runs=True)[0]) == told(read(chunks, runs=False)[0])
