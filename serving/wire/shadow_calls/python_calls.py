"""Finds ``name(…)`` in a text that flows: where a Python call that has begun ends, strings and brackets minded.

As with objects (``json_objects``), a call may begin inside what another reading takes for a string. Readings that
agree on the string they are in agree from there on, so one for each kind of string is enough.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(rb"(?P<quote>['\"])|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<other>[^'\"()\[\]{}]++)")
_IN_STRING = {
    b"'": re.compile(rb"(?:[^\\\n']|\\.)*+", re.DOTALL),
    b'"': re.compile(rb'(?:[^\\\n"]|\\.)*+', re.DOTALL),
    b"'''": re.compile(rb"(?:[^\\']|\\.)*+", re.DOTALL),
    b'"""': re.compile(rb'(?:[^\\"]|\\.)*+', re.DOTALL),
}
_CALLED = re.compile(rb"([A-Za-z_][\w.]{0,127})\s{0,2}\Z")
_LISTED = re.compile(rb"\[\s{0,4}([A-Za-z_][\w.]{0,127})\s{0,2}\(")
_LISTED_PARTIAL = re.compile(rb"\[\s{0,4}(?:[A-Za-z_][\w.]{0,127}\s{0,2})?\Z")
_LONGEST_NAME = 140
_BACKSLASH = 92
_MOST_READINGS = 5
_DEEPEST = 200


class PythonReading:
    """One reading, from one name; ``calls`` are the whole calls of ``names`` (None: of any) that it has seen, as
    ``(start, end)``. ``over`` when the outermost bracket closes or nothing that is Python can follow."""

    __slots__ = ("_names", "_opened", "_quote", "at", "calls", "over", "start", "whole")

    def __init__(self, start: int, names: frozenset[bytes] | None) -> None:
        self.start = start
        self.at = start
        self.over = False
        self.whole = False
        self.calls: list[tuple[int, int]] = []
        self._names = names
        self._opened: list[tuple[int, int | None]] = []
        self._quote: bytes | None = None

    @property
    def in_string(self) -> bytes | None:
        return self._quote

    def open_call(self) -> int | None:
        """Where the outermost call that has begun and not ended begins."""
        return next((start for _, start in self._opened if start is not None), None)

    def advance(self, data: bytearray, base: int, to: int) -> None:
        at, limit = self.at - base, to - base
        while at < limit and not self.over:
            if self._quote is not None:
                ends, waits = self._string(data, at, limit)
                at = ends
                if waits:
                    break
                continue
            match = _TOKEN.match(data, at, limit)
            if match is None:
                self.over = True
                break
            if match.lastgroup == "quote":
                ahead = data[at : at + 3]
                if len(ahead) < 3 and ahead == match[0] * len(ahead):
                    break  # a quote, or the first of three
                self._quote = bytes(ahead) if ahead == match[0] * 3 else match[0]
                at += len(self._quote)
                continue
            if match.lastgroup == "open":
                self._open(data, base, at, match[0])
            elif match.lastgroup == "close":
                self._close(match.end() + base, match[0])
            at = match.end()
        self.at = at + base

    def _string(self, data: bytearray, at: int, limit: int) -> tuple[int, bool]:
        """Where reading goes on behind the string's next piece, and whether more is needed for that."""
        quote = self._quote or b""
        match = _IN_STRING[quote].match(data, at, limit)
        at = match.end() if match else at
        if at < limit and data[at : at + len(quote)] == quote:
            self._quote = None
            return at + len(quote), False
        if at >= limit or data[at] == _BACKSLASH:
            return at, True
        if len(quote) == 1:
            self.over = True  # a line ends inside the string
            return at, False
        return (at, True) if len(data) - at < len(quote) else (at + 1, False)

    def _open(self, data: bytearray, base: int, at: int, bracket: bytes) -> None:
        call: int | None = None
        if bracket == b"(":
            name = _CALLED.search(data, max(at - _LONGEST_NAME, self.start - base), at)
            if name and (self._names is None or name[1].rpartition(b".")[2] in self._names):
                call = name.start() + base
        self._opened.append((bracket[0], call))
        self.over = len(self._opened) > _DEEPEST

    def _close(self, end: int, bracket: bytes) -> None:
        opened, call = self._opened.pop() if self._opened else (0, None)
        if (opened, bracket[0]) not in ((40, 41), (91, 93), (123, 125)):
            self.over = True
            return
        if call is not None:
            self.calls.append((call, end))
        if not self._opened:
            self.over = self.whole = True


class FlowingCalls:
    """Lists of calls, ``[name(…), name(…)]``, of the tools in ``names``."""

    __slots__ = ("_at", "_names", "_readings")

    def __init__(self, names: frozenset[str]) -> None:
        self._names = frozenset(name.rpartition(".")[2].encode("utf-8", "surrogatepass") for name in names)
        self._readings: list[PythonReading] = []
        self._at = 0

    @property
    def live(self) -> int | None:
        return min((reading.start for reading in self._readings), default=None)

    @property
    def needed(self) -> int:
        """From where on the text is needed again."""
        live = self.live
        return self._at if live is None else min(live, self._at)

    def skip(self, to: int) -> None:
        self._at = to

    def give_up(self) -> None:
        self._readings.clear()

    def open_calls(self) -> list[int]:
        return [at for reading in self._readings if (at := reading.open_call()) is not None]

    def advance(self, data: bytearray, base: int, to: int) -> list[tuple[int, int]]:
        """The calls that the text up to ``to`` completes, each ``(start, end)``."""
        found: list[tuple[int, int]] = []
        if not self._names or (not self._readings and data.find(b"[", self._at - base) < 0):
            self._at = to
            return found
        while True:
            match = _LISTED.search(data, self._at - base, to - base)
            if match is None:
                break
            begin = match.start() + base
            self._read(data, base, begin, found)
            self._at = begin + 1
            if match[1].rpartition(b".")[2] in self._names and all(one.in_string for one in self._readings):
                if len(self._readings) >= _MOST_READINGS:
                    self._readings.pop(0)
                self._readings.append(PythonReading(begin, self._names))
        self._read(data, base, to, found)
        last = data.rfind(b"[", max(self._at - base, to - base - _LONGEST_NAME), to - base)
        partial = last >= 0 and _LISTED_PARTIAL.match(data, last, to - base)
        self._at = last + base if partial else to
        return found

    def _read(self, data: bytearray, base: int, to: int, found: list[tuple[int, int]]) -> None:
        for reading in self._readings:
            reading.advance(data, base, to)
            found += reading.calls
            reading.calls = []
        self._readings = [reading for reading in self._readings if not reading.over]
