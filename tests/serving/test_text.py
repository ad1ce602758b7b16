"""Text from the traffic, made safe to show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.text import printable


@given(st.text(alphabet=st.characters(codec=None)), st.integers(1, 300))
def test_whatever_comes_in_one_bounded_line_of_seen_characters_comes_out(text: str, limit: int) -> None:
    line = printable(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
    assert not line.startswith(" ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain text", "plain text"),
        ("ünï 日本 🎉", "ünï 日本 🎉"),
        ("\x1b[31mred\x1b[0m\x07", "[31mred [0m"),
        ("safe\u202egnp.exe", "safe gnp.exe"),
        ("a\u2066b\u2069c\u200fd\u200be", "a b c d e"),
        ("line\nline\r\nline\u2028line", "line line line line"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("", ""),
    ],
)
def test_what_moves_the_cursor_or_turns_the_text_is_a_space(text: str, line: str) -> None:
    assert printable(text) == line


def test_what_is_too_long_ends_with_an_ellipsis() -> None:
    assert printable("abcdefgh", 5) == "abcd…"
    assert printable("x" * 10_000_000, 10) == "xxxxxxxxx…"
    assert printable(" " * 10_000 + "x", 10).endswith("…")


def test_anything_else_is_shown_as_its_text() -> None:
    assert printable(42) == "42"
