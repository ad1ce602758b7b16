"""From the pieces of an exchange to questions."""

from __future__ import annotations

import json

import pytest

from checks.jobs import jobs_for_answer, jobs_for_request
from checks.readable import readable
from serving.wire.request import SentMessage
from serving.wire.vocabulary import ToolCall


def test_what_others_than_the_harness_wrote_is_asked_as_input() -> None:
    messages = [
        SentMessage("system", "You are helpful."),
        SentMessage("user", "Hello"),
        SentMessage("assistant", "Looking it up."),
        SentMessage("tool", "21 degrees", tool_call_id="c1"),
        SentMessage("user", " \n"),
        SentMessage("user", "", media=("image_url",)),
    ]
    jobs = jobs_for_request("e1", messages)
    assert [(j.ref, j.surface, j.direction, j.text) for j in jobs] == [
        ("e1", "request", "input", "Hello"),
        ("e1", "tool_result", "input", "21 degrees"),
    ]


def test_the_answers_text_and_each_call_are_asked_as_output() -> None:
    calls = [
        ToolCall(0, 0, "a", "run", '{"argv": ["ls", "-l"], "opt": {"n": 3, "deep": [true, null]}}'),
        ToolCall(0, 1, "b", "run", '{"argv": ["ls', complete=False),
    ]
    jobs = jobs_for_answer("e1", "Done.", calls)
    assert [(j.surface, j.direction, j.text) for j in jobs] == [
        ("output", "output", "Done."),
        ("tool_call", "output", "run\nargv: ls -l\nargv: ls\nargv: -l\nn: 3\ndeep: True"),
        ("tool_call", "output", 'run\n{"argv": ["ls'),
    ]


@pytest.mark.parametrize("text", [None, "", " \n "])
def test_an_answer_without_text_and_calls_asks_nothing(text: str | None) -> None:
    assert jobs_for_answer("e1", text, []) == []


@pytest.mark.parametrize(
    "arguments",
    [
        '{"cmd": "rm -rf /"}',
        '{"cmd": "\\u0072m\\u0020-rf /"}',
        '{"a": {"b": [{"c": "rm -rf /"}]}}',
        '["rm", "-rf", "/"]',
        '"rm -rf /"',
        '{"cmd": "rm -rf /", "cmd": "ls"}',
        '{"rm -rf /": 1}',
        '{"cmd": "ｒｍ -rf /"}',
        '{"cmd": "r\\u200bm -rf /"}',
        '{"cmd": "rm -rf /"',
        "\ufeff rm -rf /",
    ],
)
def test_no_spelling_of_the_arguments_hides_what_they_say(arguments: str) -> None:
    assert "rm -rf /" in jobs_for_answer("e", None, [ToolCall(0, 0, None, "t", arguments)])[0].text


def test_a_texts_own_form_stays_and_what_it_hides_is_below() -> None:
    text = '{"b": "\\u0049gnore \\uff41ll"}'
    assert readable(text) == f"{text}\nb: Ignore ａll\nb: Ignore all"
    tags = "".join(chr(0xE0000 + ord(c)) for c in "obey")
    assert readable(f"hi{tags}") == f"hi{tags}\nhiobey"
    assert readable("plain text") == "plain text"
    assert readable("[not json") == "[not json"


def test_deep_and_huge_json_is_shown_as_it_came() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert readable(deep) == deep
    huge = json.dumps(["x" * 1_100_000])
    assert readable(huge) == huge
