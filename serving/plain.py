"""A text without what hides it from an expression but not from who reads it, and where each piece of it stood.

``plain`` undoes, character by character: zero-width and other unseen characters, letters of other scripts that look
like Latin ones (only in words that mix scripts, so that Russian stays Russian), full-width, mathematical and other
compatibility forms (NFKC), the tags block (U+E0020 to U+E007E, invisible ASCII), URL encoding, JSON's ``\\uXXXX`` and
HTML's numeric references. ``decoded_parts`` finds what is encoded as a whole: base64 and hexadecimal.

Linear in the text; a text that hides nothing is known by one look and costs nothing more.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import re2

UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
)

_LOOKS = (
    "АВЕЅІЈКМНОРСТУХаеорсухіјѕԁԛԝһӏѵ",
    "ABESIJKMHOPCTYXaeopcyxijsdqwhlv",
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαοιυνκρϲ",
    "ABEZHIKMNOPTYXaoiuvkpc",
)
LOOK_ALIKES = {
    ord(a): b for f, t in ((_LOOKS[0], _LOOKS[1]), (_LOOKS[2], _LOOKS[3])) for a, b in zip(f, t, strict=True)
}
"""Cyrillic and Greek letters that look like Latin ones: of Unicode's confusables, those that words are spelt with."""

_ALIKE = "\u0370-\u03ff\u0400-\u052f"

_SUSPECT = re2.compile(
    r"(?:%[2-7][0-9a-fA-F])+|\\u[0-9a-fA-F]{4}|&#(?:[0-9]{2,6}|x[0-9a-fA-F]{2,5});"
    f"|[{UNSEEN}\U000e0100-\U000e01ef]+|[\U000e0020-\U000e007f]+"
    "|[\u2100-\u214f\u2460-\u24ff\u3000\uff01-\uff5e\U0001d400-\U0001d7ff\U0001f130-\U0001f189]+"
    f"|[A-Za-z{_ALIKE}]*(?:[A-Za-z][{_ALIKE}]|[{_ALIKE}][A-Za-z])[A-Za-z{_ALIKE}]*"
)
_UNSEEN = re.compile(f"[{UNSEEN}]")

_ENCODED = re2.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
_LETTERS = bytes([32, *range(65, 91), *range(97, 123), *range(128, 256)])
MOST_DECODED = 200
"""Parts of a text that may be encoded and are looked at, the first ones."""
MOST_ENCODED = 16_384
"""Characters of one such part."""


class Plain(NamedTuple):
    """``text`` without disguise; ``shifts`` are pairs of a place in it and that place in the original, in order;
    ``hidden`` says whether anything was undone that a reader does not see."""

    text: str
    places: tuple[int, ...]
    originals: tuple[int, ...]
    hidden: bool

    def original(self, place: int) -> int:
        nth = bisect_right(self.places, place) - 1
        return place if nth < 0 else self.originals[nth] + place - self.places[nth]


def plain(text: str) -> Plain | None:
    """None where nothing is disguised."""
    if text.isascii() and "%" not in text and "\\u" not in text and "&#" not in text:
        return None
    if _SUSPECT.search(text) is None:
        return None
    parts: list[str] = []
    places: list[int] = [0]
    originals: list[int] = [0]
    done = at = 0
    hidden = False
    for found in _SUSPECT.finditer(text):
        start, end = found.span()
        instead, unseen = _seen(found[0])
        hidden = hidden or unseen
        parts += (text[done:start], instead)
        at += start - done
        if len(instead) != end - start:
            places.append(at)
            originals.append(start)
            at += len(instead)
            places.append(at)
            originals.append(end)
        else:
            at += len(instead)
        done = end
    parts.append(text[done:])
    return Plain("".join(parts), tuple(places), tuple(originals), hidden)


