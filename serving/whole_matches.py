"""Every match of the patterns in a text that is still being written, each whole: what can be masked.

A stream's scanner (``serving.stream_patterns``) says once per pattern that it is there, as soon as that is certain; to
stop an answer no more is needed. To mask it, its end must be known, and so must every other match. So where a mask is
wanted, the text that waits *settles*: from then on the whole-text search (``PatternSet.scan``) is run over it again and
again, over a window of a few holds, each time that an eighth of the hold has come.

A match that begins before the last ``hold`` bytes is known whole, if its pattern is never wider than the hold; where
it can be, the match is not ``sure``, and neither is one that the stream's scanner saw and the search does not find.
Without a limit (``hold`` None) the search is run once, when the text is over.

All offsets are UTF-8 bytes of the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from serving.patterns import Hit, PatternSet, SeverityName
from serving.stream_patterns import StreamHit, StreamScanner

MOST_MASKED = 1000
"""Hits of one pattern in one look; then all that follows is one more."""

SLACK = 64
"""Bytes before a match that its expression may look at."""

ROOM = 4096
LEAST = 256
"""Bytes that are forgotten at once."""


class WholeHit(NamedTuple):
    """A match from its first byte to its last. ``sure``: it ends there whatever comes."""

    set: str
    id: str
    severity: SeverityName
    start: int
    end: int
    sure: bool = True


class Searched(NamedTuple):
    """A pattern set as it is looked through: ``without`` some of its patterns; ``wide`` are those that may be wider
    than the hold."""

    patterns: PatternSet
    without: frozenset[str]
    wide: frozenset[str]


class WholeMatches:
    """One text. ``scanner`` is its stream's scanner, and says what it says; ``hold``: the bytes that wait."""

    __slots__ = (
        "_awake",
        "_base",
        "_expected",
        "_free",
        "_hold",
        "_scanner",
        "_seam",
        "_sets",
        "_step",
        "_text",
        "_told",
    )

    def __init__(self, scanner: StreamScanner, sets: Sequence[Searched], hold: int | None) -> None:
        self._scanner = scanner
        self._sets = sets
        self._hold = hold
        self._step = max(1, (hold or 0) // 8)
        self._text = bytearray()
        self._base = 0
        self._awake = False
        self._free = 0
        self._seam = 0
        self._expected: list[StreamHit] = []
        self._told: set[tuple[str, str, int]] = set()

    # -- as a scanner of the stream ----------------------------------------------------------------

    def feed(self, text: str) -> list[StreamHit]:
        self._text += _bytes(text)
        hits = self._scanner.feed(text)
        if hits:
            self._expected += hits
        if self._hold is not None and len(self._text) > 4 * self._hold + ROOM and not self._awake:
            self._cut(min([self._scanner.free(self._hold), *(hit.start for hit in self._expected)]))
        return hits

    def end(self) -> list[StreamHit]:
        hits = self._scanner.end()
        self._expected += hits
        return hits

    def pause(self) -> list[StreamHit]:
        hits = self._scanner.pause()
        self._expected += hits
        return hits

    def free(self, hold: int) -> int:
        return self._free if self._awake else self._scanner.free(hold)

    # -- whole matches -----------------------------------------------------------------------------

    @property
    def settling(self) -> bool:
        return self._awake

    def settle(self, left: int) -> None:
        """From now on matches are told whole: all that begin at byte ``left`` or later."""
        if not self._awake:
            self._awake, self._free, self._seam = True, left, left

    def settled(self, final: bool) -> list[WholeHit]:
        """The matches that are certain by now and were not told. ``final``: the text is over, or may be."""
        if not self._awake or (self._hold is None and not final):
            return []
        free = self._base + len(self._text) if final else self._scanner.free(self._hold or 0)
        if free < self._free + (0 if final else self._step):
            return []
        hits = self._search()
        seam = self._seam
        news = [hit for hit in hits if self._free <= hit.start < free or hit.start < seam < hit.end]
        news = [hit for hit in news if (hit.set, hit.id, hit.start) not in self._told]
        news += self._missed(hits, free)
        self._told.update((hit.set, hit.id, hit.start) for hit in news)
        self._free = free
        if final:
            self._seam = free
        if self._hold is not None:
            self._cut(free, hits)
            self._told = {key for key in self._told if key[2] >= self._base}
        news.sort(key=lambda hit: (hit.start, hit.end, hit.set, hit.id))
        return news

    def _missed(self, hits: Sequence[WholeHit], free: int) -> list[WholeHit]:
        """What the stream's scanner saw, and the search does not find."""
        due = [one for one in self._expected if one.start < free]
        self._expected = [one for one in self._expected if one.start >= free]
        return [
            WholeHit(one.set, one.id, one.severity, one.start, one.end, False)
            for one in due
            if one.end > self._free
            and not any(
                (hit.set, hit.id) == (one.set, one.id) and hit.start < one.end and one.start < hit.end for hit in hits
            )
        ]

    def _search(self) -> list[WholeHit]:
        text = self._text.decode()
        found: list[tuple[Searched, Hit]] = []
        for searched in self._sets:
            counts: Counter[str] = Counter()
            for hit in searched.patterns.scan(text, MOST_MASKED, searched.without):
                counts[hit.id] += 1
                all_of_it = counts[hit.id] == MOST_MASKED
                found.append((searched, hit._replace(end=len(text)) if all_of_it else hit))
        places = _places(text, {place for _, hit in found for place in (hit.start, hit.end)})
        return [
            WholeHit(
                searched.patterns.name,
                hit.id,
                hit.severity,
                self._base + places[hit.start],
                self._base + places[hit.end],
                hit.id not in searched.wide,
            )
            for searched, hit in found
        ]

    def _cut(self, free: int, hits: Sequence[WholeHit] = ()) -> None:
        """Forget what no match that is still to come can have begun in; but not the beginning of one of ``hits``, lest
        the next search finds others in what is left of it."""
        hold = self._hold or 0
        cut = free - hold - SLACK
        for hit in sorted(hits, reverse=True, key=lambda hit: hit.start):
            if hit.start < cut < hit.end:
                cut = hit.start
        if cut - self._base < LEAST and len(self._text) > 4 * hold + ROOM:
            cut = free - hold - SLACK
        cut -= self._base
        if cut < LEAST:
            return
        while cut < len(self._text) and self._text[cut] & 0xC0 == 0x80:
            cut += 1
        del self._text[:cut]
        self._base += cut


def _places(text: str, places: set[int]) -> dict[int, int]:
    """Code points → UTF-8 bytes."""
    if text.isascii():
        return {place: place for place in places}
    found: dict[int, int] = {}
    at = done = 0
    for place in sorted(places):
        at += len(text[done:place].encode())
        done = place
        found[place] = at
    return found


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # as the scanner reads lone surrogates
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
