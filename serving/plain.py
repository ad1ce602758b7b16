"""A text without what hides it from an expression but not from who reads it, and where each piece of it stood.

``plain`` undoes, character by character: zero-width and other unseen characters, letters of other scripts that look
like Latin ones (only in words that mix scripts, so that Russian stays Russian), full-width, mathematical and other
compatibility forms (NFKC), the tags block (U+E0020 to U+E007E, invisible ASCII), URL encoding, JSON's ``\\uXXXX`` and
HTML's numeric references. ``decoded_parts`` finds what is encoded as a whole: base64 and hexadecimal.

Linear in the text; a text that hides nothing is known by one look and costs nothing more.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate, islice

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
_FORMS = "\u2100-\u214f\u2460-\u24ff\u3000\uff01-\uff5e\U0001d400-\U0001d7ff\U0001f130-\U0001f189"
_TAGS = "\U000e0020-\U000e007f"
_VARIANTS = "\U000e0100-\U000e01ef"

_SUSPECT = re2.compile(
    r"%[2-7][0-9a-fA-F]|\\u[0-9a-fA-F]{4}|&#(?:[0-9]{2,6}|x[0-9a-fA-F]{2,5});"
    f"|[{UNSEEN}{_VARIANTS}{_TAGS}{_FORMS}]|[A-Za-z][{_ALIKE}]|[{_ALIKE}][A-Za-z]"
)
"""Whether anything is disguised; :func:`_splitter` says what."""
_MIXED = re2.compile(f"[A-Za-z][{_ALIKE}]|[{_ALIKE}][A-Za-z]")

_PERCENT = "[2-7][0-9a-fA-F](?:%[2-7][0-9a-fA-F])*"
_UNIT = r"u[0-9a-fA-F]{4}"
_UNITS = rf"{_UNIT}(?:\\{_UNIT}){{0,999}}"
_NUMBER = "#(?:[0-9]{2,6}|x[0-9a-fA-F]{2,5});"
_BESIDE_LATIN = (
    rf"(?<![{_ALIKE}][{_ALIKE}])(?:(?<=[A-Za-z][{_ALIKE}])(?<!%[2-7][a-fA-F][{_ALIKE}])"
    rf"(?<!\\u[0-9a-fA-F]{{3}}[a-fA-F][{_ALIKE}])|[{_ALIKE}]*+[A-Za-z])[A-Za-z{_ALIKE}]*+"
)
"""The rest of a word behind its first letter of another script, if it has a Latin one too: before that letter (not an
escape's last) or behind it."""


def _splitter(also: Mapping[str, str]) -> re.Pattern[str]:
    """Splits a text at what is disguised: what is written otherwise, and what begins with a character of a class and
    goes on as its expression says. All of it begins with one class, for which a text is skimmed."""
    kinds = {"%": _PERCENT, r"\\": _UNITS, "&": _NUMBER, **also}
    rest = "|".join(f"(?<=[{begins}]){goes_on}" for begins, goes_on in kinds.items())
    return re.compile(f"([{''.join(kinds)}](?:{rest}))")


_IN_ASCII = _splitter({})
_RUNS = {of: f"[{of}]*" for of in (UNSEEN + _VARIANTS, _TAGS, _FORMS)}
_IN_ONE_SCRIPT = _splitter(_RUNS)
_IN_SCRIPTS = _splitter({**_RUNS, _ALIKE: _BESIDE_LATIN})
_UNSEEN = re.compile(f"[{UNSEEN}]")

ENCODED = r"[A-Za-z0-9+/_-]{24}"
"""Stands wherever :func:`decoded_parts` finds something."""

_ENCODED = re2.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2})+")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_LETTERS = bytes([32, *range(65, 91), *range(97, 123), *range(128, 256)])
MOST_DECODED = 200
"""Parts of a text that may be encoded and are looked at, the first ones."""
MOST_ENCODED = 16_384
"""Characters of one such part."""


