"""What an RE2 expression can match, told from its syntax: how wide, and which bytes.

An automaton that works on bytes as they come (``serving.stream_patterns``) needs two things that RE2 does not say:

- ``width``: the greatest number of UTF-8 bytes that a match can have, None if there is no limit;
- ``trigger``: an expression over bytes, in the syntax that Hyperscan and RE2 share, that ends a match wherever the
  expression does, and perhaps elsewhere. It says where to look, never that something is there.

Both are also to be had of the *shortest* matches only: ``KEY-[0-9]+`` is certain at its first digit, so what
repeats or may be left out at the end is taken at its least.

The syntax is read by Python's own parser of regular expressions. Where Python and RE2 would read one text
differently, the expression is refused (:class:`ShapeError`): nothing here guesses.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_parser: Any = re._parser  # type: ignore[attr-defined]
_codes: Any = re._constants  # type: ignore[attr-defined]

MOST_WIDE = 4
"""Bytes of the widest character in UTF-8."""

_READ_DIFFERENTLY = re.compile(r"\{,|\(\?[aLux]|\\[ZN]")
"""What Python takes for something else than RE2 does, without a warning."""

_DIGIT = frozenset(range(0x30, 0x3A))
_WORD = _DIGIT | frozenset(range(0x41, 0x5B)) | frozenset(range(0x61, 0x7B)) | {0x5F}
_SPACE = frozenset(b"\t\n\f\r ")
_ASCII = frozenset(range(0x80))
_HIGH = r"\x80-\xff"
_FOLDED = set(b"kKsS")
"""RE2 folds by Unicode: these four have a third form that is not ASCII."""

_REPEATS = (_codes.MAX_REPEAT, _codes.MIN_REPEAT)
_CHARACTERS = (_codes.LITERAL, _codes.NOT_LITERAL, _codes.ANY, _codes.IN)

Item = tuple[Any, Any]
"""What Python's parser gives for one part of an expression: its operator and its argument."""

_KINDS = {
    _codes.CATEGORY_DIGIT: (_DIGIT, False),
    _codes.CATEGORY_NOT_DIGIT: (_ASCII - _DIGIT, True),
    _codes.CATEGORY_WORD: (_WORD, False),
    _codes.CATEGORY_NOT_WORD: (_ASCII - _WORD, True),
    _codes.CATEGORY_SPACE: (_SPACE, False),
    _codes.CATEGORY_NOT_SPACE: (_ASCII - _SPACE, True),
}


class ShapeError(ValueError):
    """An expression that is not read alike by everybody, or has a part that is not known here."""


LOOSE = 8
"""A repeat that may vary by more than this is without limit in a trigger: automata that count are large."""


@dataclass(frozen=True)
class Shape:
    """``width`` is in UTF-8 bytes; None is no limit. ``literals``: what stands in every match, in lower case."""

    width: int | None
    trigger: str
    literals: tuple[str, ...]


def shape_of(regex: str, shortest: bool) -> Shape:
    """The shape of all matches, or of the shortest from every beginning where those have some text (in the group named
    ``secret``, if there is one). Raises :class:`ShapeError`."""
    strange = _READ_DIFFERENTLY.search(regex)
    if strange:
        raise ShapeError(f"{strange[0]!r} is not read alike by every reader of expressions")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = _parser.parse(regex)
    except (re.error, Warning, RecursionError, OverflowError) as error:
        raise ShapeError(str(error)) from error
    flags = tree.state.flags
    items = list(tree)
    if shortest:
        short = _trimmed(items)
        secret = tree.state.groupdict.get("secret")
        if _holds_some(short, secret):
            items = short
    return Shape(_width_of_all(items, flags), "".join(_texts(items, flags, last=True)), tuple(_literals(tree)))


# -- the shortest matches --------------------------------------------------------------------------


def _free(item: Item) -> bool:
    """Whether it matches the empty text wherever it stands. An assertion does not: it depends on the place."""
    operator, argument = item
    if operator in _REPEATS:
        return int(argument[0]) == 0 or all(map(_free, argument[2]))
    if operator is _codes.BRANCH:
        return any(all(map(_free, branch)) for branch in argument[1])
    if operator is _codes.SUBPATTERN:
        return all(map(_free, argument[3]))
    return False


def _trimmed(items: list[Item]) -> list[Item]:
    while items and _free(items[-1]):
        items = items[:-1]
    if not items:
        return items
    operator, argument = items[-1]
    if operator in _REPEATS:
        argument = (argument[0], argument[0], argument[2])
    elif operator is _codes.BRANCH:
        argument = (argument[0], [_trimmed(list(branch)) for branch in argument[1]])
    elif operator is _codes.SUBPATTERN:
        argument = (*argument[:3], _trimmed(list(argument[3])))
    return [*items[:-1], (operator, argument)]


def _holds_some(items: Iterable[Item], group: int | None) -> bool:
    """Whether every match has some text: in the group, if there is one."""
    for operator, argument in items:
        if operator is _codes.SUBPATTERN:
            if group in (None, argument[0]) and not all(map(_may_be_empty, argument[3])):
                return True
            if group is not None and _holds_some(argument[3], group):
                return True
        elif group is None and not _may_be_empty((operator, argument)):
            return True
    return False


def _may_be_empty(item: Item) -> bool:
    operator, argument = item
    if operator is _codes.AT:
        return True
    if operator in _REPEATS:
        return int(argument[0]) == 0 or all(map(_may_be_empty, argument[2]))
    if operator is _codes.BRANCH:
        return any(all(map(_may_be_empty, branch)) for branch in argument[1])
    if operator is _codes.SUBPATTERN:
        return all(map(_may_be_empty, argument[3]))
    return False


