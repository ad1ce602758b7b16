"""The load and the upstream agree on their bytes, and the reader knows an answer's end at any chunking."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.wire import KINDS, LAST_CHUNK, Answers, BodyReader, Kind, Numbered, chunked, kind_of, request, unchunked

ANSWERS = Answers("abc", 5)
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("kind", KINDS)
def test_an_upstream_sees_which_answer_a_request_asks_for(kind: Kind) -> None:
    head, _, body = request(kind, "127.0.0.1:80").number(7).partition(b"\r\n\r\n")
    assert kind_of(body) == kind
    assert b"Content-Length: %d" % len(body) in head
    assert json.loads(body)["messages"][-1]["content"] == "Look into case 000000007 and say what you find."


@given(st.integers(0, 10**12))
def test_requests_of_a_kind_differ_and_are_of_one_length(number: int) -> None:
    sent = request("whole", "h")
    assert len(sent.number(number)) == len(sent.number(0))
    assert sent.number(number) != sent.number(number + 1)


def test_a_number_has_exactly_one_place() -> None:
    with pytest.raises(ValueError):
        Numbered.around(b"no place")


def test_every_answer_is_readable_and_carries_the_name_of_the_run() -> None:
    events = [*ANSWERS.stream[:-1], *ANSWERS.call_events(3)[:-1]]
    bodies = [ANSWERS.whole, ANSWERS.whole_call.number(3), *(event.removeprefix(b"data: ") for event in events)]
    assert {json.loads(body)["id"] for body in bodies} == {"chatcmpl-abc"}
    assert ANSWERS.stream[-1] == b"data: [DONE]\n\n"


def test_each_tool_call_has_arguments_of_its_own() -> None:
    def arguments(number: int) -> str:
        deltas = [json.loads(event[6:])["choices"] for event in ANSWERS.call_events(number)[:-1]]
        calls = [choice["delta"].get("tool_calls", []) for choices in deltas for choice in choices]
        return "".join(call["function"].get("arguments", "") for group in calls for call in group)

    assert json.loads(arguments(4)) == {"command": "ls -la build/000000004"}
    assert len(b"".join(ANSWERS.call_events(4))) == len(b"".join(ANSWERS.call_events(5)))


@given(st.lists(st.integers(1, 60), max_size=40))
def test_a_chunked_answer_is_over_at_its_last_byte_and_not_before(sizes: list[int]) -> None:
    data = HEAD + b"".join(map(chunked, ANSWERS.stream)) + LAST_CHUNK
    reader, at = BodyReader(), 0
    for size in sizes:
        if at + size >= len(data):
            break
        assert not reader.feed(data[at : at + size])
        at += size
    assert reader.feed(data[at:])
    assert reader.status == 200
    assert reader.size == len(data) - len(HEAD)
    assert b"[DONE]" in reader.tail


def test_a_counted_answer_is_over_when_its_length_has_come() -> None:
    reader = BodyReader()
    assert not reader.feed(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nab")
    assert reader.body_began
    assert reader.feed(b"cd")
    assert (reader.status, reader.size) == (503, 4)


def test_chunks_are_taken_apart_and_a_broken_body_is_refused() -> None:
    whole = chunked(b"one") + chunked(b"\r\n0\r\n\r\n") + LAST_CHUNK
    assert unchunked(whole) == b"one\r\n0\r\n\r\n"
    with pytest.raises(ValueError):
        unchunked(whole[: -len(LAST_CHUNK) - 4])
