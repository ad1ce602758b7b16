"""Probabilities of the values of tool calls, found by the tokens that spell them."""

from __future__ import annotations

import json
import random
from math import exp, log
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.wire.chat_answer import read_answer
from serving.wire.chat_stream import ChatStreamReader
from serving.wire.token_alignment import (
    MANY_CALLS,
    MANY_VALUES,
    NO_CALL,
    NO_TEXT,
    NO_VALUE,
    NOT_WHOLE,
    CallSureness,
    TokenTrail,
)
from serving.wire.vocabulary import TokensShown
from tests.support import wire

OFFERED = frozenset({"get_weather", "run"})


def trail(*tokens: tuple[str | bytes, float], offered: frozenset[str] = OFFERED) -> TokenTrail:
    """A choice whose tokens have these texts and probabilities, one event each."""
    made = TokenTrail(offered)
    for text, chance in tokens:
        raw = text.encode() if isinstance(text, str) else text
        made.add(TokensShown(raw, (len(raw),), (log(chance),)))
    return made


def spelled(text: str, size: int = 3, unlikely: str = "", chance: float = 0.25) -> TokenTrail:
    """``text`` in tokens of ``size`` bytes as vLLM shows them; those of ``unlikely`` have ``chance``."""
    raw = text.encode()
    begin = raw.find(unlikely.encode()) if unlikely else -1
    end = begin + len(unlikely.encode())
    made = TokenTrail(OFFERED)
    pending = 0
    for at in range(0, len(raw), size):
        stop = min(at + size, len(raw))
        logprob = log(chance if unlikely and at < end and stop > begin else 1.0)
        try:
            raw[pending:stop].decode()
            made.add(TokensShown(raw[pending:stop], (stop - pending,), (logprob,)))
            pending = stop
        except UnicodeDecodeError:
            made.add(TokensShown(b"", (0,), (logprob,)))
    return made


def ask(made: TokenTrail, name: str, arguments: Any, **more: bool) -> CallSureness:
    said = arguments if isinstance(arguments, str) else json.dumps(arguments)
    found = made.call(0, name, said, lambda: [(0, name, said)], **more)
    assert found is not None
    return found


def least(found: CallSureness) -> dict[str, float | str | None]:
    return {one.path: round(one.sure.least, 4) if one.sure else one.unaligned for one in found.arguments}


def test_a_value_has_its_own_tokens_only() -> None:
    made = trail(
        *[("<tool_call>", 0.9), ('{"', 1), ("name", 1), ('": "', 1), ("get_", 0.8), ("weather", 0.6), ('", "', 1)],
        *[
            ("arguments", 1),
            ('": {"', 1),
            ("city", 1),
            ('": "', 1),
            ("Os", 0.5),
            ("lo", 0.3),
            ('", "n": ', 1),
            ("3", 0.7),
        ],
        *[("}}", 0.2), ("</tool_call>", 1)],
    )
    found = ask(made, "get_weather", {"city": "Oslo", "n": 3})
    assert found.name is not None and found.answer is not None
    assert (round(found.name.least, 4), round(found.name.mean, 4), found.name.tokens) == (0.6, 0.7, 2)
    assert (round(found.answer.least, 4), found.answer.tokens) == (0.2, 17)
    city, number = found.arguments
    assert city.sure is not None and number.sure is not None
    assert (city.path, round(city.sure.least, 4), round(city.sure.mean, 4), city.sure.tokens) == ("/city", 0.3, 0.4, 2)
    assert (number.path, round(number.sure.least, 4), number.sure.tokens) == ("/n", 0.7, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"a\\nb"', "a\nb"),
        ('"caf\\u00e9"', "café"),
        ('"café 😀"', "café 😀"),
        ('"\\ud83d\\ude00"', "😀"),
        ('"C:\\\\\\"x\\""', 'C:\\"x"'),
        ('{"deep": [1, "x"]}', {"deep": [1, "x"]}),
        ("[1,  2]", [1, 2]),
        ("-1.50e2", -150.0),
        ("true", True),
        ("null", None),
        ('""', ""),
    ],
)
def test_a_value_is_found_however_its_parser_writes_it_again(written: str, value: object, size: int) -> None:
    call = f'{{"arguments": {{"a" : {written}, "b":1}}, "name": "run"}}'
    text = f"<think>\nSo {written}.\n</think>\n<tool_call>\n{call}\n</tool_call>"
    made = TokenTrail(OFFERED)
    before, behind = text.rsplit(written, 1)
    for part, chance in ((before, 1.0), (written, 0.25), (behind, 1.0)):
        raw = part.encode()
        for at in range(0, len(raw), size):
            piece = raw[at : at + size]
            made.add(TokensShown(piece, (len(piece),), (log(chance),)))
    found = ask(made, "run", {"b": 1, "a": value})
    assert least(found) == {"/b": 1.0, "/a": 0.25}
    assert found.name is not None and found.name.least == 1.0