def _literals(items: Iterable[Item]) -> Iterator[str]:
    run = ""
    for operator, argument in items:
        if operator is _codes.LITERAL:
            run += chr(argument).lower()
        elif operator is not _codes.AT:
            yield run
            run = ""
            if operator is _codes.SUBPATTERN:
                yield from _literals(argument[3])
    yield run


# -- widths ----------------------------------------------------------------------------------------


def _width_of_all(items: Iterable[Item], flags: int) -> int | None:
    widths = [_width(item, flags) for item in items]
    return None if None in widths else sum(width for width in widths if width is not None)


def _width(item: Item, flags: int) -> int | None:
    operator, argument = item
    if operator is _codes.AT:
        return 0
    if operator is _codes.BRANCH:
        widths = [_width_of_all(branch, flags) for branch in argument[1]]
        return None if None in widths else max(width for width in widths if width is not None)
    if operator is _codes.SUBPATTERN:
        return _width_of_all(argument[3], _flags_below(argument, flags))
    if operator in _REPEATS:
        _, most, inner = argument
        width = _width_of_all(inner, flags)
        if width == 0 or most == 0:
            return 0
        return None if most is _codes.MAXREPEAT or width is None else width * int(most)
    return _character(item, flags).width


def _flags_below(argument: Any, flags: int) -> int:
    _, added, removed, _ = argument
    return int((flags | added) & ~removed)


# -- triggers --------------------------------------------------------------------------------------


def _texts(items: list[Item], flags: int, last: bool) -> Iterator[str]:
    for place, item in enumerate(items):
        yield _text(item, flags, last and place == len(items) - 1)


def _text(item: Item, flags: int, last: bool) -> str:
    operator, argument = item
    if operator is _codes.AT:
        return _assertion(argument, flags)
    if operator is _codes.BRANCH:
        branches = ["".join(_texts(list(branch), flags, last)) for branch in argument[1]]
        return f"(?:{'|'.join(branches)})"
    if operator is _codes.SUBPATTERN:
        return f"(?:{''.join(_texts(list(argument[3]), _flags_below(argument, flags), last))})"
    if operator in _REPEATS:
        return _repeated(argument, flags, last)
    return _character(item, flags).text


def _repeated(argument: Any, flags: int, last: bool) -> str:
    least, most, inner = argument
    items = list(inner)
    limit = None if most is _codes.MAXREPEAT else int(most)
    if len(items) == 1 and items[0][0] in _CHARACTERS:
        character = _character(items[0], flags)
        unit = character.unit
        if limit is not None:
            limit *= character.width
    else:
        unit = f"(?:{''.join(_texts(items, flags, False))})"
    if limit is not None and limit - least > LOOSE and not last:
        limit = None
    if limit is None:
        return unit + {0: "*", 1: "+"}.get(least, f"{{{least},}}")
    return f"{unit}{{{least}}}" if least == limit else f"{unit}{{{least},{limit}}}"


def _assertion(which: Any, flags: int) -> str:
    if which is _codes.AT_BEGINNING:
        return "(?m:^)" if flags & re.MULTILINE else r"\A"
    if which is _codes.AT_END:
        return "(?m:$)" if flags & re.MULTILINE else r"\z"
    try:
        return {_codes.AT_BOUNDARY: r"\b", _codes.AT_NON_BOUNDARY: r"\B", _codes.AT_BEGINNING_STRING: r"\A"}[which]
    except KeyError:
        raise ShapeError(f"{str(which).lower()} is not known here") from None


# -- characters ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Character:
    """One character: a class over its first byte, and whether it may have more of them (any bytes beyond ASCII)."""

    unit: str
    width: int

    @property
    def text(self) -> str:
        return self.unit if self.width == 1 else f"{self.unit}[{_HIGH}]{{0,{self.width - 1}}}"


def _character(item: Item, flags: int) -> _Character:
    operator, argument = item
    if operator is _codes.ANY:
        return _Character(r"[\x00-\xff]" if flags & re.DOTALL else r"[^\x0a]", MOST_WIDE)
    if operator is _codes.LITERAL:
        members: list[Item] = [(_codes.LITERAL, argument)]
    elif operator is _codes.NOT_LITERAL:
        members = [(_codes.NEGATE, None), (_codes.LITERAL, argument)]
    elif operator is _codes.IN:
        members = argument
    else:
        raise ShapeError(f"{str(operator).lower()} is not known here")
    codes, beyond = _members(members, bool(flags & re.IGNORECASE))
    return _Character(f"[{_ranges(codes)}{_HIGH if beyond else ''}]", MOST_WIDE if beyond else 1)


def _members(items: Any, fold: bool) -> tuple[set[int], bool]:
    """The ASCII characters of a class, and whether it has others."""
    negated = beyond = False
    codes: set[int] = set()
    for operator, argument in items:
        if operator is _codes.NEGATE:
            negated = True
        elif operator is _codes.CATEGORY:
            members, others = _KINDS[argument]
            codes |= members
            beyond = beyond or others
        else:
            first, last = (argument, argument) if operator is _codes.LITERAL else argument
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


def _ranges(codes: set[int]) -> str:
    """The inside of a class: ``\\x30-\\x39\\x5f``."""
    ends: list[tuple[int, int]] = []
    for code in sorted(codes):
        if ends and code == ends[-1][1] + 1:
            ends[-1] = (ends[-1][0], code)
        else:
            ends.append((code, code))
    return "".join(f"\\x{a:02x}" if a == b else f"\\x{a:02x}-\\x{b:02x}" for a, b in ends)
