"""The one strict reading of JSON bytes.

The judge and the model must see the same request, and the judge and the harness the same tool-call
arguments. JSON leaves room for two readings of the same bytes: a key twice (the first or the last?), NaN,
a number beyond every double, half a surrogate pair, another encoding than UTF-8, nesting that one parser
takes and the next does not. :func:`read` takes none of these; what it returns, every parser reads alike.

How to think about its speed: msgspec reads the bytes and refuses nearly all of that by itself. What it lets
through silently are duplicate keys, integers of any length and nesting up to the interpreter's limit. For
each there is a test in C that settles nearly every body, and an exact pass, slower but still linear, for the
rest. The quick tests may be too careful, never too kind:

* *Duplicate keys.* Write the value again. If that gives the body, white space aside, both consist of the same
  tokens, so no member was dropped on reading. (White space inside strings may go too: what is left is still
  the same sequence of strings, numbers and punctuation.)
* *Nesting* is at most the number of opening brackets.
* *Integers beyond 64 bits* have at least nineteen digits in a row.

:func:`classify` sets that reading beside Python's ``json.loads(bytes)``, which vLLM uses: what neither takes
is forwarded, so that the client gets vLLM's own words; what only the lax one takes is refused.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NoReturn

import msgspec

DEPTH = 64
"""How many containers may stand inside one another, the outermost included."""

LEAST_INTEGER = -(2**63)
GREATEST_INTEGER = 2**64 - 1
"""Integers beyond 64 bits are refused: a parser that has only doubles, or only machine integers, reads them
as something else. Integers between 2**53 and that are taken although a double rounds them, because ids of
that size are common in tool arguments and every parser keeps them one and the same number or a near one."""

Kind = Literal[
    "empty",
    "encoding",
    "syntax",
    "trailing",
    "duplicate_key",
    "number",
    "surrogate",
    "depth",
    "not_an_object",
    "prototype",
]


class NotStrict(ValueError):
    """Bytes that the strict reading does not take.

    ``kind`` is stable and says why; ``message`` is for people and never echoes the body; ``offset`` is the
    byte where it was noticed, if known.
    """

    def __init__(self, kind: Kind, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.offset = offset


class Reading(msgspec.Struct, frozen=True):
    """How a request body reads.

    ``verdict``: ``strict`` (``value`` is what it says), ``neither`` (no parser takes it: forward it, vLLM
    answers with an error of its own) or ``lax`` (only the model server would take it: refuse it). ``problem``
    is set in the last two.
    """

    verdict: Literal["strict", "neither", "lax"]
    value: Any = None
    problem: NotStrict | None = None


_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_BYTE = re.compile(r"\(byte (\d+)\)")
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_CONSTANT = re.compile(rb"NaN|Infinity")

_MAY_SAY_PROTO = re.compile(r"__proto|\\u00").search  # or hides it in escapes

_WHITE_SPACE = b" \t\n\r"
_DIGITS_AS_NINES = bytes(0x39 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_LONG_INTEGER = b"9" * 19


def read(body: bytes, *, depth: int = DEPTH) -> Any:
    """The value that ``body`` holds, as dict, list, str, int, float, bool or None.

    Raises :class:`NotStrict`. Time and memory are linear in the size of the body.
    """
    try:
        value = _decode(body)
    except RecursionError:
        raise _too_deep(depth) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as refusal:
        _explain(body, refusal)
    if body.count(b"{") + body.count(b"[") > depth:
        _refuse_depth(value, depth)
    written = _encode(value)
    if written != body and written.translate(None, _WHITE_SPACE) != body.translate(None, _WHITE_SPACE):
        _refuse_duplicates(body)
    if _LONG_INTEGER in body.translate(_DIGITS_AS_NINES):
        _refuse_long_integers(body)
    return value


def lax(body: bytes) -> bool:
    """Whether Python's ``json.loads(bytes)`` may take ``body``.

    Nesting beyond the interpreter's limit and integers beyond its limit of digits count as taken: both limits
    are settings of the process, and the model server's may be other than ours.
    """
    try:
        json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    except (RecursionError, ValueError):
        return True
    return True


def classify(body: bytes, *, depth: int = DEPTH) -> Reading:
    """What a request body says, or whose refusal it deserves."""
    try:
        return Reading("strict", read(body, depth=depth))
    except NotStrict as problem:
        return Reading("lax" if lax(body) else "neither", problem=problem)


def read_arguments(text: str, *, depth: int = DEPTH) -> dict[str, Any]:
    """The arguments of a tool call: exactly one JSON object under the strict reading.

    Raises :class:`NotStrict`; kind ``not_an_object`` if it is another value, ``prototype`` if any object has the key
    ``__proto__``: a JavaScript harness that copies such an object finds members in it that no key names.
    """
    try:
        body = text.encode()
    except UnicodeEncodeError:
        raise NotStrict("surrogate", "half of a surrogate pair in the text") from None
    value = read(body, depth=depth)
    if not isinstance(value, dict):
        raise NotStrict("not_an_object", "not a JSON object")
    if _MAY_SAY_PROTO(text):
        _refuse_prototype(value)
    return value


def is_over(text: str) -> bool:
    """Whether ``text`` could not go on to be JSON: it is a whole value by some parser's reading, or one and more."""
    try:
        json.loads(text)
    except json.JSONDecodeError as problem:
        return problem.msg == "Extra data"
    except (RecursionError, ValueError):
        return True
    return True


