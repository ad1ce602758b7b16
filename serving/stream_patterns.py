"""Pattern sets over text that is still being written: each byte is looked at once, at any chunking.

    patterns = StreamPatterns(shipped_patterns())     # compiled once
    scanner = patterns.scanner()                      # one per surface of one choice
    for delta in deltas:
        for hit in scanner.feed(delta): …
    for hit in scanner.end(): …

Two automata share the work. Hyperscan reads the bytes as they come and keeps its place between them; it says that a
pattern *may* end here. Only then is RE2 asked, about a bounded piece of the text that has just gone by. So what is
found is what :meth:`PatternSet.scan` would find in the whole text. Each pattern is reported once per surface, where it
is certain for the first time.

- A pattern that is not weighed (no entropy, words or checksum) is certain with its shortest match: the first letters of
  a private key, not its last line.
- One that is weighed is certain when the next character shows that the match goes no further, or at the end. Groups
  of digits that may go on after a space are weighed as far as they have come: more may be found than in the whole. One
  with a checksum is tried at every group (``serving.readings``), here as in the whole.
- Text behind URL encoding or between characters without width is read a second time without those, from the first of
  them to where the last is further back than any match can reach. If one of the sets asks for it (``normalise``), so is
  text in look-alike letters, compatibility forms, JSON's escapes and HTML's references, for all sets. What is encoded
  as a whole (base64, hexadecimal) is read in whole texts only.

Nothing that is reported begins earlier than :meth:`StreamScanner.free` said before. All offsets are UTF-8 bytes of the
surface. Scanners of one :class:`StreamPatterns` belong to one thread.
"""

from __future__ import annotations

import contextlib
import re
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import hyperscan

from serving.patterns import MOST_WEIGHED, Pattern, PatternError, PatternSet, SeverityName, stands
from serving.plain import NORMALISED, UNFINISHED, instead, may_be_written_otherwise
from serving.readings import Inside, readings
from serving.regex_shape import MOST_WIDE, ShapeError, shape_of

UNBOUNDED_WINDOW = 8192
"""Bytes that are kept for a pattern without a greatest width; one that began earlier is reported without being weighed,
as beginning there."""

SLACK = 1024
"""Bytes by which the kept text grows before it is cut back, so that cutting costs nothing per chunk."""

NOT_OPEN = -1
MOST_AGAIN = 4
"""Matches of one pattern, the last ones, that were refused and are looked at again with the text that follows."""

_ESCAPE = re.compile("%([2-7][0-9a-fA-F])|[\u200b-\u200d\u2060\ufeff\u00ad]")
_UNSEEN = re.compile("[\u200b-\u200d\u2060\ufeff\u00ad]")
_UNFINISHED = re.compile("%[2-7]?$")

Ends = tuple[dict[int, int], dict[int, int]]
"""Of each pattern that may have matched: the first place and the last where it may end."""


class StreamHit(NamedTuple):
    """``start`` and ``end`` are UTF-8 bytes of the surface: the secret itself where the pattern says which part is it.
    ``end`` is where the match was certain, which for ``KEY-[0-9]+`` is its first digit."""

    set: str
    id: str
    severity: SeverityName
    start: int
    end: int


class _Known(NamedTuple):
    """A pattern with what the scanners need of it."""

    set: str
    pattern: Pattern
    expression: Any
    group: int
    width: int | None
    words: tuple[int, ...]
    inside: Inside | None


