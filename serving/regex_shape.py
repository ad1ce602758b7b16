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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from serving.regex_characters import (
    CHARACTERS,
    MOST_WIDE,
    Character,
    Item,
    ShapeError,
    character_of,
)
from serving.regex_characters import CODES as _codes

__all__ = ["LOOSE", "MOST_WIDE", "Head", "Shape", "ShapeError", "head_of", "shape_of"]

_parser: Any = re._parser  # type: ignore[attr-defined]

_READ_DIFFERENTLY = re.compile(r"\{,|\(\?[aLux]|\\[ZN]")
"""What Python takes for something else than RE2 does, without a warning."""

_REPEATS = (_codes.MAX_REPEAT, _codes.MIN_REPEAT)

LOOSE = 8
"""A repeat that may vary by more than this is without limit in a trigger: automata that count are large. So are those
that know more alternatives."""

_TOGETHER = 1 << 30
"""Beside the flags of an expression: more than ``LOOSE`` alternatives are one."""


@dataclass(frozen=True)
class Shape:
    """``width`` is in UTF-8 bytes; None is no limit. ``literals``: what stands in every match, in lower case."""

    width: int | None
    trigger: str
    literals: tuple[str, ...]


def shape_of(regex: str, shortest: bool, together: bool = False) -> Shape:
    """The shape of all matches, or of the shortest from every beginning where those have some text (in the group named
    ``secret``, if there is one). ``together``: alternatives of which there are many may be one in the trigger, which
    then is looser, and its automaton small. Raises :class:`ShapeError`."""
    strange = _READ_DIFFERENTLY.search(regex)
    if strange:
        raise ShapeError(f"{strange[0]!r} is not read alike by every reader of expressions")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = _parser.parse(regex)
    except (re.error, Warning, RecursionError, OverflowError) as error:
        raise ShapeError(str(error)) from error
    flags = tree.state.flags | (_TOGETHER if together else 0)
    items = list(tree)
    if shortest:
        short = _trimmed(items)
        secret = tree.state.groupdict.get("secret")
        if _holds_some(short, secret):
            items = short
    return Shape(_width_of_all(items, flags), "".join(_texts(items, flags, last=True)), tuple(_literals(tree)))


@dataclass(frozen=True)
class Head:
    """What every match begins with, in the syntax of Python and over bytes: ``first`` is a class of one byte, or
    nothing, and ``then`` matches what stands behind it. ``least``: the letters and digits of the shortest match."""

    first: str
    then: str
    least: int


def head_of(regex: str) -> Head | None:
    """None for an expression that does not begin with ``\\b``. Takes what :func:`shape_of` takes."""
    tree = _parser.parse(regex)
    flags = tree.state.flags
    if not len(tree) or tree[0] != (_codes.AT, _codes.AT_BOUNDARY):
        return None
    head, _ = _head(tree, flags)
    first = head[0].unit if head else ""
    return Head(first, "".join(one.text for one in head)[len(first) :], _least(tree, flags, words=True))


def _least(items: Iterable[Item], flags: int, words: bool) -> int:
    return sum(_least_in(item, flags, words) for item in items)


def _least_in(item: Item, flags: int, words: bool) -> int:
    """The characters of the shortest match; ``words``: only those that must be letters or digits."""
    operator, argument = item
    if operator is _codes.AT:
        return 0
    if operator is _codes.BRANCH:
        return min(_least(branch, flags, words) for branch in argument[1])
    if operator is _codes.SUBPATTERN:
        return _least(argument[3], _flags_below(argument, flags), words)
    if operator in _REPEATS:
        return int(argument[0]) * _least(argument[2], flags, words)
    return int(not words or character_of(item, flags).word)


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
    return character_of(item, flags).width


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
        if flags & _TOGETHER and len(argument[1]) > LOOSE:
            return _as_one(argument[1], flags)
        branches = ["".join(_texts(list(branch), flags, last)) for branch in argument[1]]
        return f"(?:{'|'.join(branches)})"
    if operator is _codes.SUBPATTERN:
        return f"(?:{''.join(_texts(list(argument[3]), _flags_below(argument, flags), last))})"
    if operator in _REPEATS:
        return _repeated(argument, flags, last)
    return character_of(item, flags).text


