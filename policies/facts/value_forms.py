"""The values of a call's arguments, and the forms in which the same value may stand elsewhere.

A call says ``2022-02-22`` where a page said "February 22, 2022", ``3000`` where it said "$3,000", ``%20`` where it said
a blank. Each value is reduced to *needles*: texts to look for, with the relation that a find has. What differs only in
case, white space or punctuation needs no needle of its own: it is equal once both are squeezed (:func:`squeezed`).
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import re2

Relation = Literal["whole", "part", "host", "decoded", "normalised"]

SHORTEST = 3
"""Letters and digits of a value that is looked for at all: shorter ones stand everywhere."""
SHORTEST_SQUEEZED = 6
"""The same for a squeezed value, which is looked for without regard to where words end."""
MOST_SPANS = 48
"""Spans of one value that are looked for, where the whole value stands nowhere."""

_DELETED = bytes(code for code in range(128) if not chr(code).isalnum())
_DELETED_BUT_NUL = _DELETED[1:]
_MARKS = "\u00a0\u00ad\u200b\u200c\u200d\u200e\u200f\u2010\u2011\u2012\u2013\u2014\u2015\u2018\u2019\u201a\u201c\u201d"
_MORE_MARKS = (
    "\u201e\u2022\u2026\u2028\u2029\u202f\u2032\u2033\u2039\u203a\u2060\u2212\u3000\u3001\u3002\ufeff\u00ab\u00bb"
)
_DELETED_WIDE = tuple(mark.encode() for mark in _MARKS + _MORE_MARKS)
_JSON_ESCAPES = (b"\\n", b"\\r", b"\\t", b"\\b", b"\\f")
_JSON_UNIT = re.compile(rb"\\+u([0-9a-fA-F]{4})")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
_LONG_WORD = re2.compile(rb"[A-Za-z0-9+/_-]{20,}={0,2}")
_NO_LOWER_CASE = re.compile("[A-Z0-9]")
_ISO_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?!\d)")
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_PLAIN_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$ -]{0,39}")
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>\\]+", re.I)
_SPAN = re.compile(
    r"""(?P<url>[a-z][a-z0-9+.-]{1,15}://[^\s"'<>\\]+)
      | (?P<mail>(?:(?<![\w.+-])[\w.+-]++|[+.][\w.+-]{0,64}+)@[\w-]++(?:\.[\w-]++)++)
      | (?P<path>(?:~|\.{1,2})?/[\w.@-]+(?:/[\w.@-]+)*)
      | (?P<quoted>"[^"\n]{3,200}"|'[^'\n]{3,200}')
      | (?P<host>(?<![\w-])[\w-]++(?:\.[\w-]++)++)
      | (?P<code>(?<![\w-])[\w-]*\d[\w-]*)""",
    re.I | re.X,
)
"""What begins with letters is looked for only where they begin, so that a word of any length is read once."""


_VALUE = re2.compile(
    rb"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>\\]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?:[\w-]+\.)+[A-Za-z]+"
    rb"|(?:~|\.\.?)?/[\w.@-]+(?:/[\w.@-]+)+|[\w-]*\d[\w-]*"
)
MOST_VALUES_OF_TEXT, MOST_READ = 128, 16 * 1024
"""Values of a text that are given at once, and characters of it that are read for them."""


class Leaf(NamedTuple):
    """A string or number of the arguments: where it stands (JSON pointer), the names of the objects' keys on the way,
    and its text."""

    path: str
    names: tuple[str, ...]
    text: str
    number: bool


class Span(NamedTuple):
    """A part of a value; ``host``: it is the host of a URL."""

    start: int
    end: int
    text: str
    host: bool = False


def leaves(arguments: Any) -> Iterator[Leaf]:
    """Every string and number in ``arguments``, in order. True, false and null say nothing of where they are from. A
    key that is no plain name is a value as well (an address in a map of rights), before what stands below it."""
    pending: list[tuple[str, tuple[str, ...], Any]] = [("", (), arguments)]
    while pending:
        path, names, value = pending.pop()
        if isinstance(value, str):
            yield Leaf(path, names, value, False)
        elif isinstance(value, bool) or value is None:
            continue
        elif isinstance(value, int | float):
            yield Leaf(path, names, _digits(value), True)
        elif isinstance(value, dict):
            for key, part in reversed(value.items()):
                below = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
                pending.append((below, (*names, key), part))
                if _PLAIN_NAME.fullmatch(key) is None:
                    pending.append((below, names, key))
        elif isinstance(value, list):
            pending += [(f"{path}/{at}", names, part) for at, part in reversed([*enumerate(value)])]


def _digits(value: float) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = repr(value)
    return text if len(text) <= 400 else ""


def values_in(text: str) -> frozenset[bytes]:
    """The links, addresses, hosts, paths and words with digits at the beginning of a text, squeezed."""
    found = islice(_VALUE.finditer(text[:MOST_READ].encode("utf-8", "surrogatepass")), MOST_VALUES_OF_TEXT)
    tight = squeezed_parts([value[0].decode("utf-8", "replace") for value in found])
    return frozenset(value for value in tight if len(value) >= SHORTEST_SQUEEZED)


def significant(text: str) -> int:
    """Letters and digits of ``text``, counted up to :data:`SHORTEST_SQUEEZED`."""
    count = 0
    for mark in text:
        count += mark.isalnum()
        if count >= SHORTEST_SQUEEZED:
            break
    return count


def squeezed(text: str) -> bytes:
    """Letters and digits of ``text`` alone, in one case and one Unicode form, as UTF-8."""
    return _squeezed(text, _DELETED)


def squeezed_parts(texts: Sequence[str]) -> list[bytes]:
    """Each of ``texts`` squeezed, all in one go."""
    joined = "\x00".join(texts)
    if joined.count("\x00") != len(texts) - 1:
        return [squeezed(text) for text in texts]
    return _squeezed(joined, _DELETED_BUT_NUL).split(b"\x00")


def _squeezed(text: str, deleted: bytes) -> bytes:
    if text.isascii():
        return text.lower().encode().translate(None, deleted)
    data = unicodedata.normalize("NFKC", text).casefold().encode("utf-8", "surrogatepass").translate(None, deleted)
    if not data.isascii():
        for mark in _DELETED_WIDE:
            data = data.replace(mark, b"")
    return data


def may_be_encoded(text: str) -> bool:
    """False if nothing in ``text``, nor in a part of it, is encoded as :func:`decoded_squeezed` takes it."""
    if "\\" in text or "%" in text:
        return True
    return len(text) >= 20 and _LONG_WORD.search(text.encode("utf-8", "surrogatepass")) is not None


def decoded_squeezed(text: str) -> bytes | None:
    """The same of what ``text`` says once JSON escapes, percent encoding and Base64 are taken off, all three at once;
    None where it has none of them."""
    raw = text.encode("utf-8", "surrogatepass")
    data = raw
    if b"\\" in data:
        for escape in _JSON_ESCAPES:
            data = data.replace(escape, b" ")
        if b"\\u" in data:
            data = _utf8(_JSON_UNIT.sub(_unit, data))
    if b"%" in data:
        data = unquote_to_bytes(data)
    opened = [word for found in _LONG_WORD.finditer(raw) if (word := from_base64(found[0].decode())) is not None]
    if opened:
        data = b"\n".join([data, *(word.encode() for word in opened)])
    return None if data is raw else squeezed(data.decode("utf-8", "replace"))


def _unit(escape: re.Match[bytes]) -> bytes:
    return chr(int(escape[1], 16)).encode("utf-8", "surrogatepass")


def _utf8(data: bytes) -> bytes:
    """``data`` with halves of surrogate pairs joined."""
    pairs = data.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass")
    return pairs.decode("utf-16", "replace").encode()


def from_base64(word: str) -> str | None:
    """The text that ``word`` encodes, if it is text."""
    body = word.rstrip("=").replace("-", "+").replace("_", "/")
    if len(body) % 4 == 1 or _NO_LOWER_CASE.search(body) is None:
        return None
    try:
        text = binascii.a2b_base64(body + "=" * (-len(body) % 4), strict_mode=True).decode()
    except (binascii.Error, ValueError):
        return None
    return text if len(text) >= SHORTEST_SQUEEZED and text.isprintable() else None


def decoded_forms(text: str) -> Iterator[str]:
    """What a value says without its own encoding."""
    if "%" in text and (plain := unquote(text)) != text:
        yield plain
    if _BASE64.fullmatch(text) and (opened := from_base64(text)) is not None:
        yield opened


def number_forms(text: str) -> Iterator[str]:
    """A number as people write it: 3,000 and 3.000 and 3 000."""
    whole, point, rest = text.partition(".")
    sign, figures = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    if not figures.isdigit() or (point and not rest.isdigit()):
        return
    if len(figures) > 3:
        groups = [figures[max(0, at - 3) : at] for at in range(len(figures), 0, -3)][::-1]
        for mark, comma in ((",", "."), (".", ","), (" ", "."), ("'", ".")):
            yield sign + mark.join(groups) + (comma + rest if rest else "")
    if point:
        yield f"{sign}{figures},{rest}"


def date_forms(text: str) -> Iterator[str]:
    """An ISO date, alone or before a time, as people write it."""
    found = _ISO_DATE.match(text)
    if found is None or not 1 <= int(found[2]) <= 12:
        return
    year, month, day = found[1], int(found[2]), int(found[3])
    name = _MONTHS[month - 1]
    for named in (name, name[:3]):
        yield f"{named} {day}, {year}"
        yield f"{day} {named} {year}"
        yield f"{named} {day}"
        yield f"{day} {named}"
        yield f"{named} {day}{_ordinal(day)}, {year}"
    yield from (f"{month}/{day}/{year}", f"{day}.{month}.{year}", f"{day}/{month}/{year}")
    yield from (f"{found[2]}/{found[3]}/{year}", f"{found[3]}.{found[2]}.{year}", f"{found[3]}/{found[2]}/{year}")
    if found[0] != text:
        yield found[0]


def _ordinal(day: int) -> str:
    return "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def host_of(text: str) -> Span | None:
    """The host of a URL that ``text`` is."""
    found = _URL.match(text)
    return None if found is None else _host(found[0], found.start())


def _host(url: str, at: int) -> Span | None:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    if not host:
        return None
    start = url.lower().find(host, url.find("//"))
    return Span(at + start, at + start + len(host), url[start : start + len(host)], True) if start >= 0 else None


def spans(text: str) -> tuple[list[Span], bool]:
    """Parts of a value that may have an origin of their own: URLs and their hosts, addresses, paths, quoted words,
    words with digits, lines. Second: whether there were more than :data:`MOST_SPANS`."""
    found: list[Span] = []
    for match in _SPAN.finditer(text):
        if len(found) >= MOST_SPANS:
            return found, True
        start, end = match.span()
        if match.lastgroup == "quoted":
            start, end = start + 1, end - 1
        if match.lastgroup == "url" and (host := _host(match[0], match.start())) is not None:
            found.append(host)
        if end - start >= SHORTEST + 1 and (start, end) != (0, len(text)):
            found.append(Span(start, end, text[start:end]))
    at = 0
    if "\n" in text or ". " in text:
        for line in re.split(r"(?<=[.!?])\s+|\n", text):
            start = text.find(line, at)
            at = start + len(line)
            if len(line.strip()) >= 16:
                if len(found) >= MOST_SPANS:
                    return found, True
                found.append(Span(start, at, line))
    return found, False
