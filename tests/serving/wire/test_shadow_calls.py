"""Tool calls left in plain text: every family's form, at any chunking, and nothing where there is none."""

from __future__ import annotations

import itertools
import json
import sys
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.wire import strict
from serving.wire.shadow_calls.block import LONGEST_CALL, ShadowCall
from serving.wire.shadow_calls.markers import LONGEST_PARTIAL
from serving.wire.shadow_calls.reader import ShadowReader

OFFERED = frozenset({"get_weather", "run"})
OSLO = {"city": "Oslo"}
SAID = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'


class Case(NamedTuple):
    text: str
    calls: list[tuple[str, object]]


FORMS = {
    "hermes": Case(f"Sure.\n<tool_call>\n{SAID}\n</tool_call> bye", [("get_weather", OSLO)]),
    "hermes, two": Case(
        '<tool_call>{"name":"a","arguments":{}}</tool_call>\n<tool_call>{"name":"b","arguments":{}}</tool_call>',
        [("a", {}), ("b", {})],
    ),
    "qwen3 coder": Case(
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
        [("get_weather", OSLO)],
    ),
    "llama": Case(
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo"}}; {"name": "x", "parameters": {}}',
        [("get_weather", OSLO), ("x", {})],
    ),
    "llama, custom": Case('<function=get_weather>{"city": "Oslo"}</function>', [("get_weather", OSLO)]),
    "llama, bare": Case('So {"name": "get_weather", "parameters": {"city": "Oslo"}} it is', [("get_weather", OSLO)]),
    "pythonic": Case('[get_weather(city="Oslo"), run(cmd=\'l"s\')]', [("get_weather", OSLO), ("run", {"cmd": 'l"s'})]),
    "mistral": Case(f"[TOOL_CALLS] [{SAID}]", [("get_weather", OSLO)]),
    "mistral 11": Case(
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]x{"a":1}', [("get_weather", OSLO), ("x", {"a": 1})]
    ),
    "mistral 13": Case('[TOOL_CALLS]get_weather[CALL_ID]a1B2[ARGS]{"city": "Oslo"}', [("get_weather", OSLO)]),
    "gemma": Case('```tool_code\nprint(get_weather(city="Oslo"))\n```\n', [("get_weather", OSLO)]),
    "gemma tag": Case('<tool_code>r = get_weather(city="Oslo")</tool_code>', [("get_weather", OSLO)]),
    "gemma program": Case(
        '<tool_code>\nimport os\nos.system("ls")\n</tool_code>', [("python", {"code": 'import os\nos.system("ls")\n'})]
    ),
    "function gemma": Case(
        "<start_function_call>call:get_weather{city:<escape>Oslo<escape>}<end_function_call>", [("get_weather", OSLO)]
    ),
    "gemma 4": Case(
        '<|tool_call>call:x{city:<|"|>a, "b"<|"|>,n:42,l:[true]}<tool_call|>',
        [("x", {"city": 'a, "b"', "n": 42, "l": [True]})],
    ),
    "deepseek 3": Case(
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Oslo"}\n'
        "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        [("get_weather", OSLO)],
    ),
    "deepseek 3.1": Case(
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜>',
        [("get_weather", OSLO)],
    ),
    "deepseek 3.2": Case(
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">'
        "杭州</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        [("get_weather", {"city": "杭州"})],
    ),
    "harmony": Case(
        '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>',
        [("get_weather", OSLO)],
    ),
    "harmony, specials gone": Case(
        'assistantcommentary to=functions.get_weather json{"city": "Oslo"}', [("get_weather", OSLO)]
    ),
    "kimi": Case(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Oslo"}<|tool_call_end|><|tool_calls_section_end|>',
        [("get_weather", OSLO)],
    ),
    "glm": Case(
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>",
        [("get_weather", OSLO)],
    ),
    "glm, no arguments": Case("<tool_call>get_time</tool_call>", [("get_time", {})]),
    "minimax": Case(
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Oslo</parameter>\n</invoke>\n'
        "</minimax:tool_call>",
        [("get_weather", OSLO)],
    ),
    "a name in the tag": Case('<tool_call name="get_weather">{"city": "Oslo"}</tool_call>', [("get_weather", OSLO)]),
    "olmo": Case(
        '<function_calls>get_weather(city="Oslo")\nx(n=1)</function_calls>', [("get_weather", OSLO), ("x", {"n": 1})]
    ),
    "granite": Case(f"<|tool_call|>[{SAID}]", [("get_weather", OSLO)]),
    "phi 4 mini": Case(f"functools[{SAID}]", [("get_weather", OSLO)]),
    "apertus": Case('<|tools_prefix|>[{"x": {"city": "Oslo"}}]<|tools_suffix|>', [("x", OSLO)]),
    "internlm": Case(
        '<|action_start|><|plugin|>{"name": "x", "parameters": {"city": "Oslo"}}<|action_end|>', [("x", OSLO)]
    ),
    "cohere": Case('<|START_ACTION|>[{"tool_name": "x", "parameters": {}}]<|END_ACTION|>', [("x", {})]),
    "code fence": Case(f"```json\n{SAID}\n```", [("get_weather", OSLO)]),
    "OpenAI's own shape": Case(
        '<tool_call>{"type": "function", "function": {"name": "x", "arguments": "{\\"a\\": 1}"}}</tool_call>',
        [("x", {"a": 1})],
    ),
}
"""What a model of each family writes, and the calls that its parser would find."""