def _repeated(argument: Any, flags: int, last: bool) -> str:
    least, most, inner = argument
    items = list(inner)
    limit = None if most is _codes.MAXREPEAT else int(most)
    if len(items) == 1 and items[0][0] in CHARACTERS:
        character = character_of(items[0], flags)
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


# -- many alternatives as one -----------------------------------------------------------------------


def _as_one(branches: Sequence[Sequence[Item]], flags: int) -> str:
    """An expression for whatever one of the branches matches: what they begin with, place by place, then any run of
    their characters, then (a byte of) one that they end with."""
    head, whole = _head([(_codes.BRANCH, (None, branches))], flags)
    begins = "".join(character.text for character in head)
    alphabet = [character for branch in branches for character in _alphabet(branch, flags)]
    if whole or not alphabet:
        return begins
    run = _united(alphabet).unit
    rest = min(_least(branch, flags, words=False) for branch in branches) - len(head)
    if rest < 1:
        return f"{begins}{run}*"
    return f"{begins}{run}{{{rest - 1},}}{_united(_last(branch, flags) for branch in branches).unit}"


def _united(characters: Iterable[Character]) -> Character:
    every = [*characters]
    codes = frozenset[int]().union(*(character.codes for character in every))
    return Character(codes, any(character.beyond for character in every))


def _alphabet(items: Iterable[Item], flags: int) -> Iterator[Character]:
    for operator, argument in items:
        if operator is _codes.BRANCH:
            for branch in argument[1]:
                yield from _alphabet(branch, flags)
        elif operator is _codes.SUBPATTERN:
            yield from _alphabet(argument[3], _flags_below(argument, flags))
        elif operator in _REPEATS:
            yield from _alphabet(argument[2], flags)
        elif operator is not _codes.AT:
            yield character_of((operator, argument), flags)


def _last(items: Sequence[Item], flags: int) -> Character:
    """What the last character may be."""
    for operator, argument in reversed(items):
        if operator in _REPEATS and argument[0] and not all(map(_may_be_empty, argument[2])):
            return _last(argument[2], flags)
        if operator in CHARACTERS:
            return character_of((operator, argument), flags)
        if operator is not _codes.AT:
            break
    return _united(_alphabet(items, flags))


def _head(items: Iterable[Item], flags: int) -> tuple[list[Character], bool]:
    """The characters that every match begins with, as far as each has its place; and whether these are all of it."""
    head: list[Character] = []
    parts: list[tuple[list[Character], bool]]
    items = [*items]
    for place, (operator, argument) in enumerate(items):
        if operator is _codes.AT:
            continue
        if not head and operator in _REPEATS and argument[:2] == (0, 1):
            behind = items[place + 1 :]
            parts = [_head([*argument[2], *behind], flags), _head(behind, flags)]
            return [_united(both) for both in zip(*(part for part, _ in parts), strict=False)], False
        if operator is _codes.BRANCH:
            parts = [_head(branch, flags) for branch in argument[1]]
        elif operator is _codes.SUBPATTERN:
            parts = [_head(argument[3], _flags_below(argument, flags))]
        elif operator in _REPEATS:
            least, most, inner = argument
            once, whole = _head(inner, flags)
            parts = [(once * (least if whole else min(least, 1)), whole and least == most)]
        else:
            parts = [([character_of((operator, argument), flags)], True)]
        length = min(len(part) for part, _ in parts)
        head += [_united(part[place] for part, _ in parts) for place in range(length)]
        if not all(whole and len(part) == length for part, whole in parts):
            return head, False
    return head, True
