"""Sentences of any text: prose, mail, JSON, a printed dict; found from a place inside them, in a bounded window.

A sentence ends at its full stop, at a line's end (written or escaped), at a tag, and where a string of structured data
ends. A *field* is such a string, or in a text without structure the line."""

from __future__ import annotations

import re
from typing import NamedTuple

NEAREST = 48
NEAR = 200
MOST = 1000
"""Characters to each side of a place that are searched for the sentence's end: near first, then as far as this."""
_AHEAD = 48
"""Characters behind one where an end may begin that must be known to say that it may."""

FIELD, LINE, STOP, TEXT = "field", "line", "stop", "text"
_KIND: dict[str | None, str] = {"field": FIELD, "line": LINE, "stop": STOP, "other": STOP}
"""What an end is, by the group of the expressions below that found it."""

_NO_STOP = "".join(rf"(?<!\b{word})" for word in ("Dr", "Mr", "Ms", "Mrs", "St", "No", "vs", "e\\.g", "i\\.e", "etc"))
_STOP = _NO_STOP + r"[.!?]+(?:[\"')\]*_]+(?!\s?[a-z}\]])|(?=[\s\\A-Z<}]|$))|[。！？।]"
_STOP_IN_DATA = _NO_STOP + r"[.!?]+(?=[\s\\A-Z<\"'}\]]|$)(?!\\?[\"']\s?[a-z])|[。！？।]"
_KEY = r"(?: *(?:- )?[a-z_]{1,24}: )"
_LINE = r"(?:\r?\n|\\r\\n|\\[nr])"
_OTHER = r"\|(?=[A-Z\s])|</?[A-Za-z][^<>\n]{0,80}>|<!--|[•▪‣]"
_FIELD = (
    r"[\[{,:]\s*\\?[\"'](?=\w|\S\S)|\\?[\"']\s*[}\])]"
    r"|\\?[\"'],\s*(?=\\?[\"'{\[]|-?\d|(?:true|false|null|None|True|False)\b)|\\?[\"']\s*:\s"
)
_IN_PROSE = re.compile(rf"(?P<field>{_LINE}{_KEY})|(?P<line>{_LINE})|(?P<stop>{_STOP})|(?P<other>{_OTHER})")
_IN_DATA = re.compile(
    rf"(?P<field>{_FIELD}|{_LINE}{_KEY})|(?P<line>{_LINE})|(?P<stop>{_STOP_IN_DATA})|(?P<other>{_OTHER})"
)
_MARKS_IN_PROSE = re.compile(r"[\n\r\\.!?。！？।|<•▪‣]")
_IF_FIELD = r"(?:(?<=[\[{,:])(?=\s{0,40}\\?[\"']|\s{41})|(?<=[\"'])(?=\s{0,40}[}\]):,]|\s{41})|(?<![\[{,:\"']))"
_MARKS_IN_DATA = re.compile(r"[\n\r\\.!?。！？।|<•▪‣\[{,:\"']" + _IF_FIELD)
_BREAKS_IN_PROSE = re.compile(r"[\n\r\\|<•▪‣]")
_BREAKS_IN_DATA = re.compile(r"[\n\r\\|<•▪‣\[{,:\"']" + _IF_FIELD)
"""Where an end may begin, and where one that is no full stop may: one look per character, before the expressions above
are asked."""

_LINES_AND_BLANKS = re.compile(rf"(?:{_LINE}|\s++)*+")
_KEY_IN_DATA = re.compile(r"[\"']\s*:\s*[\"'{\[\d]")
_LIST = re.compile(r"\s*\[\s*[\"'{]")
_BEFORE = frozenset(" \t\r\n\"'*#>_`-({[,:;")


class Sentence(NamedTuple):
    """``start`` and ``end`` of a sentence, without blanks around it. ``opens`` and ``closes`` say what stands before it
    and behind it: a string of structured data (``field``), a ``line``'s end, the ``text``'s, or another sentence
    (``stop``)."""

    start: int
    end: int
    opens: str
    closes: str


