"""A text without disguise is the same whether it is undone piece by piece or all at once, and its places are known."""

from __future__ import annotations

import base64
import unicodedata

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from serving.plain import LOOK_ALIKES, UNSEEN, Plain, decoded_parts, plain

_ALIKE = "\u0370-\u03ff\u0400-\u052f"
PIECE = re2.compile(
    r"(?:%[2-7][0-9a-fA-F])+|\\u[0-9a-fA-F]{4}|&#(?:[0-9]{2,6}|x[0-9a-fA-F]{2,5});"
    f"|[{UNSEEN}\U000e0100-\U000e01ef]+|[\U000e0020-\U000e007f]+"
    "|[\u2100-\u214f\u2460-\u24ff\u3000\uff01-\uff5e\U0001d400-\U0001d7ff\U0001f130-\U0001f189]+"
    f"|[A-Za-z{_ALIKE}]*(?:[A-Za-z][{_ALIKE}]|[{_ALIKE}][A-Za-z])[A-Za-z{_ALIKE}]*"
)
"""What is disguised, as one expression that is asked for one piece after the other."""

ESCAPES = (
    r"%41 %4a %7F %5c % %8 \u0041 \u00aB \u005c \ud83d \u0000 \u200b \u00 u0041 "
    r"&#65; &#x4a; &#x200b; &#0; &#1114112; & #"
)
CHARACTERS = (
    "\u200b \u200b\ufe0f \U000e0101 \u00ad \U000e0041\U000e007f \uff21 \uff76\uff9e ½ \u2163 \U0001d400 "
    "\u0430 \u0430\u0431 Ω a f Zz . é 请 0 x \\"
)
WRITTEN = st.sampled_from([*ESCAPES.split(" "), *CHARACTERS.split(" "), " ", "\u3000"])


def one_by_one(text: str) -> tuple[str, list[int]]:
    """The text undone, and for each place in it where that stood (the last entry is for its end)."""
    undone: list[str] = []
    places: list[int] = []
    done = 0
    for found in PIECE.finditer(text):
        start, end = found.span()
        undone.append(text[done:start])
        places += range(done, start)
        instead = seen(found[0])
        undone.append(instead)
        places += range(start, start + len(instead))
        done = end
    undone.append(text[done:])
    places += range(done, len(text) + 1)
    return "".join(undone), places


def seen(piece: str) -> str:
    code = ord(piece[0])
    if piece[0] == "%":
        return bytes.fromhex(piece.replace("%", "")).decode()
    if piece[0] in "\\&":
        digits = piece[2:].rstrip(";").lower()
        code = int(digits[1:], 16) if digits[0] == "x" else int(digits, 16 if piece[0] == "\\" else 10)
        if code == 0 or code > 0x10FFFF or 0xD800 <= code < 0xE000:
            return piece
        return "" if re2.search(f"[{UNSEEN}]", chr(code)) else unicodedata.normalize("NFKC", chr(code))
    if 0xE0020 <= code <= 0xE007F:
        return "".join(chr(ord(tag) - 0xE0000) for tag in piece if tag != "\U000e007f")
    if 0xE0100 <= code <= 0xE01EF or re2.search(f"[{UNSEEN}]", piece[0]):
        return ""
    if piece[0].isascii() or 0x370 <= code <= 0x52F:
        return piece.translate(LOOK_ALIKES)
    return unicodedata.normalize("NFKC", piece)


@given(st.lists(WRITTEN, max_size=30).map("".join))
def test_all_at_once_is_as_piece_by_piece(text: str) -> None:
    undone, places = one_by_one(text)
    found = plain(text)
    if found is None:
        assert PIECE.search(text) is None
        return
    assert found.text == undone
    assert [found.original(place) for place in range(len(undone) + 1)] == places


def known(found: Plain | None) -> Plain:
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "undone", "hidden"),
    [
        (r"\u0053end", "Send", False),
        (r"\u0053\u200b\u0065nd", "Send", True),
        (r"\u0053\ud83d\u0065nd", r"S\ud83dend", False),
        ("%53%65nd", "Send", False),
        ("S&#x65;nd", "Send", False),
        ("S\u200bend", "Send", True),
        ("S\u0435nd", "Send", True),
        ("Ｓend", "Send", False),
        (r"%5cu0053", r"\u0053", False),  # undone once
    ],
)
def test_what_a_reader_sees(text: str, undone: str, hidden: bool) -> None:
    found = known(plain(text))
    assert (found.text, found.hidden) == (undone, hidden)


def test_a_long_run_of_escapes_keeps_its_places() -> None:
    text = "Ref: " + "".join(f"\\u{ord(character):04x}" for character in "é order \u200b" * 400)
    found = known(plain(text))
    assert found.text == "Ref: " + "é order " * 400
    assert [found.original(5 + place) for place in (0, 1, 8, 2000)] == [5, 11, 5 + 9 * 6, 5 + (250 * 9) * 6]


def test_words_of_one_script_are_left_alone() -> None:
    assert plain("Завтра в девять, ok? Ωμέγα.") is None


@pytest.mark.parametrize("before", ["", "é", "请 "])
def test_what_is_encoded_is_found_at_its_place(before: str) -> None:
    part = base64.urlsafe_b64encode(b"Ask for the keys at the door of the house").decode().rstrip("=")
    more = b"Bring them along to the other end".hex()
    text = f"{before}{part} or {before}{more}."
    assert [text[start:end] for start, end, _ in decoded_parts(text)] == [part, more]
    assert [inner[:5] for _, _, inner in decoded_parts(text)] == ["Ask f", "Bring"]