def test_parts_of_a_character_belong_to_it() -> None:
    made = trail(('<tool_call>{"name":"run","arguments":{"a":"', 1), ("", 0.5), ("", 0.25), ("😀", 0.75), ("", 0.125))
    made.add(TokensShown("é".encode(), (2,), (0.0,)))
    made.add(TokensShown(b'"}}</tool_call>', (15,), (0.0,)))
    found = ask(made, "run", {"a": "😀é"})
    assert found.arguments[0].sure is not None
    assert (round(found.arguments[0].sure.least, 4), found.arguments[0].sure.tokens) == (0.125, 5)
    [only] = ask(
        trail(("", 0.5), *[('<tool_call>{"name":"run","arguments":{"a":1', 1), ("}}", 1)]), "run", {"a": 1}
    ).arguments
    assert only.sure is not None and only.sure.least == 1.0


def test_calls_that_are_alike_are_told_apart_by_their_order() -> None:
    call = '<tool_call>{"name": "run", "arguments": {"cmd": "ls"}}</tool_call>'
    said = ("run", '{"cmd":"ls"}')
    first = trail((call[: call.index("ls")], 1), ("ls", 0.5), (call[call.index("ls") + 2 :], 1))
    assert round(ask(first, *said).arguments[0].sure.least, 4) == 0.5  # type: ignore[union-attr]
    first.add(TokensShown(call.encode(), (len(call),), (log(0.125),)))
    second = first.call(1, *said, lambda: [(0, *said), (1, *said)])
    assert second is not None and round(second.arguments[0].sure.least, 4) == 0.125  # type: ignore[union-attr]
    together = trail((call, 0.5), (call, 0.25))
    both = [together.call(index, *said, lambda: [(0, *said), (1, *said)]) for index in (0, 1)]
    assert [one and one.arguments[0].sure and round(one.arguments[0].sure.least, 4) for one in both] == [0.5, 0.25]
    assert ask(trail((call, 0.5), (call, 0.25)), *said).unaligned == MANY_CALLS


def test_the_same_value_twice_is_told_apart_by_its_key() -> None:
    text = '<tool_call>{"name": "run", "arguments": {"to": "x@y.z", "from": "x@y.z"}}</tool_call>'
    begin = text.index("x@y.z")
    made = trail((text[:begin], 1), ("x@y.z", 0.5), (text[begin + 5 :], 1))
    assert least(ask(made, "run", {"from": "x@y.z", "to": "x@y.z"})) == {"/from": 1.0, "/to": 0.5}


def test_what_reasoning_says_is_no_call() -> None:
    said = '<tool_call>{"name": "run", "arguments": {"cmd": "ls"}}</tool_call>'
    made = trail((f"<think>I write {said}</think>", 0.125), (said, 0.5))
    assert least(ask(made, "run", {"cmd": "ls"})) == {"/cmd": 0.5}


def test_forms_without_json_are_searched() -> None:
    text = (
        "<tool_call>\n<function=run>\n<parameter=cmd>\nls -l\n</parameter>\n"
        "<parameter=n>\n5\n</parameter>\n</function>\n</tool_call>"
    )
    found = ask(spelled(text, 3, "ls -l"), "run", {"cmd": "ls -l", "n": 5})
    assert least(found) == {"/cmd": 0.25, "/n": 1.0}
    twice = text.replace("<parameter=n>\n5", "<parameter=n>\nls -l")
    assert least(ask(spelled(twice), "run", {"cmd": "ls -l", "n": "ls -l"})) == {"/cmd": MANY_VALUES, "/n": MANY_VALUES}
    python = "[get_weather(city='Os\\x6co')]"
    assert least(ask(spelled(python), "get_weather", {"city": "Oslo"})) == {"/city": NO_VALUE}


def test_what_is_not_sure_is_not_guessed() -> None:
    text = '<tool_call>{"name": "run", "arguments": {"cmd": "ls"}}</tool_call>'
    assert ask(spelled(text), "run", {"cmd": "rm"}).unaligned == NO_CALL
    assert ask(spelled(text), "other", {"cmd": "ls"}).unaligned == NO_CALL
    assert ask(spelled(text), "run", '{"cmd": "l', complete=False).unaligned == NOT_WHOLE
    assert ask(spelled("No calls here."), "run", {}).unaligned == NO_CALL
    broken = trail((b"\xff\xfe", 1), (text, 1))
    assert ask(broken, "run", {"cmd": "ls"}).unaligned == NO_TEXT
    named = ask(spelled('<tool_call>{"name": "name", "arguments": {}}</tool_call>'), "name", {})
    assert named.name is None and named.arguments == ()
    assert TokenTrail(OFFERED).call(0, "run", "{}", lambda: []) is None


