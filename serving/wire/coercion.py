"""Single values of a request, as pydantic in lax mode will take them.

How to think about it: a reader looks at one value and either returns (it has its plain JSON type), raises
:class:`Refused` (pydantic surely refuses it, so vLLM answers with an error of its own) or :class:`Coerced`
(pydantic would turn it into something else, so we will not let it pass). In doubt it is coerced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar


class Problem(Exception):
    """What is wrong with the value at ``field``, a path like ``messages[2].content``. The path grows from the
    inside out, so that a sound request pays for none."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message


class Coerced(Problem):
    """vLLM would read the value in its own way. ``message`` says what is expected, for the client."""


class Refused(Problem):
    """vLLM refuses the value. ``message`` says why."""


_T = TypeVar("_T")


def each(field: str, items: list[Any], reader: Callable[[Any], _T]) -> tuple[_T, ...]:
    """``reader`` on each item; what it raises gets the item's path in front."""
    found: list[_T] = []
    try:
        for item in items:
            found.append(reader(item))
    except Problem as problem:
        problem.field = f"{field}[{len(found)}]{problem.field}"
        raise
    return tuple(found)


Reader = Callable[[str, Any], None]

_TRUTHS = frozenset({"0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes"})
"""The strings that pydantic reads as a bool, in any case."""

_DIGIT = re.compile(r"\d").search
_NUMBER = re.compile(r"\d|inf|nan", re.IGNORECASE).search
"""What every string has that pydantic reads as an integer, or as a number."""


def boolean(field: str, value: Any) -> None:
    """True or false. Pydantic also takes 0, 1, 0.0, 1.0 and some words."""
    if value is True or value is False:
        return
    coercible = value.lower() in _TRUTHS if value.__class__ is str else value in (0, 1)
    if coercible:
        raise Coerced(field, "must be true or false")
    raise Refused(field, "not a boolean")


def integer(field: str, value: Any) -> None:
    """A whole number, also written as ``2.0``. Pydantic also takes booleans and digits in a string."""
    kind = value.__class__
    if kind is int or (kind is float and value.is_integer() and abs(value) <= 2**53):
        return
    if kind is bool or (kind is str and _DIGIT(value)) or (kind is float and value.is_integer()):
        raise Coerced(field, "must be an integer")
    raise Refused(field, "not an integer")


def number(field: str, value: Any) -> None:
    """A number. Pydantic also takes booleans and numbers in a string."""
    kind = value.__class__
    if kind is float or kind is int:
        return
    if kind is bool or (kind is str and _NUMBER(value)):
        raise Coerced(field, "must be a number")
    raise Refused(field, "not a number")


def string(field: str, value: Any) -> None:
    if value.__class__ is not str:
        raise Refused(field, "not a string")


def an_object(field: str, value: Any) -> None:
    if value.__class__ is not dict:
        raise Refused(field, "not an object")


def string_or_strings(field: str, value: Any) -> None:
    if value.__class__ is list:
        strings(field, value)
    else:
        string(field, value)


def integers(field: str, value: Any) -> None:
    if value.__class__ is not list:
        raise Refused(field, "not a list")
    each(field, value, partial(integer, ""))


def strings(field: str, value: Any) -> None:
    if value.__class__ is not list:
        raise Refused(field, "not a list")
    each(field, value, partial(string, ""))


def or_null(reader: Reader) -> Reader:
    def read(field: str, value: Any) -> None:
        if value is not None:
            reader(field, value)

    return read


def not_null(reader: Reader) -> Reader:
    def read(field: str, value: Any) -> None:
        if value is None:
            raise Refused(field, "null")
        reader(field, value)

    return read