class StreamPatterns:
    """Some pattern sets as one automaton. ``only`` narrows a set, by its name, to some of its patterns."""

    def __init__(self, sets: Sequence[PatternSet], only: Mapping[str, frozenset[str]] | None = None) -> None:
        """Raises :class:`PatternError` for a pattern that no stream can be scanned for."""
        only = only or {}
        self.known: list[_Known] = []
        triggers: list[bytes] = []
        words: list[str] = []
        for patterns in sets:
            for index, pattern in enumerate(patterns.patterns):
                if patterns.name in only and pattern.id not in only[patterns.name]:
                    continue
                if "text" not in pattern.surfaces:
                    continue
                try:
                    shape = pattern.shape()
                except ShapeError as error:
                    raise PatternError(f"{patterns.name}: pattern {pattern.id} in a stream: {error}") from error
                beside = pattern.keywords if pattern.awaits(shape) else []
                numbers = range(len(words), len(words) + len(beside))
                words += beside
                expression, group = patterns.expression(index)
                inside = patterns.inside(index)
                self.known.append(
                    _Known(patterns.name, pattern, expression, group, shape.width, tuple(numbers), inside)
                )
                triggers.append(shape.trigger.encode("ascii"))
        known_sets = {known.set for known in self.known}
        self.normalise = any(patterns.normalise for patterns in sets if patterns.name in known_sets)
        self.first_word = len(triggers)
        triggers += (shape_of(f"(?i){re.escape(word)}", shortest=True).trigger.encode("ascii") for word in words)
        self.bounded = all(known.width is not None for known in self.known)
        reach = max((known.width or UNBOUNDED_WINDOW for known in self.known), default=0)
        self.keep = reach + 2 * MOST_WIDE
        self.database = hyperscan.Database(mode=hyperscan.HS_MODE_STREAM)
        flags = [0] * len(self.known) + [hyperscan.HS_FLAG_SINGLEMATCH] * len(words)
        if triggers:
            try:
                self.database.compile(expressions=triggers, ids=list(range(len(triggers))), flags=flags)
            except hyperscan.HyperscanError as error:
                raise PatternError(f"{', '.join(s.name for s in sets)}: in a stream: {error}") from error

    def scanner(self) -> StreamScanner:
        return StreamScanner(self)

    @property
    def state_bytes(self) -> int:
        """What the automaton keeps per stream."""
        if not self.known:
            return 0
        with contextlib.closing(_Automaton(self.database)) as automaton:
            return automaton.size


def _note(index: int, _start: int, end: int, _flags: int, ends: Ends) -> None:
    first, last = ends  # they come in any order
    if index not in last:
        first[index] = last[index] = end
    elif end > last[index]:
        last[index] = end
    elif end < first[index]:
        first[index] = end