def test_a_call_in_the_text_takes_nothing_from_one_of_the_answer() -> None:
    """Both are asked for, under the same index, in either order."""
    text = '{"name": "run", "arguments": {"cmd": "pwd"}}'
    call = '<tool_call>{"name": "run", "arguments": {"cmd": "ls"}}</tool_call>'
    for first, other in (("pwd", "ls"), ("ls", "pwd")):
        made = trail((text, 0.5), (call, 0.25))
        asked = [json.dumps({"cmd": cmd}) for cmd in (first, other)]
        found = [made.call(0, "run", said, lambda: [(0, "run", '{"cmd": "ls"}')]) for said in asked]
        chances = {"pwd": 0.5, "ls": 0.25}
        assert [least(one)["/cmd"] for one in found if one] == [chances[first], chances[other]]


def test_an_answer_once_given_stays() -> None:
    made = spelled('<tool_call>{"name": "run", "arguments": {}}</tool_call>')
    first = ask(made, "run", {})
    assert ask(made, "run", {}) is first


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8), st.text(max_size=12) | st.integers(-9, 9) | st.lists(st.booleans()), max_size=4
    ),
    st.integers(1, 7),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_every_value_of_json_is_found(arguments: dict[str, Any], size: int, ascii_only: bool, seed: int) -> None:
    """Each value's tokens have a chance of their own, and nothing else has it."""
    shuffle = random.Random(seed)
    keys = list(arguments)
    shuffle.shuffle(keys)
    made = TokenTrail(OFFERED)

    def write(text: str, chance: float) -> None:
        raw = text.encode()
        for at in range(0, len(raw), size):
            piece = raw[at : at + size]
            made.add(TokensShown(piece, (len(piece),), (log(chance),)))

    write('<tool_call>{"name": "run", "arguments": {', 1)
    for place, key in enumerate(keys):
        write(f"{', ' if place else ''}{json.dumps(key, ensure_ascii=ascii_only)}: ", 1)
        write(json.dumps(arguments[key], ensure_ascii=ascii_only), 2.0 ** -(place + 1))
    write("}}</tool_call>", 1)
    found = ask(made, "run", arguments)
    expected = {key: 2.0 ** -(place + 1) for place, key in enumerate(keys)}
    assert [one.sure and round(one.sure.least, 6) for one in found.arguments] == [expected[key] for key in arguments]


def stream_trails(name: str) -> tuple[dict[int, TokenTrail], dict[int, dict[int, list[str]]]]:
    """The tokens and the calls of a recorded stream, by choice."""
    trails: dict[int, TokenTrail] = {}
    calls: dict[int, dict[int, list[str]]] = {}
    for event in ChatStreamReader().feed(wire.load(name).response.body):
        for delta in event.choices:
            if delta.shown is not None:
                trails.setdefault(delta.choice, TokenTrail(OFFERED)).add(delta.shown)
            for tool in delta.tools:
                call = calls.setdefault(delta.choice, {}).setdefault(tool.index, ["", ""])
                call[0] += tool.name or ""
                call[1] += tool.arguments
    return trails, calls


def test_a_recorded_stream_is_aligned() -> None:
    trails, calls = stream_trails("tools_logprobs_stream")
    [(name, arguments)] = calls[0].values()
    found = ask(trails[0], name, arguments)
    assert found.name is not None
    assert (found.name.tokens, round(found.name.least, 3)) == (3, round(exp(-0.0007), 3))
    [city] = found.arguments
    assert city.path == "/city" and city.sure is not None and city.sure.tokens == 1
    assert city.sure.least == city.sure.mean
    assert found.answer.tokens == len(trails[0])
    assert found.answer.least == min(found.answer.least, city.sure.least)


def test_a_recorded_whole_answer_shows_its_tokens() -> None:
    answer = read_answer(wire.load("chat_logprobs").response.body)
    assert answer is not None
    shown = answer.choices[0].shown
    assert shown is not None
    assert sum(shown.lengths) == len(shown.spelled) and len(shown.lengths) == len(shown.logprobs)
    assert answer.choices[0].text.strip() in shown.spelled.decode()


def test_parts_of_characters_are_seen_in_a_recorded_stream() -> None:
    trails, _ = stream_trails("emoji_stream_logprobs")
    events = [d for e in ChatStreamReader().feed(wire.load("emoji_stream_logprobs").response.body) for d in e.choices]
    lengths = [length for delta in events if delta.shown for length in delta.shown.lengths]
    assert lengths.count(0) == 5
    assert len(trails[0]) == len(lengths)