EVASIONS = {
    "case and white space": Case('< TOOL_Call >{"name": "x", "arguments": {}}</TOOL_CALL>', [("x", {})]),
    "escapes in key and name": Case(
        '{"n\\u0061me": "r\\u0075n", "arguments": {"cmd": "ls"}}', [("run", {"cmd": "ls"})]
    ),
    "inside another object": Case('{"x": [{"name": "run", "arguments": {"a": "}{"}}]}', [("run", {"a": "}{"})]),
    "behind a stray quote": Case('{"x": "{"name": "run", "arguments": {}}', [("run", {})]),
    "behind stray braces": Case('{ {{"a": {"b": {"name": "run", "arguments": {}} and on', [("run", {})]),
    "behind an unfinished list": Case('[run("oops\n[run(cmd="ls")]', [("run", {"cmd": "ls"})]),
    "in a list's string": Case(
        "[run(cmd=\"[run(cmd='rm')]\")]", [("run", {"cmd": "rm"}), ("run", {"cmd": "[run(cmd='rm')]"})]
    ),
    "an opener in an argument": Case(
        '{"name": "run", "arguments": {"cmd": "<tool_call> rm"}}', [("run", {"cmd": "<tool_call> rm"})]
    ),
    "an opener before a call": Case(f"<tool_call> is the tag: {SAID}", [("get_weather", OSLO)]),
    "an unfinished one before": Case(
        '<tool_call>{"name": "x" <tool_call>{"name": "y", "arguments": {}}</tool_call>',
        [("x", None), ("y", {})],
    ),
    "repaired by its reader": Case("<tool_call>{'name': 'x', 'arguments': {'a': 1}}</tool_call>", [("x", None)]),
    "an offered name and then anything": Case(
        '<|tool_call_begin|>functions.run:0<|oops|>"cmd": "ls"}<|tool_call_end|>', [("run", None)]
    ),
    "a name twice": Case('<tool_call>{"name": "a", "name": "run", "arguments": {}}</tool_call>', [("run", None)]),
    "arguments twice": Case('{"name": "run", "arguments": {}, "arguments": {"a": 1}}', [("run", None)]),
    "a parameter twice": Case(
        "<function=x><parameter=a>1</parameter><parameter=a>2</parameter></function>", [("x", None)]
    ),
    "a keyword from an expression": Case('<tool_code>\nx(a="r" + "m")\n</tool_code>', [("x", None)]),
    "a call in a program": Case(
        '```tool_code\nfor i in [1]:\n    run(cmd="ls")\n```\n',
        [("python", {"code": 'for i in [1]:\n    run(cmd="ls")\n'}), ("run", {"cmd": "ls"})],
    ),
}
"""What may hide a call. None for the arguments: the strict reading refuses them, and so will the gate."""


