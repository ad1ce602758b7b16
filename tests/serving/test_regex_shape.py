"""What an expression can match, told from its syntax."""

from __future__ import annotations

import pytest

from serving.patterns import shipped_patterns
from serving.regex_shape import ShapeError, shape_of


@pytest.mark.parametrize(
    ("regex", "all_of_it", "shortest"),
    [
        ("abc", 3, 3),
        ("KEY-[0-9]+", None, 5),
        ("KEY-[0-9]{4,10}", 14, 8),
        ("KEY-[0-9]{4,10}x?", 15, 8),
        (r"KEY-[0-9]{4,10}\b", 14, 14),
        ("a(?:bc)*", None, 1),
        ("a(?:bc)+", None, 3),
        ("a*b", None, None),
        ("a(?:b*|c)", None, 1),
        ("a(?:b*|$)", None, 1),
        ("a(?:b+|$)", None, 2),
        ("a(?:b{1,3}|cc)d?", 5, 3),
        (".", 4, 4),
        ("é", 4, 4),
        ("[^a]{2}", 8, 8),
        ("(?i)x", 1, 1),
        ("(?i)k", 4, 4),
        ("(?i)(?-i:k)", 1, 1),
        (r"(?P<secret>\w{3})", 3, 3),
        (r"\b(?:a|b{0,5})", 5, 5),
        (r"x(?P<secret>a{0,5})", 6, 6),
        (r"x(?P<secret>a{1,5})", 6, 2),
        (r"x(?P<secret>a)?b{0,3}", 5, 5),
    ],
)
def test_widths_are_in_bytes(regex: str, all_of_it: int | None, shortest: int | None) -> None:
    assert shape_of(regex, shortest=False).width == all_of_it
    assert shape_of(regex, shortest=True).width == shortest


def test_literals_are_what_stands_in_every_match() -> None:
    assert "aws" in shape_of(r"(?i)\bAWS.{0,9}(?:key|secret)", shortest=False).literals
    literals = "".join(shape_of(r"x?y(?:key|secret)z*", shortest=False).literals)
    assert literals == "y"


@pytest.mark.parametrize(
    "regex",
    [r"\p{Greek}", "[[:alpha:]]", r"\x{41}", r"\Qa.b\E", r"\pN", "a{,3}", r"a\z"],
)
def test_what_is_not_read_alike_is_refused(regex: str) -> None:
    with pytest.raises(ShapeError):
        shape_of(regex, shortest=False)


def test_every_shipped_pattern_has_a_limit() -> None:
    widths = {pattern.id: pattern.max_width for patterns in shipped_patterns() for pattern in patterns.patterns}
    assert all(width is not None and width < 2048 for width in widths.values()), widths
