"""Where texts stand in a long history: one pass over it for all of them together.

The history is cut into *stretches*: every passage that gives orders is one, and what stands between. The stretches are
kept in five shelves (orders, doubtful ones, the user's and the system's words, the model's own, results), so that a
stranger who fills a page with a value cannot hide the place that matters behind a thousand that do not: of each shelf
the first :data:`MOST_PLACES` count. The history is kept three times: as it is; squeezed to letters and digits; and
squeezed after encodings were taken off.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

from policies.literals import find_all
from policies.seen import Piece
from policies.value_forms import decoded_squeezed, squeezed

MOST_PLACES = 24
"""Stretches of one shelf in which a text is reported."""
FREE_WITHIN = 12
"""A text of this many bytes is found within a longer word too; a shorter one where words end."""

Shelf = Literal["orders", "doubtful", "told", "own", "results"]
SHELVES: tuple[Shelf, ...] = ("orders", "doubtful", "told", "own", "results")
Kind = Literal["plain", "squeezed", "decoded"]

_OPENS, _CLOSES = b"\"'`\x00\n<>", b"\"'`\x00\n<>\\"
_BEFORE_NUMBER, _AFTER_NUMBER = b":[,( \t", b",]}) \t"


class Stretch(NamedTuple):
    """A part of a piece. ``passage``: which passage it is, by its number."""

    piece: Piece
    shelf: Shelf
    text: str
    passage: int | None = None


class Needle(NamedTuple):
    """A text to look for in one of the three readings. A ``number`` does not stand within a longer one."""

    kind: Kind
    text: bytes
    number: bool = False


class Place(NamedTuple):
    """``whole``: it is all of a message, a line or a quoted field there."""

    stretch: Stretch
    whole: bool


class Found(NamedTuple):
    """``more``: there are places that are not listed."""

    places: list[Place]
    more: bool


class _Reading:
    """The stretches joined, in one of the three ways."""

    def __init__(self, texts: Iterable[tuple[Stretch, bytes]]) -> None:
        known = [(stretch, text) for stretch, text in texts if text]
        self._stretches = [stretch for stretch, _ in known]
        self.text = b"\x00".join([b"", *(text for _, text in known), b""])
        self._starts: list[int] = []
        at = 1
        for _, text in known:
            self._starts.append(at)
            at += len(text) + 1

    def find(self, needles: Sequence[Needle], words: bool) -> list[Found]:
        """Where each needle stands; with ``words`` a short one only as a word of its own."""
        numbers: dict[bytes, int] = {}
        for needle in needles:
            numbers.setdefault(needle.text, len(numbers))
        hits = find_all(self.text, list(numbers)) if self._stretches else None
        if hits is None:
            return [Found([], False) for _ in needles]
        starts: dict[int, list[int]] = {}
        for number, start in hits.places:
            starts.setdefault(number, []).append(start)
        found: list[Found] = []
        for needle in needles:
            number = numbers[needle.text]
            places, more = self._places(needle, sorted(starts.get(number, ())), words)
            found.append(Found(places, more or number in hits.given_up))
        return found

    def _places(self, needle: Needle, starts: Sequence[int], words: bool) -> tuple[list[Place], bool]:
        places: list[Place] = []
        taken: Counter[Shelf] = Counter()
        more, done = False, 0
        for start in starts:
            if start < done:
                continue
            end = start + len(needle.text)
            if words and len(needle.text) < FREE_WITHIN and self._within(start, end, needle.number):
                continue
            nth = bisect_right(self._starts, start) - 1
            stretch = self._stretches[nth]
            whole = words and self._whole(start, end, needle.number)
            if taken[stretch.shelf] >= MOST_PLACES:
                more = True
                continue
            if whole or not words:
                done = self._starts[nth + 1] if nth + 1 < len(self._starts) else len(self.text)
            if places and places[-1].stretch is stretch:
                if whole:
                    places[-1] = Place(stretch, True)
                continue
            taken[stretch.shelf] += 1
            places.append(Place(stretch, whole))
        return places, more

    def _within(self, start: int, end: int, number: bool) -> bool:
        """Whether what stands from ``start`` to ``end`` is a piece of a longer word or number."""
        text = self.text
        if _letter(text[start : start + 4], True) and _letter(text[max(0, start - 4) : start], False):
            return True
        if _letter(text[max(0, end - 4) : end], False) and _letter(text[end : end + 4], True):
            return True
        if not number:
            return False
        if text[start - 1] in b".," and text[start - 2 : start - 1].isdigit():
            return True
        after = text[end + 1 : end + 4]
        return after[:1].isdigit() and (
            text[end] == ord(".") or (text[end] == ord(",") and len(after) == 3 and after.isdigit())
        )

    def _whole(self, start: int, end: int, number: bool) -> bool:
        before, after = self.text[start - 1], self.text[end]
        if before in _OPENS and after in _CLOSES:
            return True
        return number and before in _BEFORE_NUMBER and after in _AFTER_NUMBER and self.text[start - 2] in b":,["


def _letter(text: bytes, first: bool) -> bool:
    """Whether the first or last character of a piece of UTF-8 belongs to a word."""
    edge = text[0] if first else text[-1] if text else 0
    if edge < 128:
        mark = chr(edge)
        return mark.isalnum() or mark == "_"
    told = text.decode("utf-8", "ignore")
    return bool(told) and (told[0] if first else told[-1]).isalnum()


class Places:
    """A history with its passages: ``passages`` are (number of the piece, start, end, whether it is sure), in code
    points."""

    def __init__(self, pieces: Sequence[Piece], passages: Sequence[tuple[int, int, int, bool]] = ()) -> None:
        cuts: dict[int, list[tuple[int, int, int, Shelf]]] = {}
        for number, (where, start, end, sure) in enumerate(passages):
            cuts.setdefault(where, []).append((start, end, number, "orders" if sure else "doubtful"))
        stretches: list[Stretch] = []
        for nth, piece in enumerate(pieces):
            shelf = _shelf(piece)
            at = 0
            for start, end, number, ordered in sorted(cuts.get(nth, ())):
                start = max(start, at)
                if start > at:
                    stretches.append(Stretch(piece, shelf, piece.text[at:start]))
                if end > start:
                    stretches.append(Stretch(piece, ordered, piece.text[start:end], number))
                    at = end
            if at < len(piece.text):
                stretches.append(Stretch(piece, shelf, piece.text[at:] if at else piece.text))
        self._stretches = sorted(stretches, key=lambda stretch: SHELVES.index(stretch.shelf))
        self.size = sum(len(stretch.text) for stretch in stretches)

    def find(self, needles: Sequence[Needle]) -> list[Found]:
        """Where each needle stands, in the order of ``needles``."""
        found: list[Found] = [Found([], False)] * len(needles)
        for kind in ("plain", "squeezed", "decoded"):
            own = [at for at, needle in enumerate(needles) if needle.kind == kind]
            if own:
                reading: _Reading = getattr(self, f"_{kind}")
                for at, places in zip(own, reading.find([needles[at] for at in own], kind == "plain"), strict=True):
                    found[at] = places
        return found

    @cached_property
    def _plain(self) -> _Reading:
        return _Reading((stretch, stretch.text.encode("utf-8", "surrogatepass")) for stretch in self._stretches)

    @cached_property
    def _squeezed(self) -> _Reading:
        return _Reading((stretch, squeezed(stretch.text)) for stretch in self._stretches)

    @cached_property
    def _decoded(self) -> _Reading:
        return _Reading((stretch, decoded_squeezed(stretch.text) or b"") for stretch in self._stretches)


def _shelf(piece: Piece) -> Shelf:
    if piece.source == "tool":
        return "results"
    return "told" if piece.source in ("system", "user") else "own"
