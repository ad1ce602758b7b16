"""Where texts stand in a long history: one pass over it for all of them together.

The history is cut into *stretches*: every passage that gives orders is one, and what stands between. The stretches are
kept in five shelves (orders, doubtful ones, the user's and the system's words, the model's own, results), so that a
stranger who fills a page with a value cannot hide the place that matters behind a thousand that do not: of each shelf
the first :data:`MOST_PLACES` count. The history is kept three times: as it is; squeezed to letters and digits; and
squeezed after encodings were taken off.

A text comes again with every request of a run, so what is made of it alone is kept in its :class:`Cut`; a
:class:`Places` only lays the cuts of one history side by side.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from policies.facts.literals import Hits, find_all
from policies.facts.seen import Piece
from policies.facts.value_forms import decoded_squeezed, may_be_encoded, squeezed_parts

MOST_PLACES = 24
"""Stretches of one shelf in which a text is reported."""
FREE_WITHIN = 12
"""A text of this many bytes is found within a longer word too; a shorter one where words end."""

Shelf = Literal["orders", "doubtful", "told", "own", "results"]
SHELVES: tuple[Shelf, ...] = ("orders", "doubtful", "told", "own", "results")
Kind = Literal["plain", "squeezed", "decoded"]
KINDS: tuple[Kind, ...] = ("plain", "squeezed", "decoded")
Mark = tuple[int, int, bool]
"""A passage of a text: its start and end in code points, and whether it is sure."""

_OPENS, _CLOSES = b"\"'`\x00\n<>", b"\"'`\x00\n<>\\"
_BEFORE_NUMBER, _AFTER_NUMBER = b":[,( \t", b",]}) \t"


class Stretch(NamedTuple):
    """A part of a piece. ``passage``: which passage it is, by its number."""

    piece: Piece
    shelf: Shelf
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


_NOWHERE = Found([], False)


class _Section(NamedTuple):
    """Stretches of one text and one shelf, joined in one of the three ways: where each begins, and which passage it
    is."""

    text: bytes
    starts: list[int]
    passages: list[int | None]


class _Group:
    """Stretches of one text that belong on one shelf."""

    def __init__(self, texts: list[str], passages: list[int | None], encoded: bool) -> None:
        self.texts = texts
        self._passages = passages
        self._encoded = encoded
        self._sections: dict[Kind, _Section] = {}

    def section(self, kind: Kind) -> _Section:
        """What is empty in this reading is left out."""
        known = self._sections.get(kind)
        if known is None:
            known = self._sections[kind] = self._joined(kind)
        return known

    def _joined(self, kind: Kind) -> _Section:
        if kind == "plain":
            texts = [text.encode("utf-8", "surrogatepass") for text in self.texts]
        elif kind == "squeezed":
            texts = squeezed_parts(self.texts)
        elif self._encoded:
            texts = [decoded_squeezed(text) or b"" for text in self.texts]
        else:
            return _Section(b"", [], [])
        passages = self._passages
        if len(texts) == 1:
            return _Section(texts[0], [0], passages)
        if not all(texts):
            passages = [passage for passage, text in zip(passages, texts, strict=True) if text]
            texts = [text for text in texts if text]
        starts, at = [], 0
        for text in texts:
            starts.append(at)
            at += len(text) + 1
        return _Section(b"\x00".join(texts), starts, passages)


_NO_GROUP = _Group([], [], False)


class Cut:
    """A text cut at its passages. ``passages`` are numbered from 0, in the order given; where two overlap, the one that
    begins first has what they share. ``rest`` is what stands between them."""

    def __init__(self, text: str, passages: Sequence[Mark] = ()) -> None:
        if not passages:
            self.rest = _Group([text] if text else [], [None] if text else [], may_be_encoded(text))
            self.orders = self.doubtful = _NO_GROUP
            return
        rest: list[str] = []
        sure_ones: tuple[list[str], list[int | None]] = [], []
        doubtful: tuple[list[str], list[int | None]] = [], []
        at = 0
        for start, end, number, sure in sorted([(*mark[:2], nth, mark[2]) for nth, mark in enumerate(passages)]):
            if start > at:
                rest.append(text[at:start])
                at = start
            if end > at:
                texts, numbers = sure_ones if sure else doubtful
                texts.append(text[at:end])
                numbers.append(number)
                at = end
        if at < len(text):
            rest.append(text[at:] if at else text)
        encoded = may_be_encoded(text)
        self.rest = _Group(rest, [None] * len(rest), encoded)
        self.orders = _Group(*sure_ones, encoded)
        self.doubtful = _Group(*doubtful, encoded)

    def read(self) -> None:
        """Make each of the three readings."""
        for group in (self.rest, self.orders, self.doubtful):
            for kind in KINDS:
                group.section(kind)


class _Shelved(NamedTuple):
    """A group of a piece's stretches; ``first`` is the number of its text's first passage in the whole history."""

    piece: Piece
    shelf: Shelf
    group: _Group
    first: int


class _Row(NamedTuple):
    """A shelf in one of the three ways: its text, and where in it each section begins."""

    text: bytes
    starts: list[int]
    sections: list[tuple[_Shelved, _Section]]

    def extended(self, groups: Iterable[_Shelved], kind: Kind) -> _Row:
        more = [(shelved, section) for shelved in groups if (section := shelved.group.section(kind)).text]
        if not more:
            return self
        texts, starts = [self.text] if self.sections else [], []
        at = len(self.text) + 1 if self.sections else 0
        for _, section in more:
            starts.append(at)
            texts.append(section.text)
            at += len(section.text) + 1
        return _Row(b"\x00".join(texts), self.starts + starts, self.sections + more)


_NO_ROW = _Row(b"", [], [])


class _Shelf:
    """The groups of one shelf, in the order of the history. Does not change once it is made."""

    def __init__(self, groups: list[_Shelved], rows: dict[Kind, _Row]) -> None:
        self._groups = groups
        self._rows = rows

    def row(self, kind: Kind) -> _Row:
        known = self._rows.get(kind)
        if known is None:
            known = self._rows[kind] = _NO_ROW.extended(self._groups, kind)
        return known

    def extended(self, groups: list[_Shelved]) -> _Shelf:
        """With more behind; what was read of this one is not read again."""
        if not groups:
            return self
        rows = {kind: row.extended(groups, kind) for kind, row in self._rows.items()}
        return _Shelf(self._groups + groups, rows)


class _Reading:
    """All shelves one behind the other, in one of the three ways."""

    def __init__(self, shelves: Iterable[_Shelf], kind: Kind) -> None:
        self._rows = [row for shelf in shelves if (row := shelf.row(kind)).sections]
        self._starts: list[int] = []
        at = 1
        for row in self._rows:
            self._starts.append(at)
            at += len(row.text) + 1
        self.text = b"\x00".join([b"", *[row.text for row in self._rows], b""])

    def find(self, needles: Sequence[Needle], words: bool) -> list[Found]:
        """Where each needle stands; with ``words`` a short one only as a word of its own."""
        numbers: dict[bytes, int] = {}
        for needle in needles:
            numbers.setdefault(needle.text, len(numbers))
        if not self._rows:
            return [_NOWHERE] * len(needles)
        hits = find_all(self.text, list(numbers))
        starts: dict[int, list[int]] = {}
        for number, start in hits.places:
            starts.setdefault(number, []).append(start)
        return [self._found(needle, numbers[needle.text], starts, hits, words) for needle in needles]

    def _found(
        self, needle: Needle, number: int, starts: Mapping[int, Sequence[int]], hits: Hits, words: bool
    ) -> Found:
        own = starts.get(number)
        if own is None:
            return _NOWHERE
        places, more = self._places(needle, sorted(own), words)
        return Found(places, more or number in hits.given_up)

    def _places(self, needle: Needle, starts: Sequence[int], words: bool) -> tuple[list[Place], bool]:
        places: list[Place] = []
        taken: Counter[Shelf] = Counter()
        more, done, last = False, 0, (-1, -1, -1)
        for start in starts:
            if start < done:
                continue
            end = start + len(needle.text)
            if words and len(needle.text) < FREE_WITHIN and self._within(start, end, needle.number):
                continue
            shelf = bisect_right(self._starts, start) - 1
            row, begins = self._rows[shelf], self._starts[shelf]
            at = bisect_right(row.starts, start - begins) - 1
            shelved, section = row.sections[at]
            begins += row.starts[at]
            nth = bisect_right(section.starts, start - begins) - 1
            whole = words and self._whole(start, end, needle.number)
            if taken[shelved.shelf] >= MOST_PLACES:
                more = True
                continue
            if whole or not words:
                done = begins + (section.starts[nth + 1] if nth + 1 < len(section.starts) else len(section.text) + 1)
            if last == (shelf, at, nth):
                if whole:
                    places[-1] = places[-1]._replace(whole=True)
                continue
            last = shelf, at, nth
            taken[shelved.shelf] += 1
            passage = section.passages[nth]
            stretch = Stretch(shelved.piece, shelved.shelf, None if passage is None else shelved.first + passage)
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
    """A history: its pieces in order, each with its cut and with the number of its first passage among all."""

    def __init__(self, pieces: Sequence[tuple[Piece, Cut, int]], before: Places | None = None) -> None:
        """``before``: what stood before these pieces."""
        shelves: dict[Shelf, list[_Shelved]] = {shelf: [] for shelf in SHELVES}
        for piece, cut, first in pieces:
            shelf = _shelf(piece)
            groups: tuple[tuple[Shelf, _Group], ...]
            groups = ("orders", cut.orders), ("doubtful", cut.doubtful), (shelf, cut.rest)
            for own, group in groups:
                if group.texts:
                    shelves[own].append(_Shelved(piece, own, group, first))
        self._readings: dict[Kind, _Reading] = {}
        known = before._shelves if before is not None else [_Shelf([], {}) for _ in SHELVES]
        self._shelves: list[_Shelf] = [
            shelf.extended(shelves[name]) for name, shelf in zip(SHELVES, known, strict=True)
        ]
        self.size: int = sum([len(piece.text) for piece, _, _ in pieces]) + (before.size if before is not None else 0)

    def find(self, needles: Sequence[Needle]) -> list[Found]:
        """Where each needle stands, in the order of ``needles``."""
        wanted: dict[Kind, list[int]] = {}
        for at, needle in enumerate(needles):
            wanted.setdefault(needle.kind, []).append(at)
        found = [_NOWHERE] * len(needles)
        for kind, own in wanted.items():
            reading = self._reading(kind)
            for at, places in zip(own, reading.find([needles[at] for at in own], kind == "plain"), strict=True):
                found[at] = places
        return found

    def _reading(self, kind: Kind) -> _Reading:
        known = self._readings.get(kind)
        if known is None:
            known = self._readings[kind] = _Reading(self._shelves, kind)
        return known


def _shelf(piece: Piece) -> Shelf:
    if piece.source == "tool":
        return "results"
    return "told" if piece.source in ("system", "user") else "own"