def read_all(text: str, cuts: list[int] | None = None, offered: frozenset[str] = OFFERED) -> list[ShadowCall]:
    reader = ShadowReader(offered)
    marks = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts or ())})
    calls: list[ShadowCall] = []
    for begin, end in itertools.pairwise(marks):
        calls += reader.feed(text[begin:end]).calls
    return calls + list(reader.end().calls)


def said(calls: list[ShadowCall]) -> list[tuple[str, object]]:
    return [(call.name, arguments(call)) for call in calls]


def arguments(call: ShadowCall) -> object:
    try:
        return strict.read_arguments(call.arguments)
    except strict.NotStrict:
        return None


@pytest.mark.parametrize("case", [*FORMS.values(), *EVASIONS.values()], ids=[*FORMS, *EVASIONS])
def test_a_call_in_the_text_is_read(case: Case) -> None:
    calls = read_all(case.text)
    assert said(calls) == case.calls
    assert all(call.complete for call in calls)


@pytest.mark.parametrize("case", [*FORMS.values(), *EVASIONS.values()], ids=[*FORMS, *EVASIONS])
@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=60))
def test_chunks_change_nothing(case: Case, cuts: list[int]) -> None:
    assert sorted(map(repr, read_all(case.text, cuts))) == sorted(map(repr, read_all(case.text)))


@pytest.mark.parametrize("case", FORMS.values(), ids=FORMS)
def test_of_an_announced_call_nothing_leaves(case: Case) -> None:
    """Character by character: what is not held at any moment has no part of an explicit call."""
    reader = ShadowReader(OFFERED)
    left = fed = 0
    calls: list[tuple[int, ShadowCall]] = []
    for sign in case.text:
        state = reader.feed(sign)
        calls += [(left, call) for call in state.calls]
        fed += len(sign.encode())
        left = fed if state.opened_at is None else state.opened_at
    calls += [(left, call) for call in reader.end().calls]
    for gone, call in calls:
        assert not call.explicit or gone <= call.start


def test_without_the_tool_a_bare_form_is_text() -> None:
    for name in ("llama, bare", "pythonic", "code fence", "phi 4 mini"):
        assert read_all(FORMS[name].text, offered=frozenset({"other"})) == []


PROSE = [
    "Models write `<tool_call>` tags around calls, `<|python_tag|>` before code, [TOOL_CALLS] for Mistral.",
    '<tool_call>{"name": <function-name>, "arguments": <args-json-object>}</tool_call>',
    "Use `run(cmd)` or [run(x)](https://example.org/run) to start it; `get_weather` has no arguments.",
    'let a = {"name": "Ann", "arguments": [1]}; if (a < b) { return {"name": "run"}; }',
    "<div><function>f</function></div> x=functions.map(y) ``` {{{ [[[ <<<",
    "In Python, a[run] = {run: run(1)} and <invoke> is a verb.",
]


@pytest.mark.parametrize("text", PROSE)
def test_prose_is_no_call(text: str) -> None:
    assert read_all(text) == []


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*"abc {}[]()<>|:,=`'\"\\\n", "tool", "_call", "run(", '"name"', "é", "😀"]), max_size=60)
)
def test_text_without_an_opener_holds_no_more_than_a_beginning(pieces: list[str]) -> None:
    reader, fed = ShadowReader(OFFERED), 0
    text = ""
    for piece in pieces:
        text += piece
        if "<tool_call" in text:
            return
        state = reader.feed(piece)
        fed += len(piece.encode())
        assert state.opened_at is None or fed - state.opened_at <= LONGEST_PARTIAL
    assert reader.end().opened_at is None


