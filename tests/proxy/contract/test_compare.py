"""Two answers in, their differences out: each class of difference is found, and what is no difference is not."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.contract.answer import Answer, NoAnswer, Reader
from proxy.contract.compare import KINDS, compare, first_bytes
from proxy.contract.pace import Pace, buffered, pace
from tests.proxy.contract.fakes import (
    STREAM,
    TWO_CHOICES,
    WHOLE,
    Change,
    chunks,
    each_json,
    each_value,
    split,
    with_body,
    with_chunks,
)
from tests.support.wire import load, names, parse


def answer(raw: bytes) -> Answer:
    reader = Reader("POST")
    reader.feed(raw, 0.0)
    return reader.answer()


def found(direct: bytes, through: bytes) -> dict[tuple[str, str], int]:
    return {one.key: one.count for one in compare(answer(direct), answer(through))}


def reencoded(document: bytes) -> bytes:
    return json.dumps(json.loads(document)).encode()


def merged(raw: bytes) -> bytes:
    """A stream with its text deltas two to an event."""
    events = chunks(raw)
    at = next(at for at, event in enumerate(events) if b'"content":"' in event and b'"role"' not in event)
    one, other = (json.loads(event[6:]) for event in events[at : at + 2])
    one["choices"][0]["delta"]["content"] += other["choices"][0]["delta"]["content"]
    both = b"data: " + json.dumps(one, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
    return with_chunks(raw, [*events[:at], both, *events[at + 2 :]])


def without_reasoning(raw: bytes) -> bytes:
    def drop(value: dict[str, object]) -> None:
        for choice in value["choices"]:  # type: ignore[attr-defined]
            choice.get("delta", choice.get("message")).pop("reasoning", None)

    return each_value(raw, drop)


def added(name: str, inner: object) -> Change:
    return lambda raw: each_value(raw, lambda value: value.update({name: inner}))


def replaced(old: bytes, new: bytes) -> Change:
    def change(raw: bytes) -> bytes:
        assert raw.replace(old, new) != raw
        return raw.replace(old, new)

    return change


STREAMED, HEADED, EITHER = [STREAM], [WHOLE], [WHOLE, STREAM]


@pytest.mark.parametrize(
    ("what", "raws", "change", "kind", "where"),
    [
        ("a field is dropped", [WHOLE], without_reasoning, "field missing", "choices[].message.reasoning"),
        ("a field is dropped", [STREAM], without_reasoning, "field missing", "choices[].delta.reasoning"),
        ("a field is added", EITHER, added("provider", "x"), "field added", "provider"),
        ("a value is changed", EITHER, replaced(b'"model":"tiny"', b'"model":"huge"'), "value changed", "model"),
        ("0 becomes false", [WHOLE], lambda raw: with_body(
            raw, split(raw)[1].replace(b'"index":0', b'"index":false')), "value changed", "choices[].index"),
        ("JSON is written anew", EITHER, lambda raw: each_json(raw, reencoded), "re-encoded", ""),
        ("events are merged", [STREAM], merged, "events", ""),
        ("the end mark is lost", [STREAM], lambda raw: with_chunks(raw, chunks(raw)[:-1]), "event lines", ""),
        ("a comment is put in", [STREAM], lambda raw: with_chunks(raw, [b": hi\n\n", *chunks(raw)]), "events", ""),
        ("line ends are changed", [STREAM], lambda raw: with_chunks(
            raw, [event.replace(b"\n", b"\r\n") for event in chunks(raw)]), "event lines", ""),
        ("a header is added", EITHER, replaced(b"\r\nserver:", b"\r\nx-proxy: 1\r\nserver:"), "header added",
         "x-proxy"),
        ("a header is lost", EITHER, replaced(b"\r\nvary: Origin", b""), "header missing", "vary"),
        ("a header is changed", EITHER, replaced(b"server: uvicorn", b"server: x"), "header changed", "server"),
        ("the type loses its charset", [STREAM], replaced(b"; charset=utf-8", b""), "header changed", "content-type"),
        ("a status is changed", EITHER, replaced(b"200 OK", b"201 Created"), "status", ""),
        ("a reason is changed", EITHER, replaced(b"200 OK", b"200 Fine"), "status", ""),
        ("a date is no date", EITHER, replaced(b"date: ", b"date: x"), "header changed", "date"),
        ("the stream ends early", [STREAM], lambda raw: raw[:-5], "cut short", ""),
        ("the body ends early", [WHOLE], lambda raw: raw[:-5], "cut short", ""),
        ("a stream is made whole", [STREAM], lambda raw: with_body(WHOLE, split(WHOLE)[1]), "events", ""),
    ],
)  # fmt: skip
def test_a_difference_is_found(what: str, raws: list[bytes], change: Change, kind: str, where: str) -> None:
    assert kind in KINDS
    for raw in raws:
        differences = found(raw, change(raw))
        assert (kind, where) in differences, (what, differences)
        assert first_bytes(answer(raw), answer(change(raw))) is not None or kind == "cut short"


def test_nothing_else_is_said_than_what_is_so() -> None:
    assert list(found(WHOLE, without_reasoning(WHOLE))) == [("field missing", "choices[].message.reasoning")]
    assert list(found(STREAM, without_reasoning(STREAM))) == [("field missing", "choices[].delta.reasoning")]
    assert list(found(STREAM, each_json(STREAM, reencoded))) == [("re-encoded", "")]
    assert list(found(STREAM, merged(STREAM))) == [("events", "")]


@pytest.mark.parametrize("name", [name for name in names() if "killed" not in name and "sigterm" not in name])
def test_a_recorded_answer_does_not_differ_from_itself(name: str) -> None:
    raw = load(name).response_bytes
    if raw:
        assert found(raw, raw) == {}


@pytest.mark.parametrize(
    "name",
    ["tools_parallel_stream", "responses_tool_stream", "responses", "messages_tool", "messages_stream", "get_models"],
)
def test_what_is_made_anew_each_time_is_no_difference(name: str) -> None:
    raw = load(name).response_bytes
    again = re.sub(rb'(?<=[_-])[0-9a-f]{16}(?=")', lambda match: match.group()[::-1], raw)
    assert again != raw
    again = re.sub(rb'(?<="signature":")[0-9a-f]{32}', b"0123456789abcdef" * 2, again)
    again = again.replace(b'"created":17952', b'"created":17953').replace(b'_at":17952', b'_at":17953')
    again = re.sub(rb"date: \w+", b"date: Mon", again)
    assert found(raw, again) == {}


def test_one_id_that_becomes_two_is_a_difference() -> None:
    raw = load("responses_tool_stream").response_bytes
    place = raw.rindex(b'"fc_')
    assert raw.count(raw[place : place + 21]) > 1
    assert any(
        kind == "value changed" for kind, _ in found(raw, raw[:place] + b'"fc_0123456789abcdef' + raw[place + 20 :])
    )


def test_an_id_of_another_shape_is_a_difference() -> None:
    raw = load("tools_auto").response_bytes
    place = raw.index(b"chatcmpl-tool-")
    other = raw[:place] + b"call_zzzzzzzzz" + raw[place + 14 :]
    assert list(found(raw, other)) == [("value changed", "choices[].message.tool_calls[].id")]


def test_a_request_id_that_did_not_arrive_has_a_class_of_its_own() -> None:
    direct = each_value(WHOLE, lambda value: value.update(id="chatcmpl-interlock-contract-0001"))
    assert list(found(direct, WHOLE)) == [("request id", "id")]


def test_another_answer_id_makes_no_other_ids_differ() -> None:
    raw = load("tools_parallel").response_bytes
    direct = each_value(raw, lambda value: value.update(id="chatcmpl-interlock-contract-0001"))
    assert list(found(direct, raw)) == [("request id", "id")]


def test_choices_may_overtake_one_another_but_not_themselves() -> None:
    events = chunks(TWO_CHOICES)
    numbers = [json.loads(event[6:])["choices"][0]["index"] if b'"choices":[{' in event else None for event in events]
    at = next(at for at in range(2, len(events)) if numbers[at : at + 2] in ([0, 1], [1, 0]))
    swapped = [*events[:at], events[at + 1], events[at], *events[at + 2 :]]
    assert found(TWO_CHOICES, with_chunks(TWO_CHOICES, swapped)) == {}
    same = [at for at, number in enumerate(numbers) if number == 0]
    one, other = next(pair for pair in pairwise(same[3:]) if events[pair[0]] != events[pair[1]])
    events[one], events[other] = events[other], events[one]
    assert found(TWO_CHOICES, with_chunks(TWO_CHOICES, events))


def test_an_address_of_its_own_in_a_redirect_is_no_difference() -> None:
    head = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://%s/v1/models\r\ncontent-length: 0\r\n\r\n"
    direct, through = answer(head % b"a:1"), answer(head % b"b:2")
    assert compare(direct, through, ("a:1", "b:2")) == []
    assert [one.key for one in compare(direct, direct, ("a:1", "b:2"))] == [("header changed", "location")]


def test_the_first_bytes_that_differ_are_given_with_their_place() -> None:
    first = first_bytes(answer(WHOLE), answer(WHOLE.replace(b'"model":"tiny"', b'"model":"huge"')))
    assert first is not None
    assert first.part == "body"
    assert split(WHOLE)[1][first.place : first.place + 4] == b"tiny"
    assert first.direct[20:24] == b"tiny"
    assert first.through[20:24] == b"huge"


def test_the_first_bytes_are_the_bodys_before_a_headers() -> None:
    other = WHOLE.replace(b'"model":"tiny"', b'"model":"huge"').replace(b"uvicorn", b"else")
    assert (found := first_bytes(answer(WHOLE), answer(other))) is not None
    assert found.part == "body"
    assert (found := first_bytes(answer(WHOLE), answer(WHOLE.replace(b"uvicorn", b"else")))) is not None
    assert (found.part, found.direct, found.through) == ("header server", b"uvicorn", b"else")
    assert first_bytes(answer(WHOLE), answer(WHOLE)) is None


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=8), st.sampled_from([WHOLE, STREAM]))
def test_an_answer_is_read_alike_in_any_pieces(cuts: list[int], raw: bytes) -> None:
    reader = Reader("POST")
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    for number, (start, end) in enumerate(pairwise(places)):
        assert not reader.whole
        reader.feed(raw[start:end], float(number))
    assert reader.whole
    read, said = reader.answer(), parse(raw)
    assert (read.start, read.body, read.chunked, read.fault) == (said.start, said.body, said.chunked, None)
    assert read.headers == said.headers
    assert read.came(len(read.body) - 1) <= len(places)


def test_it_is_known_when_each_byte_of_a_stream_came() -> None:
    reader = Reader("POST")
    events = chunks(STREAM)
    second = STREAM.index(events[1])
    reader.feed(STREAM[:second], 1.0)
    reader.feed(STREAM[second:], 2.0)
    read = reader.answer()
    assert read.came(len(events[0]) - 1) == 1.0
    assert read.came(len(events[0])) == 2.0
    assert pace(read) == Pace(1.0, 2.0)


@pytest.mark.parametrize("raw", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 2"])
def test_what_is_no_answer_is_said_to_be_none(raw: bytes) -> None:
    with pytest.raises(NoAnswer):
        answer(raw)


@pytest.mark.parametrize(
    ("direct", "through", "is_held"),
    [
        (Pace(0.01, 0.3), Pace(0.31, 0.311), True),
        (Pace(0.01, 0.3), Pace(0.02, 0.31), False),
        (Pace(0.01, 0.3), Pace(1.01, 1.3), False),  # slow to begin, but event by event
        (Pace(0.01, 0.3), Pace(0.05, 0.06), False),  # a cache's answer: sooner than the server's own
        (Pace(0.012, 0.133), Pace(0.16, 0.176), False),  # too short to tell
        (None, Pace(0.3, 0.301), False),
    ],
)
def test_a_stream_is_held_if_it_comes_at_once_when_it_is_over(
    direct: Pace | None, through: Pace, is_held: bool
) -> None:
    assert bool(buffered(direct, through)) is is_held
