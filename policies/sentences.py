"""Sentences of any text: prose, mail, JSON, a printed dict; found from a place inside them, in a bounded window.

A sentence ends at its full stop, at a line's end (written or escaped), at a tag, and where a string of structured data
ends. A *field* is such a string, or in a text without structure the line."""

from __future__ import annotations

import re
from typing import NamedTuple

NEAR = 200
MOST = 1000
"""Characters to each side of a place that are searched for the sentence's end: near first, then as far as this."""

FIELD, LINE, STOP, TEXT = "field", "line", "stop", "text"

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
_MARKS_IN_DATA = re.compile(r"[\n\r\\.!?。！？।|<•▪‣\[{,:\"']")
"""Where an end may begin: one look per character, before the expressions above are asked."""

_LINE_OR_BLANK = re.compile(rf"{_LINE}|\s+")
_STRUCTURED = re.compile(r"[\"']\s*:\s*[\"'{\[\d]|^\s*\[\s*[\"'{]")
_BEFORE = " \t\r\n\"'*#>_`-({[,:;"


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
        self.structured = _STRUCTURED.search(text, 0, 4 * MOST) is not None
        self._ends = _IN_DATA if self.structured else _IN_PROSE
        self._marks = _MARKS_IN_DATA if self.structured else _MARKS_IN_PROSE

    def around(self, place: int) -> Sentence:
        """The sentence that the character at ``place`` belongs to, ``MOST`` characters of it each way."""
        start, opens = 0, TEXT
        for reach in (NEAR, MOST):
            begin = max(0, place - reach)
            found = self._last_end(begin, place)
            if found is not None:
                start, opens = found.end(), _kind(found)
                break
            if begin == 0:
                break
        else:
            start, opens = begin, STOP
        return self._from(start, place, opens)

    def _last_end(self, begin: int, place: int) -> re.Match[str] | None:
        """The last end before ``place``."""
        marks = [mark.start() for mark in self._marks.finditer(self.text, begin, place)]
        for mark in reversed(marks):
            found = self._ends.match(self.text, mark)
            if found is not None and found.end() <= place:
                return found
        return None

    def _first_end(self, place: int, limit: int) -> re.Match[str] | None:
        for mark in self._marks.finditer(self.text, place, limit):
            found = self._ends.match(self.text, mark.start())
            if found is not None:
                return found
        return None

    def after(self, sentence: Sentence, over_lines: bool = False) -> Sentence | None:
        """The sentence that follows in the same field; ``over_lines``: on a later line as well."""
        if sentence.closes not in ((STOP, LINE) if over_lines else (STOP,)) or sentence.end >= len(self.text):
            return None
        start = sentence.end
        while (blank := _LINE_OR_BLANK.match(self.text, start)) is not None:
            start = blank.end()
        following = self._from(start, start, STOP)
        return following if following.end > following.start else None

    def _from(self, start: int, place: int, opens: str) -> Sentence:
        text = self.text
        limit = min(len(text), place + MOST)
        mark = self._first_end(max(start, place), limit)
        if mark is None:
            end, closes = limit, TEXT if limit == len(text) else STOP
        else:
            closes = _kind(mark)
            end = mark.end() if mark.lastgroup == "stop" else mark.start()
            if closes == STOP:
                closes = self._behind(mark.end())
        while start < end and text[start] in _BEFORE:
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        return Sentence(start, end, opens, closes)

    def _behind(self, place: int) -> str:
        """What stands behind a full stop: its field's or line's end, or another sentence."""
        text = self.text
        while place < len(text) and text[place] in " \t":
            place += 1
        if place >= len(text):
            return TEXT
        mark = self._ends.match(text, place)
        return STOP if mark is None else _kind(mark)


def _kind(mark: re.Match[str]) -> str:
    return mark.lastgroup if mark.lastgroup in (FIELD, LINE) else STOP
