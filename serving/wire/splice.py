"""Changing JSON where it stands: an answer that must differ in one field keeps every other byte.

How to think about it: nothing is parsed and written again. A scanner walks the bytes just far enough to
find where a value stands (:func:`locate`, :func:`elements`, :func:`members`); an :class:`Edit` replaces or
removes the bytes of one value; :func:`apply` makes all edits of one document at once. Everything works on
byte offsets of the same ``raw``, so edits never move one another. Commas belong to their container: change
the members of one object, or the elements of one list, with one call.

The input is what the strict reading of ``serving.wire.strict`` takes, or an answer of vLLM, which is compact
UTF-8 (``ensure_ascii=False``) without duplicate keys. The scanner trusts its syntax, but never guesses: bytes
that do not have the expected shape, and a key that stands twice in an object on the path, raise
:class:`Unspliceable`. A path that leads nowhere is None.

In an SSE event the document stands behind ``data:``; :func:`data_span` says where. Offsets are those of the
whole event then: pass ``raw`` and the span as ``within``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

Path = tuple[str | int, ...]
"""Keys and list indexes from the document's root, e.g. ``("choices", 0, "message", "content")``."""


class Unspliceable(ValueError):
    """The bytes do not have the shape that the splice needs. Treat the answer as not understood."""


class Span(NamedTuple):
    """The bytes ``raw[start:end]``, from the first to the last byte of a value."""

    start: int
    end: int


class Member(NamedTuple):
    """One member of an object: its decoded key, and where the key (with its quotes) and the value stand."""

    key: str
    name: Span
    value: Span


class Edit(NamedTuple):
    """``span`` becomes ``bytes``. An empty span inserts, empty bytes remove."""

    span: Span
    bytes: bytes


