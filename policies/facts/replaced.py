"""What a run's earlier messages said, for when a summary stands in their place.

    shown = Shown()                                      # one for each run
    background = Background(messages, tools, table, texts, shown=shown)
    background.facts(…)
    background.show(shown)                               # its messages are part of the run now

A harness that runs out of room replaces earlier turns by a summary, and words that came from a tool then stand in a
message of the model or the user. So of every result the run keeps which values it had (addresses, links, paths, words
with digits) and, of a passage that gives orders, all that it said; of the user and the system all that they said. Not
the words: hashes of values, and of every six letters and digits in a row. Once a result is gone from the history, what
stands in a message that came in its place inherits from it.

A message *stands in* if a result is gone and the run had not shown the message before, unless it follows something that
the model said, or a tool, and that the run had shown: a summary is put where the past was, new words come at the end.
What stood in once does so for good.

All of it is bounded (:data:`MOST_TEXTS` and the others), oldest first; what is forgotten is not inherited.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence, Set
from itertools import islice
from typing import NamedTuple
from zlib import crc32

from policies.facts.known import KnownText
from policies.facts.orders import GIVES_ORDERS
from policies.facts.seen import Piece
from policies.facts.value_forms import SHORTEST_SQUEEZED, squeezed

MOST_BYTES = 16 * 1024 * 1024
"""Of all runs together."""
MOST_TEXTS = 4096
"""Texts of a run that are known again."""
MOST_RESULTS = 128
MOST_VALUES = 1024
MOST_PASSAGES = 16
MOST_SHINGLES, MOST_SHINGLES_TOLD = 600, 4000
"""Rows of :data:`ROW` letters and digits that are kept: of one passage, and of what user and system said."""
ROW = SHORTEST_SQUEEZED
"""A value with fewer letters and digits is not inherited."""
_SURE = 8
"""Characters of a text that is not said twice by chance."""


class Passage(NamedTuple):
    """A passage that gave orders: what policies saw of it, and the rows of what it said."""

    result: int
    kinds: tuple[str, ...]
    score: float
    asked: bool
    rows: array[int]


class Inherited(NamedTuple):
    """What a value inherits: ``tools`` that had it in a result, the numbers of :attr:`Gone.passages` that had it, and
    whether the user or the system had said it (``told``)."""

    tools: frozenset[str | None]
    passages: tuple[int, ...]
    told: bool


class Gone(NamedTuple):
    """What is gone from a history: its ``passages``, each with its tool, and its ``values``. ``stands_in``: the numbers
    of the messages that came in its place; ``told``: what user and system had said."""

    passages: tuple[tuple[Passage, str | None], ...]
    stands_in: frozenset[int]
    values: dict[int, frozenset[str | None]]
    told: array[int]

    def inherited(self, value: str) -> Inherited:
        tight = squeezed(value)
        if len(tight) < ROW:
            return Inherited(frozenset(), (), False)
        rows = [*_rows(tight, MOST_SHINGLES)]
        held = [(nth, tool) for nth, (passage, tool) in enumerate(self.passages) if _has(passage.rows, rows)]
        tools = self.values.get(crc32(tight), frozenset()) | {tool for _, tool in held}
        return Inherited(tools, tuple([nth for nth, _ in held]), _has(self.told, rows))


class ShownRuns:
    """What the runs that were seen last had shown, in ``most_bytes``. Safe for threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._lock = threading.Lock()
        self._most = most_bytes
        self._left = most_bytes
        self._runs: OrderedDict[str, tuple[Shown, int]] = OrderedDict()

    def of(self, run: str) -> Shown:
        """What the run had shown; nothing if it is not known."""
        known = self._runs.get(run)
        return known[0] if known is not None else Shown()

    def keep(self, run: str, shown: Shown) -> None:
        """It has shown more."""
        with self._lock:
            known = self._runs.pop(run, None)
            weight = shown.weight
            self._left += (known[1] if known is not None else 0) - weight
            self._runs[run] = shown, weight
            while self._left < 0:
                self._left += self._runs.popitem(last=False)[1][1]


