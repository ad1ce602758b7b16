"""A settings file has one reading."""

from __future__ import annotations

import pytest

from serving.strict_yaml import YamlProblem, read


def test_values_come_with_their_lines() -> None:
    data, lines = read("a:\n  b: 1\n  c:\n    - x\n    - y: true\nd: null\n")
    assert data == {"a": {"b": 1, "c": ["x", {"y": True}]}, "d": None}
    assert lines[("a", "b")] == 2
    assert lines[("a", "c", 1, "y")] == 5
    assert lines[("d",)] == 6


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("true", True),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-1.5e3", -1500.0),
        ("010", 10),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("0x1F", "0x1F"),
        ("'12'", "12"),
        ("1_000", "1_000"),
    ],
)
def test_words_are_words_and_numbers_are_decimal(text: str, value: object) -> None:
    data, _ = read(f"key: {text}")
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the first is on line 1"),
        ("x:\n  a: 1\n  'a': 2\n", 3, "`a` stands twice"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "merge keys"),
        ("a: !!python/object:os.system x\n", 1, "tag"),
        ("a: !secret x\n", 1, "tag"),
        ("a: [1, 2\nb: 3\n", 2, "correct the YAML"),
        ("a: 1\n---\nb: 2\n", 2, "correct the YAML"),
        ("? [a]\n: 1\n", 1, "a key must be a word"),
        ("a: &x [*x]\n", 1, "endless"),
        ("a: \x01\n", 1, "correct the YAML"),
    ],
)
def test_a_second_reading_is_refused_with_its_line(text: str, line: int, part: str) -> None:
    with pytest.raises(YamlProblem) as caught:
        read(text)
    assert caught.value.line == line
    assert part in str(caught.value)


def test_aliases_that_multiply_are_refused() -> None:
    text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for depth in range(1, 8):
        text += f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 10)}]\n"
    with pytest.raises(YamlProblem, match="endless"):
        read(text)


def test_an_alias_is_its_value() -> None:
    data, _ = read("a: &x {b: 1}\nc: *x\n")
    assert data == {"a": {"b": 1}, "c": {"b": 1}}
