"""What the patterns find in a call, and where."""

from __future__ import annotations

from typing import Any

from policies.model import Severity
from policies.signals import signals_of_call, strings_in
from serving.patterns import Pattern, PatternSet
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


def test_values_that_are_no_text_are_passed_over() -> None:
    assert list(strings_in({"a": [1, None, True, 2.5, []]})) == [("/a", "a")]
