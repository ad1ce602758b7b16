"""Where some expressions match in a text, in one pass (Hyperscan, block mode).

    scan = BlockScan(once=["tool_call"], every=[r"\\bsend ", "ignore all"])
    scan.found(data, 1000).once, .places, .more

Nothing is learnt while it scans, so a text that nobody has seen costs what a known one does. Hyperscan works while
other threads do, and needs room of its own for each of them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import hyperscan


class Found(NamedTuple):
    """``once``: the numbers of the first expressions that match, in any order. ``places``: where matches of the others
    end, in bytes, in order, each with the number of its expression among them. ``more``: there are more than were asked
    for, and nothing is said of what stands behind the last of them."""

    once: list[int]
    places: list[tuple[int, int]]
    more: bool


class _Noted:
    """What one scan has found by now. It is ended at the match that is one too many."""

    def __init__(self, first: int, most: int) -> None:
        self.once: list[int] = []
        self.places: list[tuple[int, int]] = []
        self._first = first
        self._left = most

    def note(self, index: int, _start: int, end: int, _flags: int, _context: object) -> bool:
        if index < self._first:
            self.once.append(index)
            return False
        self.places.append((end, index - self._first))
        self._left -= 1
        return self._left < 0


class BlockScan:
    """Use from any thread."""

    def __init__(self, once: Sequence[str] = (), every: Sequence[str] = ()) -> None:
        """The expressions are over bytes, without regard to the case of ASCII. Of those in ``once`` it is asked whether
        they match, of those in ``every`` where.

        Raises :class:`hyperscan.HyperscanError` for one that Hyperscan does not take."""
        expressions = [expression.encode() for expression in (*once, *every)]
        alone, always = hyperscan.HS_FLAG_CASELESS | hyperscan.HS_FLAG_SINGLEMATCH, hyperscan.HS_FLAG_CASELESS
        self._first = len(once)
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        self._database.compile(
            expressions=expressions,
            ids=list(range(len(expressions))),
            flags=[alone] * len(once) + [always] * len(every),
        )
        self._local = threading.local()

    def found(self, data: bytes, most: int = 0) -> Found:
        """What matches in ``data``; ``most``: matches of ``every`` that are noted."""
        try:
            scratch: Any = self._local.scratch
        except AttributeError:
            scratch = self._local.scratch = hyperscan.Scratch(self._database)
        noted = _Noted(self._first, most)
        try:
            self._database.scan(data, noted.note, scratch=scratch)
        except hyperscan.ScanTerminated:
            return Found(noted.once, sorted(set(noted.places)), True)
        places = noted.places
        return Found(noted.once, sorted(set(places)) if len(places) > 1 else places, False)