class Plain:
    """A text without disguise. Where its pieces stood is told when it is asked for."""

    def __init__(self, parts: list[str], instead: list[str], hidden: bool | None) -> None:
        """``parts`` of the text, every second one disguised; what stands ``instead``; whether anything was undone that
        a reader does not see (None: told when it is asked for)."""
        self.text = "".join(instead)
        self._parts = parts
        self._instead = instead
        self._hidden = hidden
        self._places: list[int] | None = None
        self._originals: list[int] = []

    @property
    def hidden(self) -> bool:
        """Whether anything was undone that a reader does not see."""
        if self._hidden is None:
            self._hidden = any(_seen(part)[1] for part in {*self._parts[1::2]})
        return self._hidden

    def original(self, place: int) -> int:
        """Where that stood which is now at ``place``, a place in ``text`` or its end."""
        if self._places is None:
            self._places = list(accumulate(map(len, self._instead[:-1]), initial=0))
            self._originals = list(accumulate(map(len, self._parts[:-1]), initial=0))
        nth = bisect_right(self._places, place) - 1
        part, place, original = self._parts[nth], place - self._places[nth], self._originals[nth]
        if nth % 2 and part[:2] == "\\u":
            for unit in range(0, len(part), _UNIT_LENGTH):
                length = len(_INSTEAD[part[unit : unit + _UNIT_LENGTH]])
                if place < length:
                    return original + unit + place
                place -= length
        return original + place


def plain(text: str) -> Plain | None:
    """None where nothing is disguised."""
    if text.isascii():
        written = "%" in text or ("\\" in text and "\\u" in text) or ("&" in text and "&#" in text)
        if not written:
            return None
        splitter = _IN_ASCII
    elif _SUSPECT.search(text) is None:
        return None
    else:
        splitter = _IN_ONE_SCRIPT if _MIXED.search(text) is None else _IN_SCRIPTS
    parts = splitter.split(text)
    if len(parts) == 1:
        return None
    instead = parts.copy()
    instead[1::2] = map(_INSTEAD.__getitem__, parts[1::2])
    return Plain(parts, instead, None)


class _Instead(dict[str, str]):
    """What a reader sees of each disguised piece. Short ones are remembered."""

    def __missing__(self, found: str) -> str:
        instead = _seen(found)[0]
        if len(found) <= LONGEST_KNOWN and len(self) < MOST_KNOWN:
            self[found] = instead
        return instead


LONGEST_KNOWN = 12
MOST_KNOWN = 65_536
_UNIT_LENGTH = 6
_INSTEAD = _Instead()


def _seen(found: str) -> tuple[str, bool]:
    """What a reader sees of a piece, and whether the piece is one that hides."""
    if found[0] == "%":
        return bytes.fromhex(found.replace("%", "")).decode("ascii"), False
    if found[0] == "\\":
        return _units(found)
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


def _units(found: str) -> tuple[str, bool]:
    """Of ``\\uXXXX``, once or more often."""
    if len(found) > _UNIT_LENGTH:
        text = bytes.fromhex(found.replace("\\u", "")).decode("utf-16-be", "surrogatepass")
        if text.isascii() and "\0" not in text:
            return text, False
    pieces = [found[at : at + _UNIT_LENGTH] for at in range(0, len(found), _UNIT_LENGTH)]
    if len(pieces) > 1:
        return "".join(map(_INSTEAD.__getitem__, pieces)), any(_seen(piece)[1] for piece in {*pieces})
    return _character(found, int(found[2:], 16))


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
    undone: list[str] = []
    done = 0
    for found in NORMALISED.finditer(text):
        start, end = found.span()
        parts += (before := text[done:start], found[0])
        undone += (before, instead(found))
        done = end
    parts.append(text[done:])
    undone.append(text[done:])
    return Plain(parts, undone, True)


def decoded_parts(text: str) -> Iterator[tuple[int, int, str]]:
    """What stands in base64 or hexadecimal and is text when decoded: where it stands, and the text."""
    data = text.encode()
    at = place = 0
    for found in islice(_ENCODED.finditer(data), MOST_DECODED):
        start, end = found.span()
        if end - start > MOST_ENCODED:
            continue
        part = data[start:end]
        raw = binascii.unhexlify(part) if _HEX.fullmatch(part) else _from_base64(part)
        if raw is not None and _is_text(raw):
            place += start - at if text.isascii() else len(data[at:start].decode())
            at = start
            yield place, place + end - start, raw.decode("utf-8", "replace")


def _from_base64(found: bytes) -> bytes | None:
    body = found.rstrip(b"=").translate(_STANDARD)
    body = body[: len(body) - (len(body) % 4 == 1)]
    try:
        return binascii.a2b_base64(body + b"=" * (-len(body) % 4))
    except binascii.Error:
        return None


def _is_text(raw: bytes) -> bool:
    """Words with blanks between them: of a hundred bytes, eighty letters and blanks, and a blank among twenty."""
    if raw.count(32) * 20 < len(raw):
        return False
    others = len(raw.translate(None, _LETTERS))
    return others * 5 <= len(raw)