def _seen(found: str) -> tuple[str, bool]:
    """What a reader sees of a piece, and whether the piece is one that hides."""
    if found[0] == "%":
        return bytes.fromhex(found.replace("%", "")).decode("ascii"), False
    if found[0] == "\\":
        return _character(found, int(found[2:], 16))
    if found[0] == "&":
        return _character(found, int(found[3:-1], 16) if found[2] in "xX" else int(found[2:-1]))
    code = ord(found[0])
    if 0xE0020 <= code <= 0xE007F:
        return "".join(chr(ord(tag) - 0xE0000) for tag in found if tag != "\U000e007f"), True
    if 0xE0100 <= code <= 0xE01EF or _UNSEEN.match(found):
        return "", True
    if found[0].isascii() or 0x370 <= code <= 0x52F:
        return found.translate(LOOK_ALIKES), True
    return unicodedata.normalize("NFKC", found), False


def _character(found: str, code: int) -> tuple[str, bool]:
    """What a reference to a character stands for; what stands for none, as it is."""
    if code > 0x10FFFF or 0xD800 <= code < 0xE000 or code == 0:
        return found, False
    return ("", True) if _UNSEEN.match(chr(code)) else (unicodedata.normalize("NFKC", chr(code)), False)


NORMALISED = re.compile(
    r"%(?P<percent>[2-7][0-9a-fA-F])|\\u(?P<unit>[0-9a-fA-F]{4})|&#(?:(?P<number>\d{2,6})|x(?P<hex>[0-9a-fA-F]{2,5}));"
    rf"|[{UNSEEN}\U000e0020-\U000e007f\U000e0100-\U000e01ef\u2100-\u214f\u2460-\u24ff\u3000\uff01-\uff5e]"
    r"|[\U0001d400-\U0001d7ff\U0001f130-\U0001f189]"
    f"|[{''.join(map(chr, LOOK_ALIKES))}]"
)
"""One character, written so that an expression does not see it: what :func:`instead` undoes one by one, in any chunks.
Look-alikes are undone in every word, so a text is to be read as it is, too."""

UNFINISHED = re.compile(r"(?:%[2-7]?|\\(?:u[0-9a-fA-F]{0,3})?|&(?:#(?:\d{0,6}|x[0-9a-fA-F]{0,5}))?)$")
"""The beginning of a written character at the end of a text that goes on."""


def may_be_written_otherwise(text: str) -> bool:
    """The cheap question before :data:`NORMALISED`."""
    return "%" in text or "\\" in text or "&" in text or not text.isascii()


def instead(found: re.Match[str]) -> str:
    """The character that stands for one that :data:`NORMALISED` found; nothing for one that is not seen."""
    written = found["percent"] or found["unit"] or found["hex"]
    if written is not None:
        return _character(found[0], int(written, 16))[0]
    if found["number"] is not None:
        return _character(found[0], int(found["number"]))[0]
    return LOOK_ALIKES.get(ord(found[0])) or _seen(found[0])[0]


def normalised(text: str) -> Plain | None:
    """``text`` with every such character undone; None where there is none."""
    if not may_be_written_otherwise(text) or NORMALISED.search(text) is None:
        return None
    parts: list[str] = []
    places, originals = [0], [0]
    done = at = 0
    for found in NORMALISED.finditer(text):
        start, end = found.span()
        parts += (text[done:start], character := instead(found))
        at += start - done + len(character)
        places.append(at)
        originals.append(end)
        done = end
    parts.append(text[done:])
    return Plain("".join(parts), tuple(places), tuple(originals), True)


def decoded_parts(text: str) -> Iterator[tuple[int, int, str]]:
    """What stands in base64 or hexadecimal and is text when decoded: where it stands, and the text."""
    for found in islice(_ENCODED.finditer(text), MOST_DECODED):
        part = found[0]
        if len(part) > MOST_ENCODED:
            continue
        raw = bytes.fromhex(part) if _HEX.fullmatch(part) else _from_base64(part)
        if raw is not None and _is_text(raw):
            yield found.start(), found.end(), raw.decode("utf-8", "replace")


def _from_base64(found: str) -> bytes | None:
    body = found.rstrip("=").replace("-", "+").replace("_", "/")
    body = body[: len(body) - (len(body) % 4 == 1)]
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4))
    except (binascii.Error, ValueError):
        return None


def _is_text(raw: bytes) -> bool:
    """Words with blanks between them: of a hundred bytes, eighty letters and blanks, and a blank among twenty."""
    others = len(raw.translate(None, _LETTERS))
    return others * 5 <= len(raw) and raw.count(32) * 20 >= len(raw)