class _Automaton:
    """One open stream of Hyperscan. The binding borrows its callback, context and database: they are kept here."""

    __slots__ = ("_database", "_stream", "ends", "scan")

    def __init__(self, database: Any) -> None:
        self.ends: Ends = ({}, {})
        self._database = database
        self._stream = database.stream(match_event_handler=_note, context=self.ends)
        self._stream.__enter__()
        self.scan = self._stream.scan

    @property
    def size(self) -> int:
        return len(self._stream)

    def close(self) -> None:
        """What only the end shows goes into ``ends``. A second call does nothing."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def __del__(self) -> None:
        self.close()


class _State:
    """What is known of a surface: where each pattern was found, which of them were said, which words stood there."""

    __slots__ = ("found", "said", "words")

    def __init__(self) -> None:
        self.found: dict[int, tuple[int, int]] = {}
        self.said: set[int] = set()
        self.words: set[int] = set()


class _Track:
    """One reading of the surface: its bytes as they are, or without what hides. ``base`` is the offset of ``window``'s
    first byte, ``total`` that behind its last; :meth:`original` gives offsets of the surface."""

    __slots__ = (
        "_automaton",
        "_patterns",
        "_shifted",
        "_spans",
        "_weighed",
        "_zero",
        "base",
        "pending",
        "shifts",
        "total",
        "window",
    )

    def __init__(self, patterns: StreamPatterns) -> None:
        self._patterns = patterns
        self._automaton = _Automaton(patterns.database)
        self._zero = 0
        self._spans: dict[int, list[tuple[int, int]]] = {}
        self._weighed: dict[int, int] = {}
        self.pending: dict[int, tuple[int, int, int]] = {}
        self.window = bytearray()
        self.base = 0
        self.total = 0
        self.shifts = array("q")
        self._shifted = array("q")

    def fork(self, leave: int) -> _Track:
        """A track that has read the same, but for the last ``leave`` bytes."""
        other = _Track(self._patterns)
        other._zero = other.base = self.base
        other.total = self.total - leave
        other.window = self.window[: len(self.window) - leave]
        other._spans = {index: [*spans] for index, spans in self._spans.items()}
        other._weighed = {index: min(end, other.total - 1) for index, end in self._weighed.items()}
        other.pending = {index: ends for index, ends in self.pending.items() if ends[1] <= other.total}
        other.shifts, other._shifted = self.shifts[:], self._shifted[:]
        other._automaton.scan(other.window)
        for ends in other._automaton.ends:
            ends.clear()  # the track that this comes from has seen to them
        return other

    def feed(self, data: bytes, state: _State) -> None:
        self._automaton.scan(data)
        self.window += data
        self.total += len(data)
        if self._automaton.ends[0] or self.pending:
            self._look(state, False)
        if len(self.window) > self._patterns.keep + SLACK:
            self._cut()

    def end(self, state: _State) -> None:
        self._automaton.close()
        self._look(state, True)

    def close(self) -> None:
        self._automaton.close()

    def shift(self, at: int, original: int) -> None:
        """From ``at`` on, this track's offsets are those of the surface from ``original`` on."""
        self.shifts.append(at)
        self._shifted.append(original)

    def original(self, place: int) -> int:
        if not self.shifts:
            return place
        nth = max(0, bisect_right(self.shifts, place) - 1)
        return self._shifted[nth] + place - self.shifts[nth]

    def _cut(self) -> None:
        cut = len(self.window) - self._patterns.keep
        while self.window[cut] & 0xC0 == 0x80:
            cut += 1
        del self.window[:cut]
        self.base += cut
        old = bisect_right(self.shifts, self.base) - 1
        if old > 0:
            del self.shifts[:old], self._shifted[:old]

    def _look(self, state: _State, final: bool) -> None:
        """Ask RE2 about every pattern that may have matched."""
        first, last = self._automaton.ends
        places, self.pending = self.pending, {}
        for index, end in first.items():
            begin, _, open_at = places.get(index, (end + self._zero, 0, NOT_OPEN))
            places[index] = (begin, last[index] + self._zero, open_at)
        first.clear()
        last.clear()
        window = bytes(self.window)
        for index, place in places.items():
            if index >= self._patterns.first_word:
                state.words.add(index - self._patterns.first_word)
            elif index not in state.found:
                if place[2] != NOT_OPEN and not final and self._still_open(index, window, place):
                    self.pending[index] = place
                    continue
                if self._patterns.known[index].inside is None:
                    span = self._span(index, window, place[0], place[1], final)
                else:
                    span = self._inner_span(index, window, place[0], place[1], final)
                if span is not None:
                    state.found[index] = (self.original(span[0]), self.original(span[1]))

    def _still_open(self, index: int, window: bytes, place: tuple[int, int, int]) -> bool:
        """Whether the match that reached the end of the text when it was looked for last reaches it again."""
        _, latest, start = place
        if latest < self.total or start < self.base:
            return False
        expression = self._patterns.known[index].expression
        match = expression.match(window, start - self.base, latest - self.base)
        return match is not None and match.end() + self.base == self.total

    def _span(self, index: int, window: bytes, begin: int, latest: int, final: bool) -> tuple[int, int] | None:
        """Where the pattern is certain, in the text up to ``latest``; ``begin`` is where the automaton saw it end first
        since it was looked for the last time. What may go on is looked for again when it has not."""
        known = self._patterns.known[index]
        weighed = known.pattern.weighed
        at = self.base + 1 if self.base else 0  # the first kept byte is not the text's beginning
        if known.width is not None:
            at = max(at, begin - known.width)
        before = self._spans.pop(index, [])
        if len(before) == MOST_AGAIN:
            at = max(at, before[0][0])
        for start, end in before:
            if start < at < end:
                at = end
        refused: set[bytes] = set()
        tried: list[tuple[int, int]] = []
        open_at = NOT_OPEN
        matches = known.expression.finditer(window, at - self.base, latest - self.base)
        for nth, match in enumerate(matches, 1):
            start, end = (place + self.base for place in match.span(known.group))
            whole = (match.start() + self.base, match.end() + self.base)
            if weighed and whole[1] == self.total and not final:
                open_at = whole[0]
                continue
            tried.append(whole)
            text = match.group(known.group)
            if not text or text in refused or whole in before:
                continue
            if not weighed or nth == MOST_WEIGHED or stands(known.pattern, text.decode("utf-8", "replace")):
                return start, end
            refused.add(text)
        if known.width is None and self.base and not tried and open_at == NOT_OPEN:
            return self.base, latest
        if open_at != NOT_OPEN:
            self.pending[index] = (begin, latest, open_at)
        if tried:
            self._spans[index] = tried[-MOST_AGAIN:]
        return None

    def _inner_span(self, index: int, window: bytes, begin: int, latest: int, final: bool) -> tuple[int, int] | None:
        """As :meth:`_span`, of a pattern that is tried at every group. What ends where it was weighed before is not
        weighed again."""
        known = self._patterns.known[index]
        assert known.width is not None and known.inside is not None
        base = self.base
        at = max(base + 1 if base else 0, begin - known.width)
        weighed = self._weighed.get(index, 0) - base
        certain = (latest if final else min(latest, self.total - 1)) - base
        open_at = NOT_OPEN
        matches = readings(known.expression, known.inside, window, at - base, latest - base)
        for nth, (start, end, match) in enumerate(matches, 1):
            if end > certain:
                open_at = start + base if open_at == NOT_OPEN else open_at
            elif end > weighed:
                if known.group:
                    start, end = match.span(known.group)
                if nth == MOST_WEIGHED or stands(known.pattern, window[start:end].decode("utf-8", "replace")):
                    return base + start, base + end
        if open_at != NOT_OPEN:
            self.pending[index] = (begin, latest, open_at)
        self._weighed[index] = base + certain
        return None