class Sentences:
    """The sentences of one text, found on demand."""

    def __init__(self, text: str) -> None:
        self.text = text
        keyed = _KEY_IN_DATA.search(text, 0, 4 * MOST) is not None
        self.structured = keyed or _LIST.match(text, 0, 4 * MOST) is not None
        self._ends = _IN_DATA if self.structured else _IN_PROSE
        self._marks = _MARKS_IN_DATA if self.structured else _MARKS_IN_PROSE
        self._breaks = _BREAKS_IN_DATA if self.structured else _BREAKS_IN_PROSE

    def around(self, place: int) -> Sentence:
        """The sentence that the character at ``place`` belongs to, ``MOST`` characters of it each way."""
        start, opens = 0, TEXT
        for reach in (NEAREST, NEAR, MOST):
            begin = max(0, place - reach)
            found = self._last_end(begin, place)
            if found is not None:
                start, opens = found.end(), _KIND[found.lastgroup]
                break
            if begin == 0:
                break
        else:
            start, opens = begin, STOP
        return Sentence(*self._from(start, place, opens))

    def extent(self, sentence: Sentence, most: int, over_lines: bool) -> int:
        """Where the sentences that follow in the same field end, at most ``most`` characters behind the beginning of
        ``sentence``; ``over_lines``: those on later lines as well."""
        text = self.text
        _, end, _, closes = sentence
        last = sentence.start + most
        if not over_lines:
            return self._field_end(end, min(last, len(text))) if closes == STOP and end < last else end
        while end < last and closes in (STOP, LINE) and end < len(text):
            blanks = _LINES_AND_BLANKS.match(text, end)
            start = end if blanks is None else blanks.end()
            start, following, _, closes = self._from(start, start, STOP)
            if following <= start:
                break
            end = following
        return min(end, last) if end > sentence.end else end

    def _field_end(self, start: int, last: int) -> int:
        """Where what is put together of sentences ends (a field, a line, a part of one): before ``last``, and without
        blanks at its end."""
        text = self.text
        for mark in self._breaks.finditer(text, start, min(len(text), last + _AHEAD)):
            at = mark.start()
            if at >= last:
                break
            found = self._ends.match(text, at)
            if found is not None and found.lastgroup != STOP:
                last = at
                break
        while last > start and text[last - 1].isspace():
            last -= 1
        return last

    def _last_end(self, begin: int, place: int) -> re.Match[str] | None:
        """The last end before ``place``."""
        marks = [mark.start() for mark in self._marks.finditer(self.text, begin, place)]
        for mark in reversed(marks):
            found = self._ends.match(self.text, mark)
            if found is not None and found.end() <= place:
                return found
        return None

    def _from(self, start: int, place: int, opens: str) -> tuple[int, int, str, str]:
        """The sentence that begins at ``start`` and goes on behind ``place``, with what :class:`Sentence` has."""
        text, ends = self.text, self._ends
        limit = min(len(text), place + MOST)
        end, closes = limit, TEXT if limit == len(text) else STOP
        for mark in self._marks.finditer(text, start if start > place else place, limit + _AHEAD):
            at = mark.start()
            if at >= limit:
                break
            found = ends.match(text, at)
            if found is not None:
                group = found.lastgroup
                closes = _KIND[group]
                end = at
                if closes == STOP:
                    behind = found.end()
                    closes = self._behind(behind)
                    if group == STOP:
                        end = behind
                break
        while start < end and text[start] in _BEFORE:
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        return start, end, opens, closes

    def _behind(self, place: int) -> str:
        """What stands behind a full stop: its field's or line's end, or another sentence."""
        text = self.text
        while place < len(text) and text[place] in " \t":
            place += 1
        if place >= len(text):
            return TEXT
        if text[place].isalnum():
            return STOP
        mark = self._ends.match(text, place)
        return STOP if mark is None else _KIND[mark.lastgroup]