_QUOTED = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_WHITE = rb"[ \t\n\r]*+"
_SPACE = re.compile(_WHITE)
_KEY = re.compile(b"(" + _QUOTED + b")" + _WHITE + b":" + _WHITE, re.DOTALL)
_PLAIN = re.compile(_QUOTED + rb"|[^\s,\]}\[{\":]++", re.DOTALL)
_SEPARATOR = re.compile(_WHITE + rb"([,\]}])" + _WHITE)
_BRACKET = re.compile(rb'[^"\[\]{}]*+(?:' + _QUOTED + rb'[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL)
_DATA = re.compile(rb"data:[ ]?([^\r\n]*+)")


def locate(raw: bytes, path: Path, within: Span | None = None) -> Span | None:
    """Where the value at ``path`` stands; None if a key or an index is not there, or a container is a scalar."""
    span = root(raw, within)
    for step in path:
        if isinstance(step, str):
            if raw[span.start] != _OBJECT:
                return None
            found = member(raw, span, step)
            if found is None:
                return None
            span = found.value
        else:
            if raw[span.start] != _LIST:
                return None
            items = elements(raw, span)
            if not 0 <= step < len(items):
                return None
            span = items[step]
    return span


def root(raw: bytes, within: Span | None = None) -> Span:
    """The document's own value, without the white space around it."""
    start, end = within or Span(0, len(raw))
    start = _skip(raw, start)
    span = Span(start, _value_end(raw, start))
    if _skip(raw, span.end) < end or span.end > end:
        raise Unspliceable("not exactly one JSON value")
    return span


def member(raw: bytes, span: Span, key: str) -> Member | None:
    """The member ``key`` of the object at ``span``, or None. A key that stands twice is Unspliceable."""
    found = [one for one in members(raw, span) if one.key == key]
    if len(found) > 1:
        raise Unspliceable(f"the key {key!r} stands twice")
    return found[0] if found else None


def members(raw: bytes, span: Span) -> list[Member]:
    """The members of the object at ``span``, in order."""
    if raw[span.start] != _OBJECT:
        raise Unspliceable("not an object")
    found: list[Member] = []
    at = _skip(raw, span.start + 1)
    if at == span.end - 1 and raw[at] == _OBJECT_END:
        return found
    while True:
        key = _KEY.match(raw, at)
        if key is None:
            raise Unspliceable("no key with a colon where one should be")
        name = Span(*key.span(1))
        value = Span(key.end(), _value_end(raw, key.end()))
        found.append(Member(text(raw, name), name, value))
        at = _next(raw, value.end, span, b"}")
        if at == span.end:
            return found


def elements(raw: bytes, span: Span) -> list[Span]:
    """The elements of the list at ``span``, in order."""
    if raw[span.start] != _LIST:
        raise Unspliceable("not a list")
    found: list[Span] = []
    at = _skip(raw, span.start + 1)
    if at == span.end - 1 and raw[at] == _LIST_END:
        return found
    while True:
        value = Span(at, _value_end(raw, at))
        found.append(value)
        at = _next(raw, value.end, span, b"]")
        if at == span.end:
            return found


def text(raw: bytes, span: Span) -> str:
    """The string at ``span``, decoded."""
    quoted = raw[span.start : span.end]
    if b"\\" not in quoted and quoted[:1] == b'"':
        return quoted[1:-1].decode()
    try:
        value = json.loads(quoted)
    except ValueError:
        raise Unspliceable("not a JSON string") from None
    if not isinstance(value, str):
        raise Unspliceable("not a string")
    return value


def replace(span: Span, value: object) -> Edit:
    """The value at ``span`` becomes ``value``, written as vLLM writes: compact, in UTF-8."""
    return Edit(span, encode(value))


def null(raw: bytes, span: Span, *keys: str) -> list[Edit]:
    """Make these members null, where they are there and are not null yet."""
    found = [member(raw, span, key) for key in keys]
    return [
        replace(one.value, None) for one in found if one is not None and raw[one.value.start : one.value.end] != b"null"
    ]


def append_to_string(raw: bytes, span: Span, more: str) -> Edit:
    """``more`` is added at the end of the string at ``span``."""
    if raw[span.start] != _QUOTE:
        raise Unspliceable("not a string")
    return Edit(Span(span.end - 1, span.end - 1), encode(more)[1:-1])


def set_member(raw: bytes, span: Span, key: str, value: object) -> Edit:
    """The member ``key`` of the object at ``span`` gets ``value``; it is added at the end if it is not there."""
    found = member(raw, span, key)
    if found is not None:
        return replace(found.value, value)
    comma = b"," if members(raw, span) else b""
    return Edit(Span(span.end - 1, span.end - 1), comma + encode(key) + b":" + encode(value))


def remove_members(raw: bytes, span: Span, keys: Iterable[str]) -> list[Edit]:
    """The members ``keys`` of the object at ``span`` go, each with one comma. Keys not there are no error."""
    unwanted = set(keys)
    all_members = members(raw, span)
    spans = [Span(one.name.start, one.value.end) for one in all_members]
    return _remove(spans, {index for index, one in enumerate(all_members) if one.key in unwanted})


def remove_elements(raw: bytes, span: Span, indexes: Iterable[int]) -> list[Edit]:
    """The elements ``indexes`` of the list at ``span`` go, each with one comma. Indexes not there are no error."""
    return _remove(elements(raw, span), set(indexes))


def apply(raw: bytes, edits: Iterable[Edit]) -> bytes:
    """``raw`` with all ``edits``. Edits that overlap raise ValueError; insertions at one place keep their order."""
    pieces: list[bytes] = []
    done = 0
    for span, new in sorted(edits, key=lambda edit: edit.span):
        if span.start < done:
            raise ValueError("two edits overlap")
        pieces += (raw[done : span.start], new)
        done = span.end
    pieces.append(raw[done:])
    return b"".join(pieces)


def encode(value: object) -> bytes:
    """JSON as vLLM writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def data_span(event: bytes) -> Span | None:
    """Where the payload of the event's ``data:`` line stands; None if the event has none.

    An event with several data lines, whose payload is their join, is Unspliceable.
    """
    found = [line for line in _DATA.finditer(event) if line.start() == 0 or event[line.start() - 1] in b"\r\n"]
    if len(found) > 1:
        raise Unspliceable("an event with several data lines")
    return Span(*found[0].span(1)) if found else None


_QUOTE, _OBJECT, _OBJECT_END, _LIST, _LIST_END = b'"{}[]'


def _skip(raw: bytes, at: int) -> int:
    match = _SPACE.match(raw, at)
    assert match is not None  # the pattern matches the empty string
    return match.end()


def _next(raw: bytes, at: int, span: Span, bracket: bytes) -> int:
    """Where the next item of the container at ``span`` begins, behind an item's end ``at``; its end if none."""
    separator = _SEPARATOR.match(raw, at)
    if separator is not None:
        if separator[1] == b",":
            return separator.end()
        if separator[1] == bracket and separator.end(1) == span.end:
            return span.end
    raise Unspliceable("a container that does not end where it should")


def _value_end(raw: bytes, at: int) -> int:
    """Behind the value that starts at ``at``."""
    if raw[at : at + 1] not in (b"{", b"["):
        plain = _PLAIN.match(raw, at)
        if plain is None:
            raise Unspliceable("no value where one should be")
        return plain.end()
    depth = 0
    while True:
        bracket = _BRACKET.match(raw, at)
        if bracket is None:
            raise Unspliceable("a container without an end")
        at = bracket.end()
        depth += 1 if bracket[1] in b"{[" else -1
        if depth == 0:
            return at


def _remove(spans: list[Span], unwanted: set[int]) -> list[Edit]:
    """Each run of unwanted items goes with the comma that follows it; the last run with the one before it."""
    edits: list[Edit] = []
    index = 0
    while index < len(spans):
        if index not in unwanted:
            index += 1
            continue
        first = index
        while index < len(spans) and index in unwanted:
            index += 1
        if index < len(spans):
            edits.append(Edit(Span(spans[first].start, spans[index].start), b""))
        elif first > 0:
            edits.append(Edit(Span(spans[first - 1].end, spans[-1].end), b""))
        else:
            edits.append(Edit(Span(spans[0].start, spans[-1].end), b""))
    return edits