class Shown:
    """What one run had shown. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[bytes, bool] = {}  # mark → whether it stands in for others
        self._results: dict[int, tuple[bytes, str | None]] = {}
        self._values: dict[int, tuple[int, ...]] = {}
        self._passages: list[Passage] = []
        self._told: array[int] = array("I")
        self._count = 0

    @property
    def weight(self) -> int:
        """Bytes that it takes, about."""
        rows = len(self._told) + sum(len(passage.rows) for passage in self._passages)
        return 512 + 150 * len(self._texts) + 200 * len(self._results) + 200 * len(self._values) + 4 * rows

    def gone(self, pieces: Sequence[tuple[Piece, KnownText]]) -> Gone | None:
        """What of it is not in a history any more; None if nothing, or if nothing stands in its place."""
        with self._lock:
            there = {text.mark for _, text in pieces}
            lost = {number: tool for number, (mark, tool) in self._results.items() if mark not in there}
            if not lost:
                return None
            stands_in = frozenset(self._stand_ins(pieces))
            if not stands_in:
                return None
            passages = [(one, lost[one.result]) for one in self._passages if one.result in lost]
            values = {
                value: frozenset(lost[number] for number in numbers if number in lost)
                for value, numbers in self._values.items()
                if any(number in lost for number in numbers)
            }
            return Gone(tuple(passages), stands_in, values, self._told)

    def _stand_ins(self, pieces: Sequence[tuple[Piece, KnownText]]) -> Iterable[int]:
        own = ("assistant", "reasoning", "call", "tool")
        known = [
            piece.message
            for piece, text in pieces
            if piece.source in own and len(piece.text) >= _SURE and self._texts.get(text.mark) is False
        ]
        end = max(known, default=None)
        for piece, text in pieces:
            if piece.source in ("tool", "call"):
                continue
            stands = self._texts.get(text.mark)
            if stands or (stands is None and (end is None or piece.message < end)):
                yield piece.message

    def show(self, pieces: Sequence[tuple[Piece, KnownText]], asked: Set[int], stands_in: Collection[int] = ()) -> None:
        """A history is what the run has shown. ``asked``: the results whose source the user named; ``stands_in``: the
        messages that stand in for what is gone."""
        results: list[tuple[Piece, KnownText]] = []
        with self._lock:
            for piece, text in pieces[-MOST_TEXTS:]:
                if text.mark in self._texts:
                    continue
                stands = piece.message in stands_in and piece.source not in ("tool", "call")
                self._texts[text.mark] = stands
                if piece.source == "tool":
                    results.append((piece, text))
                elif piece.source in ("user", "system") and not stands:
                    self._says(text)
            while len(self._texts) > MOST_TEXTS:
                del self._texts[next(iter(self._texts))]
            self._add(results[-MOST_RESULTS:], asked)

    def _says(self, text: KnownText) -> None:
        room = MOST_SHINGLES_TOLD - len(self._told)
        if room > 0:
            self._told = array("I", sorted({*self._told, *islice(_rows(text.squeezed, MOST_SHINGLES_TOLD), room)}))

    def _add(self, results: Sequence[tuple[Piece, KnownText]], asked: Set[int]) -> None:
        numbered = [*enumerate(results, self._count)]
        self._count += len(results)
        values: dict[int, list[int]] = {}
        for number, (_, text) in reversed(numbered):
            for value in text.values:
                values.setdefault(value, []).append(number)
            if len(values) >= MOST_VALUES:
                break
        for value, numbers in reversed(values.items()):
            self._values[value] = (*self._values.pop(value, ()), *reversed(numbers))[-4:]
        for value in [*islice(self._values, max(0, len(self._values) - MOST_VALUES))]:
            del self._values[value]
        for number, (piece, text) in numbered:
            self._results[number] = text.mark, piece.tool
            self._keep_passages(number, text, piece.message in asked)
        for number in [*islice(self._results, max(0, len(self._results) - MOST_RESULTS))]:
            del self._results[number]

    def _keep_passages(self, number: int, text: KnownText, asked: bool) -> None:
        told = text.told
        for passage, score, words in zip(told.passages, told.scores, told.words, strict=True):
            if score >= GIVES_ORDERS:
                rows = array("I", sorted(set(_rows(squeezed(words), MOST_SHINGLES))))
                self._passages.append(Passage(number, passage.kinds, score, asked, rows))
        del self._passages[:-MOST_PASSAGES]


def _rows(tight: bytes, most: int) -> Iterable[int]:
    """Hashes of every :data:`ROW` bytes in a row."""
    return (crc32(tight[at : at + ROW]) for at in range(min(len(tight) - ROW + 1, most)))


def _has(rows: array[int], wanted: Sequence[int]) -> bool:
    """Whether all of ``wanted`` are among the sorted ``rows``."""
    for row in wanted:
        at = bisect_left(rows, row)
        if at == len(rows) or rows[at] != row:
            return False
    return bool(wanted)
