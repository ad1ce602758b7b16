"""Masks: spans of a text that the client gets other words for.

A text of an answer comes in pieces, stands in several strings, or is repeated; a mask says where in all of it, in bytes
of UTF-8, so that each piece can be masked by where it begins. The words stand in the piece in which the span begins,
and of the other pieces that it touches that part is left out. So what the pieces say together is the masked text,
wherever it was cut.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

Surface = Literal["reasoning", "text"]


class Mask(NamedTuple):
    """``words`` instead of the bytes from ``start`` to ``end``."""

    start: int
    end: int
    words: str


Masks = Sequence[Mask]
"""In order, and apart from one another (:func:`joined`)."""


def joined(masks: Iterable[tuple[int, int, str]]) -> tuple[Mask, ...]:
    """Spans in order, those that overlap as one, with the words of the one that begins first; empty ones are none."""
    found: list[Mask] = []
    for start, end, words in sorted(set(masks)):
        if found and start < found[-1].end:
            found[-1] = found[-1]._replace(end=max(found[-1].end, end))
        elif start < end:
            found.append(Mask(start, end, words))
    return tuple(found)


def join_in(masks: list[Mask], more: Masks) -> None:
    """``masks`` with ``more`` of them. What comes behind all that were there costs nothing for those."""
    if more:
        first = bisect_right(masks, min(mask.start for mask in more), key=lambda mask: mask.end)
        masks[first:] = joined([*masks[first:], *more])


def touches(masks: Masks, start: int, end: int) -> bool:
    """Whether any of the bytes from ``start`` to ``end`` are masked."""
    first = bisect_right(masks, start, key=lambda mask: mask.end)
    return first < len(masks) and masks[first].start < end


def masked(text: str, masks: Masks, at: int = 0) -> str:
    """What the client gets for a piece that begins at byte ``at`` of its text."""
    raw = utf8(text)
    end = at + len(raw)
    if not touches(masks, at, end):
        return text
    parts: list[bytes] = []
    done = at
    for place in range(bisect_right(masks, at, key=lambda mask: mask.end), len(masks)):
        mask = masks[place]
        if mask.start >= end:
            break
        parts.append(raw[done - at : max(mask.start, at) - at])
        if mask.start >= at:
            parts.append(utf8(mask.words))
        done = min(mask.end, end)
    parts.append(raw[done - at :])
    return b"".join(parts).decode("utf-8", "surrogatepass")


def each_masked(strings: Sequence[str], masks: Masks) -> list[str]:
    """The strings that a text is joined from, masked."""
    told: list[str] = []
    at = 0
    for one in strings:
        told.append(masked(one, masks, at))
        at += len(utf8(one))
    return told


def touching_tokens(pieces: Sequence[bytes], areas: Collection[tuple[int, int]]) -> set[int]:
    """Which of the tokens that spell ``pieces`` one after the other spell any byte of the areas. One that spells
    nothing belongs to the character that begins where it stands."""
    gone: set[int] = set()
    ends = list(accumulate(map(len, pieces)))
    for start, stop in areas:
        for place in range(bisect_left(ends, start), len(ends)):
            begin = ends[place] - len(pieces[place])
            if begin >= stop:
                break
            if max(ends[place], begin + 1) > start:
                gone.add(place)
    return gone


def showing_tokens(pieces: Sequence[bytes], areas: Collection[tuple[int, int]]) -> set[int]:
    """Those, and of each area the one before: what might have stood in its place may begin what the area says."""
    gone = touching_tokens(pieces, areas)
    for place in sorted(gone):
        while place > 0 and place - 1 not in gone:
            place -= 1
            gone.add(place)
            if pieces[place]:
                break
    return gone


def spelled_areas(spelled: bytes, texts: Mapping[str, Masks]) -> list[tuple[int, int]] | None:
    """Where the masked spans of ``texts`` (text → its masks) stand in what the tokens spell; None if that is not
    certain: a text that stands there more than once, or not just so."""
    areas: list[tuple[int, int]] = []
    for text, masks in texts.items():
        written = utf8(text)
        at = spelled.find(written)
        if at < 0 or spelled.find(written, at + 1) >= 0:
            return None
        areas += [(at + mask.start, at + mask.end) for mask in masks]
    return areas


def shift_of(raw: bytes, mask: Mask) -> int:
    """By how many code points what stands behind ``mask`` in a text moves."""
    return len(mask.words) - len(raw[mask.start : mask.end].decode("utf-8", "surrogatepass"))


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
