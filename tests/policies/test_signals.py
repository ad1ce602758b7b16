"""What the patterns find in a call, and where."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.model import Severity
from policies.signals import MOST_HITS, signals_of_call, strings_in, unescaped
from serving.patterns import Pattern, PatternSet, shipped_patterns
from tests.policies.questions import call

KEYS = PatternSet("own", [Pattern(id="key", regex="KEY-[0-9]+", severity="critical")])


def found(arguments: dict[str, Any] | None, raw: str | None = None) -> set[tuple[str, int]]:
    return {(signal.path, signal.count) for signal in signals_of_call(call("x", arguments, raw), [KEYS])}


def test_a_hit_has_the_pointer_of_its_string() -> None:
    assert found({"a": {"b": ["x", "KEY-1 KEY-2"]}}) == {("/a/b/1", 2)}


def test_a_key_of_an_object_is_looked_at_too() -> None:
    assert found({"KEY-1": True}) == {("/KEY-1", 1)}


def test_slashes_and_tildes_in_keys_are_escaped() -> None:
    assert found({"a/b": {"~": "KEY-1"}}) == {("/a~1b/~0", 1)}


def test_an_incomplete_call_is_looked_at_as_it_was_written() -> None:
    assert found(None, '{"a": "KEY-1') == {("", 1)}


def test_what_only_the_written_text_shows_is_found() -> None:
    assert found({"a": 1}, '{"a": 1 /* KEY-1 */}') == {("", 1)}


def test_what_only_the_decoded_value_shows_is_found() -> None:
    assert found({"a": "KEY-1"}, '{"a": "KEY\\u002d1"}') == {("/a", 1)}


def test_a_signal_never_holds_the_text() -> None:
    (signal,) = signals_of_call(call("x", {"a": "KEY-77"}), [KEYS])
    assert (signal.set, signal.id, signal.severity) == ("own", "key", Severity.CRITICAL)
    assert "KEY-77" not in signal.model_dump_json()


def test_a_name_that_the_request_did_not_offer_is_looked_at_too() -> None:
    offered = call("use_KEY-77", {"a": "b"}).model_copy(update={"offered": True})
    made_up = offered.model_copy(update={"offered": False})
    assert signals_of_call(offered, [KEYS]) == []
    assert [(one.path, one.start) for one in signals_of_call(made_up, [KEYS])] == [("", None)]


def test_values_that_are_no_text_are_passed_over() -> None:
    assert list(strings_in({"a": [1, None, True, 2.5, []]})) == [("/a", "a")]


@pytest.mark.parametrize(
    "raw",
    [
        '{"a": "KEY\\u002d1',
        '{"a": "KEY\\u002d1\\',
        '{"a": "KEY\\u002d1\\u00',
        '{"a": "\\u004bEY-1", "b": tru',
        '{"\\u004bEY-1": "x',
        '{"a": "say \\"\\u004bEY-1',
        '{"a": \\"\\u004bEY-1"',
    ],
)
def test_an_escape_hides_nothing_in_a_call_that_was_cut_off(raw: str) -> None:
    assert found(None, raw) == {("", 1)}


def test_a_real_token_with_one_escaped_letter_is_found_in_a_call_that_was_cut_off() -> None:
    signals = signals_of_call(call("x", None, '{"command": "echo \\u0067hp_' + "a1B2" * 9), shipped_patterns())
    assert [(signal.set, signal.id) for signal in signals] == [("secrets", "github_token")]


@pytest.mark.parametrize("text", ['a"\\/\b\f\n\r\tz', "\u00e9\u2028", "\U0001f511", "\\u0041", ""])
def test_escapes_are_decoded_as_json_does(text: str) -> None:
    assert unescaped(json.dumps(text)) == f'"{text}"'


def test_what_is_no_escape_or_only_a_part_of_one_stays() -> None:
    for text in ("\\u12", "\\", "\\ud800", "\\udc00\\ud800"):
        assert unescaped(text) == text


def test_a_pattern_is_counted_so_often_and_no_more() -> None:
    assert found({"a": "KEY-1 " * 1000}) == {("/a", MOST_HITS)}
    assert found(None, "KEY-1 " * 1000) == {("", MOST_HITS)}
    assert sum(count for _, count in found({str(index): "KEY-1" for index in range(1000)})) == MOST_HITS


def test_a_string_that_is_no_secret_hides_none_behind_it() -> None:
    signals = signals_of_call(
        call("x", {"a": "password=changeme! " * 500 + "password=tr0ub4dor&3x"}), shipped_patterns()
    )
    assert [(signal.id, signal.path, signal.count) for signal in signals] == [("assigned_password", "/a", 1)]


def test_two_strings_never_make_one_secret() -> None:
    assert found({"a": ["KEY", "-1", "KEY-2", "3"]}) == {("/a/2", 1)}


def nested(text: str, deep: int) -> str:
    """``text`` as a JSON string in a JSON string …, with each of its letters escaped in the innermost one."""
    told = "".join(f"\\u{ord(letter):04x}" for letter in text)
    for _ in range(deep):
        told = json.dumps({"key": "x", "body": told})
    return told


SECRET = "AKIA" + "Z7FAKE2DEMO3KEY5"
SHIPPED = [one for one in shipped_patterns() if one.name in ("secrets", "pii")]


@pytest.mark.parametrize("deep", [0, 1])
@pytest.mark.parametrize("said", [SECRET, "4111 1111 1111 1111"])
def test_secrets_are_found_behind_escapes_of_a_string(deep: int, said: str) -> None:
    arguments = {"a": "b", "c": [nested(said, deep)]}
    told = signals_of_call(call("x", arguments, json.dumps(arguments)), SHIPPED)
    assert [(one.path, one.start) for one in told] == [("/c/0", None)], "its place is all of the string"


def test_what_stands_plain_has_its_own_place() -> None:
    arguments = {"a": f"{SECRET}", "c": nested(SECRET, 0)}
    told = signals_of_call(call("x", arguments, json.dumps(arguments)), SHIPPED)
    assert [(one.path, one.start) for one in told] == [("/a", 0)]


def test_paths_and_expressions_with_backslashes_are_no_secrets() -> None:
    arguments = {"path": "C:\\new\\table\\users", "regex": "\\d+\\.\\d+\\s*\\bword\\b", "latex": "\\frac{1}{2}"}
    assert signals_of_call(call("x", arguments, json.dumps(arguments)), SHIPPED) == []