class StreamScanner:
    """One surface of one choice. Nothing is allotted before its first text."""

    __slots__ = ("_carry", "_hidden", "_patterns", "_plain", "_raw", "_state")

    def __init__(self, patterns: StreamPatterns) -> None:
        self._patterns = patterns
        self._state = _State()
        self._raw: _Track | None = None
        self._plain: _Track | None = None
        self._hidden = 0
        self._carry = ""

    @property
    def total(self) -> int:
        """Bytes of the surface so far."""
        return 0 if self._raw is None else self._raw.total

    def free(self, hold: int) -> int:
        """How many bytes of the surface no later hit can begin in, if no pattern is wider than ``hold``: all but the
        last ``hold``, or fewer where the text hides what it says."""
        if self._plain is not None:
            return max(0, self._plain.original(self._plain.total - hold))
        return max(0, self.total - len(self._carry) - hold)

    def feed(self, text: str) -> list[StreamHit]:
        """The hits that are certain with this piece of the text."""
        if not text or not self._patterns.known:
            return []
        try:
            data = text.encode()
        except UnicodeEncodeError:  # lone surrogates are no text; what stands for one has as many bytes
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            data = text.encode()
        if self._raw is None:
            self._raw = _Track(self._patterns)
        if self._patterns.normalise:
            if self._plain or self._carry or may_be_written_otherwise(text):
                self._uncover(text, self._raw)
        elif self._plain or self._carry or "%" in text or (not text.isascii() and _UNSEEN.search(text)):
            self._uncover(text, self._raw)
        self._raw.feed(data, self._state)
        return self._hits() if len(self._state.found) != len(self._state.said) else []

    def pause(self) -> list[StreamHit]:
        """The hits that would be certain if the text ended here, as a reader may take it though it goes on later."""
        if self._raw is not None:
            self._raw.fork(0).end(self._state)
        if self._plain is not None:
            plain = self._plain.fork(0)
            if self._carry:
                plain.feed(self._carry.encode(), self._state)
            plain.end(self._state)
        return self._hits()

    def end(self) -> list[StreamHit]:
        """The hits that only the end makes certain. Nothing may be fed after it."""
        if self._raw is None:
            return []
        self._raw.end(self._state)
        if self._plain is not None:
            if self._carry:
                self._plain.feed(self._carry.encode(), self._state)
            self._plain.end(self._state)
        return self._hits()

    def close(self) -> None:
        """Give back what the automata hold without looking further. A scanner that is gone has done so by itself."""
        for track in (self._raw, self._plain):
            if track is not None:
                track.close()

    def _hits(self) -> list[StreamHit]:
        state = self._state
        hits: list[StreamHit] = []
        for index, (start, end) in state.found.items():
            known = self._patterns.known[index]
            if index in state.said or (known.words and state.words.isdisjoint(known.words)):
                continue
            state.said.add(index)
            hits.append(StreamHit(known.set, known.pattern.id, known.pattern.severity, start, end))
        hits.sort(key=lambda hit: (hit.end, hit.start, hit.set, hit.id))
        return hits

    def _uncover(self, text: str, raw: _Track) -> None:
        """Feed the text without what hides to a track of its own, which is there while something was hidden lately."""
        begins = raw.total - len(self._carry)
        carried = len(self._carry)
        text = self._carry + text
        normalise = self._patterns.normalise
        unfinished = (UNFINISHED if normalise else _UNFINISHED).search(text)
        self._carry = unfinished[0] if unfinished else ""
        text = text[: len(text) - len(self._carry)]
        hidden = [*(NORMALISED if normalise else _ESCAPE).finditer(text)]
        plain = self._plain
        if plain is None:
            if not hidden:
                return
            plain = self._plain = raw.fork(carried)
            plain.shift(begins, begins)
        parts: list[str] = []
        done = 0
        at = plain.total
        for found in hidden:
            part = text[done : found.start()]
            length = len(part.encode())
            at += length
            begins += length + len(found[0].encode())
            parts.append(part)
            if normalise:
                parts.append(seen := instead(found))
                at += len(seen.encode())
            elif found[1]:
                parts.append(chr(int(found[1], 16)))
                at += 1
            plain.shift(at, begins)
            self._hidden = at
            done = found.end()
        parts.append(text[done:])
        plain.feed("".join(parts).encode(), self._state)
        if plain.total - self._hidden > self._patterns.keep and self._patterns.bounded and not plain.pending:
            plain.close()
            self._plain = None