def test_an_opener_that_is_only_named_is_released_soon() -> None:
    reader = ShadowReader(OFFERED)
    longest = held_since = 0
    for at, sign in enumerate(text := PROSE[0]):
        if reader.feed(sign).opened_at is None:
            held_since = at + 1
        longest = max(longest, at + 1 - held_since)
    assert longest <= 32 and len(text) > 3 * longest


@pytest.mark.parametrize(
    ("text", "name", "begins"),
    [
        ('<tool_call>{"name": "x", "arguments": {"cmd": "rm -rf', "x", '{"cmd": "rm -rf'),
        ('{"name": "run", "arguments": {"cmd": "rm -rf', "run", '{"cmd": "rm -rf'),
        ('[TOOL_CALLS]x[ARGS]{"cmd": "rm -rf', "x", '{"cmd": "rm -rf'),
        ('<|tools_prefix|>[{"x": {"cmd": "rm -rf', "x", '{"cmd": "rm -rf'),
        ("<function=x>\n<parameter=cmd>rm -rf", "x", '{"cmd": "rm -rf"}'),
        ('[run(cmd="rm -rf', "run", 'run(cmd="rm -rf'),
    ],
)
def test_what_the_end_cuts_off_is_incomplete(text: str, name: str, begins: str) -> None:
    [call] = read_all(text)
    assert (call.name, call.complete) == (name, False)
    assert call.arguments.startswith(begins)
    assert read_all("So it is. <tool_ca") == []


def test_positions_are_bytes_of_the_surface() -> None:
    text = f"Grüße 😀 <tool_call>{SAID}</tool_call>"
    [call] = read_all(text, list(range(len(text))))
    raw = text.encode()
    assert raw[call.start : call.end].decode() == f"<tool_call>{SAID}"
    assert raw[call.at : call.end].decode() == SAID


HARD = [
    '{"a":',
    '{"',
    '{"k":"{',
    "<tool_call>",
    "<tool_call>{bad ",
    '[run("',
    "[run(",
    "<tool_call>a<arg_key>",
    '"{',
    "<",
    "`",
]


@pytest.mark.parametrize("unit", HARD)
def test_work_and_memory_grow_with_the_text_only(unit: str) -> None:
    """Counted in calls of Python functions, for one text and for one four times as long."""

    def work(length: int) -> int:
        count = 0

        def seen(*_: object) -> None:
            nonlocal count
            count += 1

        reader, text = ShadowReader(OFFERED), unit * (length // len(unit))
        sys.setprofile(seen)
        try:
            for at in range(0, len(text), 5):
                reader.feed(text[at : at + 5])
            reader.end()
        finally:
            sys.setprofile(None)
        return count

    assert work(16_000) < 6 * work(4_000)


@pytest.mark.parametrize(
    "begin", ['{"name": "run", "arguments": {"a": "', '<tool_call>{"name": "run", "arguments": {"a": "']
)
def test_a_call_without_an_end_is_not_kept_for_ever(begin: str) -> None:
    reader = ShadowReader(OFFERED)
    calls = [*reader.feed(begin).calls]
    most = 0
    for _ in range(3 * LONGEST_CALL // 65536):
        calls += reader.feed("x" * 65536).calls
        most = max(most, reader.pending)
    assert most <= LONGEST_CALL + 2 * 65536
    assert {call.name for call in calls} == {"run"}
    assert all(arguments(call) is None for call in calls)


def test_surrogates_that_stand_alone_do_not_stop_the_reader() -> None:
    [call] = read_all('<tool_call>{"name": "x", "arguments": {"a": "\ud800"}}</tool_call>')
    assert call.name == "x" and arguments(call) is None


def test_arguments_stand_as_they_were_written() -> None:
    [call] = read_all('<tool_call>{"name": "x", "arguments": { "a" : 1.0,\n"b": "\\u00e9" } }</tool_call>')
    assert call.arguments == '{ "a" : 1.0,\n"b": "\\u00e9" }'
    assert json.loads(call.arguments) == {"a": 1.0, "b": "é"}