def _too_deep(depth: int) -> NotStrict:
    return NotStrict("depth", f"nested deeper than {depth} levels")


def _refuse_depth(value: Any, depth: int) -> None:
    """The exact pass, level by level: ``value`` is a container."""
    level: list[Any] = [value]
    for _ in range(depth):
        level = [
            child
            for container in level
            for child in (container.values() if container.__class__ is dict else container)
            if child.__class__ is dict or child.__class__ is list
        ]
        if not level:
            return
    raise _too_deep(depth)


def _refuse_duplicates(body: bytes) -> None:
    """The exact pass: every object of the body with all its members."""
    objects: list[list[tuple[str, Any]]] = []
    json.loads(body, object_pairs_hook=objects.append, parse_int=len, parse_float=len)
    for members in objects:
        if len(dict(members)) != len(members):
            raise NotStrict("duplicate_key", "an object has the same key twice")


def _refuse_prototype(value: Any) -> None:
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if item.__class__ is dict:
            if "__proto__" in item:
                raise NotStrict("prototype", "an object has the key __proto__")
            pending += item.values()
        elif item.__class__ is list:
            pending += item


def _refuse_long_integers(body: bytes) -> None:
    """The exact pass: every integer of the body."""

    def check(digits: str) -> None:
        if len(digits) > 20 or not LEAST_INTEGER <= int(digits) <= GREATEST_INTEGER:
            raise NotStrict("number", "an integer beyond 64 bits")

    json.loads(body, parse_int=check)


def _explain(body: bytes, refusal: Exception) -> NoReturn:
    """Names the cause of a refusal by msgspec. Only refused bodies come here, so it may take its time."""
    said = str(refusal)
    found = _BYTE.search(said)
    offset = int(found[1]) if found else None
    if isinstance(refusal, msgspec.ValidationError):
        raise NotStrict("number", "a number that no double holds", offset) from None
    if not body.strip(b" \t\r\n"):
        raise NotStrict("empty", "no JSON value", offset) from None
    if isinstance(refusal, UnicodeDecodeError) or body.startswith(_BYTE_ORDER_MARKS) or b"\0" in body[:4]:
        raise NotStrict("encoding", "not UTF-8 without a byte order mark") from None
    if "trailing characters" in said:
        raise NotStrict("trailing", "bytes behind the JSON value", offset) from None
    if lax(body):
        if _SURROGATE.search(body):
            raise NotStrict("surrogate", "half of a surrogate pair in a string", offset) from None
        if _CONSTANT.search(body):
            raise NotStrict("number", "NaN and Infinity are not JSON", offset) from None
    raise NotStrict("syntax", "not well-formed JSON", offset) from None
