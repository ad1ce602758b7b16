"""Asking vLLM for more, and taking it out of the answer again: on answers in its form. That its answers have that form,
``tests/e2e/test_vllm_injection.py`` shows."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from serving.wire import strict
from serving.wire.chat_request import read_chat_request
from serving.wire.chat_stream import ChatStreamReader
from serving.wire.injection import Fingerprint, Injected, Uninjector, inject, without_logprobs
from serving.wire.request import ChatRequest
from serving.wire.splice import Unspliceable
from serving.wire.vocabulary import Event
from tests.support import wire
from tests.support.chat import Call, Say, stream, whole

PRINT = b'"vllm-0.32.0-06be4308"'
SAYS = [
    Say(
        "I look.\n", 'So: ☂ 🌤️, "logprobs":{ and ,"finish_reason": too.\n', (Call("get_weather", '{"city": "Oslo ☂"}'),)
    ),
    Say("", "Plain.", ()),
]


def view(**fields: Any) -> ChatRequest:
    made = read_chat_request({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields})
    assert isinstance(made, ChatRequest)
    return made


def asked(raw: str, *, logprobs: bool = True, usage: bool = True, api: str = "chat") -> str | None:
    body = raw.encode()
    read = strict.read(body)
    request = read_chat_request(read)
    assert isinstance(request, ChatRequest)
    made = inject(api, body, request, logprobs=logprobs, usage=usage)
    return None if made is None else made.body.decode()


HEAD = '{"model":"m", "messages":[{"role":"user","content":"\\u00e9"}]'


@pytest.mark.parametrize(
    ("rest", "becomes"),
    [
        ("}", ',"logprobs":true}'),
        (' , "logprobs" : false }', ' , "logprobs" : true }'),
        (',"logprobs":null,"top_logprobs":null}', ',"logprobs":true,"top_logprobs":0}'),
        (',"stream":true}', ',"stream":true,"logprobs":true,"stream_options":{"include_usage":true}}'),
        (
            ',"stream":true,"stream_options":null}',
            ',"stream":true,"stream_options":{"include_usage":true},"logprobs":true}',
        ),
        (
            ',"stream":true,"logprobs":true,"stream_options":{"include_usage":false, "continuous_usage_stats":true}}',
            ',"stream":true,"logprobs":true,"stream_options":{"include_usage":true, "continuous_usage_stats":false}}',
        ),
        (
            ',"stream":true,"logprobs":true,"stream_options":{ }}',
            ',"stream":true,"logprobs":true,"stream_options":{ "include_usage":true}}',
        ),
        (',"logprobs":true}', None),
        (',"stream":true,"logprobs":true,"stream_options":{"include_usage":true}}', None),
        (',"use_beam_search":true}', None),
    ],
)
def test_only_what_is_wanted_and_was_not_asked_for_is_added(rest: str, becomes: str | None) -> None:
    assert asked(HEAD + rest) == (None if becomes is None else HEAD + becomes)


def test_nothing_is_asked_for_where_there_is_nothing_to_have() -> None:
    assert asked(HEAD + ',"stream":true}', logprobs=False, usage=False) is None
    assert asked(HEAD + "}", logprobs=False) is None
    assert asked(HEAD + ',"stream":true}', api="messages") is None
    assert asked(HEAD + ',"stream":true}', api="responses") is None
    assert asked(HEAD + ',"stream":true}', api="completions") == asked(HEAD + ',"stream":true}', logprobs=False)


def signed(events: list[bytes]) -> list[bytes]:
    """As vLLM writes a stream without usage: the fingerprint at the end of each event with a finish reason."""
    return [
        event.removesuffix(b"}\n\n") + b',"system_fingerprint":' + PRINT + b"}\n\n"
        if b'"finish_reason":"' in event
        else event
        for event in events
    ]


def lanes(events: list[bytes]) -> list[bytes]:
    """The choices one after the other: how they take turns hangs on how many events each has."""
    return sorted(events, key=lambda event: (b"[DONE]" in event, b'"index":1,"delta"' in event))


def undone(events: list[bytes], undo: Uninjector) -> list[Event]:
    reader = ChatStreamReader()
    out = [made for data in events for event in reader.feed(data) for made in undo.event(event)]
    return out + undo.rest()


@pytest.mark.parametrize(
    ("ids", "interval", "n", "known", "logprobs", "usage"),
    [
        one
        for one in itertools.product([False, True], [1, 3, 5], [1, 2], [False, True], [False, True], [False, True])
        if one[4] or one[5]
    ],
)
def test_a_stream_is_as_it_would_have_been(
    ids: bool, interval: int, n: int, known: bool, logprobs: bool, usage: bool
) -> None:
    says = SAYS[:n]
    fingerprint = Fingerprint()
    if known:
        fingerprint.learn(PRINT)
    undo = Uninjector(Injected(b"", logprobs, usage), view(stream=True, return_token_ids=ids), fingerprint)
    made = undone(stream(*says, logprobs=logprobs, token_ids=ids, interval=interval, usage=usage), undo)
    expected = stream(*says, token_ids=ids, interval=interval, usage=False)
    assert lanes([event.raw for event in made]) == lanes(signed(expected) if usage else expected)
    for event in made:
        [read] = ChatStreamReader().feed(event.raw)
        assert read.choices == event.choices  # what the gate is told is what the bytes say


def test_no_event_waits_once_the_fingerprint_is_known() -> None:
    fingerprint = Fingerprint()
    for turn in range(2):
        undo = Uninjector(Injected(b"", False, True), view(stream=True), fingerprint)
        events = [event for raw in stream(SAYS[1]) for event in ChatStreamReader().feed(raw)]
        counts = [len(undo.event(event)) for event in events]
        assert counts == ([1] * (len(events) - 3) + ([0, 1, 1] if turn == 0 else [1, 0, 1]))


def test_a_server_without_a_fingerprint_gets_none() -> None:
    undo = Uninjector(Injected(b"", False, True), view(stream=True), Fingerprint())
    events = [event.replace(b',"system_fingerprint":' + PRINT, b"") for event in stream(SAYS[0])]
    assert [event.raw for event in undone(events, undo)] == stream(SAYS[0], usage=False)


def test_usage_that_the_server_forces_on_everybody_stays() -> None:
    usage = b',"usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1}}\n\n'
    events = [event.removesuffix(b"}\n\n") + usage if b'"choices":[{' in event else event for event in stream(SAYS[0])]
    undo = Uninjector(Injected(b"", False, True), view(stream=True), Fingerprint())
    assert [event.raw for event in undone(events, undo)] == events


@pytest.mark.parametrize("kept", [1, 5, -3, -2, -1])
def test_a_stream_that_breaks_off_keeps_no_event_back(kept: int) -> None:
    """Up to the usage event nothing is known of a fingerprint; what waits leaves without one."""
    undo = Uninjector(Injected(b"", True, True), view(stream=True), Fingerprint())
    given = [event.raw for event in undone(stream(SAYS[0], logprobs=True)[:kept], undo)]
    expected = stream(SAYS[0], usage=False)[:-1]
    if kept == -1:
        expected = signed(expected)
    assert given == expected[: len(given)]
    assert kept in (1, 5) or given == expected[: len(expected) - (kept == -3)]


def test_an_error_lets_go_what_waits() -> None:
    error = b'data: {"error": {"message": "x", "code": 500}}\n\n'
    undo = Uninjector(Injected(b"", True, True), view(stream=True), Fingerprint())
    given = [event.raw for event in undone([*stream(SAYS[1], logprobs=True)[:-2], error, b"data: [DONE]\n\n"], undo)]
    assert given == [*stream(SAYS[1], usage=False)[:-1], error, b"data: [DONE]\n\n"]


@pytest.mark.parametrize("n", [1, 2])
def test_a_whole_answer_is_as_it_would_have_been(n: int) -> None:
    undo = Uninjector(Injected(b"", True, False), view(), Fingerprint())
    assert undo.whole(whole(*SAYS[:n], logprobs=True)) == whole(*SAYS[:n])
    untouched = Uninjector(Injected(b"", False, True), view(), Fingerprint())
    assert untouched.whole(whole(*SAYS[:n], logprobs=True)) == whole(*SAYS[:n], logprobs=True)


def test_recorded_events_lose_their_logprobs_only() -> None:
    events = [one for one in wire.load("tools_logprobs_stream").response.body.split(b"\n\n") if b'"choices"' in one]
    for raw in events:
        value, expected = json.loads(without_logprobs(raw + b"\n\n")[6:]), json.loads(raw[6:])
        for choice in expected["choices"]:
            choice["logprobs"] = None
        assert value == expected


@pytest.mark.parametrize(
    "raw", [b'data: {"logprobs":{"content":[]}}\n\n', b'data: {"logprobs":{,"finish_reason":1}\n\n']
)
def test_an_event_of_another_shape_is_not_changed_by_guess(raw: bytes) -> None:
    with pytest.raises(Unspliceable):
        without_logprobs(raw)
