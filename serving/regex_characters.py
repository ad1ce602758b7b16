"""One character of an RE2 expression, as bytes: which it may be.

The syntax is that of Python's own parser of regular expressions, whose parts :func:`character_of` takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

CODES: Any = re._constants  # type: ignore[attr-defined]

MOST_WIDE = 4
"""Bytes of the widest character in UTF-8."""

_DIGIT = frozenset(range(0x30, 0x3A))
_WORD = _DIGIT | frozenset(range(0x41, 0x5B)) | frozenset(range(0x61, 0x7B)) | {0x5F}
_SPACE = frozenset(b"\t\n\f\r ")
_ASCII = frozenset(range(0x80))
BEYOND = r"\x80-\xff"
"""The bytes of characters that are not ASCII, in a trigger."""
_FOLDED = set(b"kKsS")
"""RE2 folds by Unicode: these four have a third form that is not ASCII."""

CHARACTERS = (CODES.LITERAL, CODES.NOT_LITERAL, CODES.ANY, CODES.IN)

Item = tuple[Any, Any]
"""What Python's parser gives for one part of an expression: its operator and its argument."""

_KINDS = {
    CODES.CATEGORY_DIGIT: (_DIGIT, False),
    CODES.CATEGORY_NOT_DIGIT: (_ASCII - _DIGIT, True),
    CODES.CATEGORY_WORD: (_WORD, False),
    CODES.CATEGORY_NOT_WORD: (_ASCII - _WORD, True),
    CODES.CATEGORY_SPACE: (_SPACE, False),
    CODES.CATEGORY_NOT_SPACE: (_ASCII - _SPACE, True),
}


class ShapeError(ValueError):
    """An expression that is not read alike by everybody, or has a part that is not known here."""


@dataclass(frozen=True)
class Character:
    """One character: those of ASCII that it may be, and whether it may be another one (any bytes beyond ASCII)."""

    codes: frozenset[int]
    beyond: bool

    @property
    def unit(self) -> str:
        """A class over its first byte."""
        return f"[{_ranges(self.codes)}{BEYOND if self.beyond else ''}]"

    @property
    def word(self) -> bool:
        """Whether it can only be a letter, a digit or an underscore of ASCII."""
        return not self.beyond and self.codes <= _WORD

    @property
    def width(self) -> int:
        return MOST_WIDE if self.beyond else 1

    @property
    def text(self) -> str:
        return self.unit if self.width == 1 else f"{self.unit}[{BEYOND}]{{0,{self.width - 1}}}"


def character_of(item: Item, flags: int) -> Character:
    operator, argument = item
    if operator is CODES.ANY:
        return Character(_ASCII if flags & re.DOTALL else _ASCII - {0x0A}, True)
    if operator is CODES.LITERAL:
        members: list[Item] = [(CODES.LITERAL, argument)]
    elif operator is CODES.NOT_LITERAL:
        members = [(CODES.NEGATE, None), (CODES.LITERAL, argument)]
    elif operator is CODES.IN:
        members = argument
    else:
        raise ShapeError(f"{str(operator).lower()} is not known here")
    known, beyond = _members(members, bool(flags & re.IGNORECASE))
    return Character(frozenset(known), beyond)


def _members(items: Any, fold: bool) -> tuple[set[int], bool]:
    """The ASCII characters of a class, and whether it has others."""
    negated = beyond = False
    codes: set[int] = set()
    for operator, argument in items:
        if operator is CODES.NEGATE:
            negated = True
        elif operator is CODES.CATEGORY:
            members, others = _KINDS[argument]
            codes |= members
            beyond = beyond or others
        else:
            first, last = (argument, argument) if operator is CODES.LITERAL else argument
            codes |= set(range(first, min(last, 0x7F) + 1))
            beyond = beyond or last > 0x7F
    if negated:  # what is left out may not be taken for more: the sharp S of a fold leaves nothing out
        if fold:
            codes |= {ord(chr(code).swapcase()) for code in codes if chr(code).isalpha()}
        return set(_ASCII) - codes, True
    if fold:
        codes |= {ord(chr(code).swapcase()) for code in codes if chr(code).isalpha()}
        if beyond:
            codes |= _FOLDED
        beyond = beyond or bool(codes & _FOLDED)
    return codes, beyond


def _ranges(codes: Iterable[int]) -> str:
    """The inside of a class: ``\\x30-\\x39\\x5f``."""
    ends: list[tuple[int, int]] = []
    for code in sorted(codes):
        if ends and code == ends[-1][1] + 1:
            ends[-1] = (ends[-1][0], code)
        else:
            ends.append((code, code))
    return "".join(f"\\x{a:02x}" if a == b else f"\\x{a:02x}-\\x{b:02x}" for a, b in ends)
