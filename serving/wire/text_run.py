"""Runs of events that differ in their text alone, read in one go.

Nearly all of a stream is plain text: event after event with the same bytes but for one string. When a whole event has
been read the long way, what stands before and behind its string is remembered. Bytes that are just this, again and
again, with strings between that need no unescaping, cannot say anything else: their structure is that of the event
that was read, because a string without quotes, backslashes and control characters cannot end early. So a read of
twenty events costs a search for what joins them.

A run is one :class:`~serving.wire.vocabulary.Event` with ``count`` events in its bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

import msgspec

from serving.wire.vocabulary import ChoiceDelta, Event

_MARKS = (b'"content":"', b'"reasoning":"')
_TRIES = 8
_FIRSTS = 32
_PAYS = 8
"""How often a stream's frame is learnt anew: it changes where the reasoning ends; choices that take turns have none.
And how often an event is read by itself, to see whether it is the first of a run, until one of ``_PAYS`` was."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """What stands ``before`` and ``after`` the string of a stream's plain events, and of whom they speak."""

    before: bytes
    after: bytes
    choice: int
    reasoning: bool
    answer_id: str | None


class TextRuns:
    """The frame of one stream's plain events. ``read`` reads one whole event; ``marks`` are what stands before a text
    and before reasoning."""

    __slots__ = ("_firsts", "_join", "_marks", "_tries", "frame", "read")

    def __init__(self, read: Callable[[bytes], Event], marks: tuple[bytes, bytes] = _MARKS) -> None:
        self.read = read
        self._marks = marks
        self._join = b""
        self.frame: Frame | None = None
        self._tries = _TRIES
        self._firsts = _FIRSTS

    def take(self, data: bytes) -> Event | None:
        """The run of plain events that ``data`` begins with, if it begins with one."""
        frame = self.frame
        if frame is None or not data.startswith(frame.before):
            return None
        parts = data[len(frame.before) :].split(self._join)
        last, found, _ = parts[-1].partition(frame.after)
        if found:
            parts[-1] = last
        else:  # the last event is not whole, or is another
            parts.pop()
        joined = b"".join(parts)
        text = _read(joined, parts)
        if text is None:
            parts = list(takewhile(_is_plain, parts))
            joined = b"".join(parts)
            text = _read(joined, parts)
        if not parts or text is None:
            return None
        if len(parts) >= _PAYS:
            self._firsts = _FIRSTS
        delta = ChoiceDelta(frame.choice, None, text) if frame.reasoning else ChoiceDelta(frame.choice, text)
        size = len(joined) + len(parts) * len(self._join)
        return Event(data[:size], "delta", (delta,), answer_id=frame.answer_id, count=len(parts))

    def forget(self) -> None:
        """The same bytes would mean something else from now on."""
        self.frame = None

    def first(self, data: bytes, pending: int) -> int:
        """How many bytes to read the long way, before it is seen whether a run follows: one event, mostly, or what is
        missing of the one of which ``pending`` bytes have come; all of it where looking has not paid."""
        if not pending:
            if not self._tries or not self._firsts:
                return len(data)
            self._firsts -= 1
        end = data.find(b"\n\n")
        return len(data) if end < 0 else end + 2

    def learn(self, event: Event) -> None:
        """An event that was read the long way, and is not like the ones before."""
        if not self._tries or event.kind != "delta" or len(event.choices) != 1:
            return
        delta = event.choices[0]
        text = delta.text or delta.reasoning
        if not text or event.usage is not None or delta not in (_plain(delta, text), _thought(delta, text)):
            return
        raw, mark = event.raw, self._marks[delta.text is None]
        at = raw.find(mark) + len(mark)
        end = raw.find(b'"', at)
        if at < len(mark) or raw.find(mark, at) >= 0 or b"\r" in raw or raw[at:end] != text.encode("utf-8", "replace"):
            return
        self._tries -= 1
        before, after = raw[:at], raw[end:]
        other = text + "x"
        if self.read(before + other.encode() + after) != _said(event, before + other.encode() + after, other):
            return
        self._join = after + before
        self.frame = Frame(before, after, delta.choice, delta.text is None, event.answer_id)


def _read(joined: bytes, parts: list[bytes]) -> str | None:
    """The text of string literals without their quotes, if they need no unescaping."""
    if b'"' in joined or b"\\" in joined:
        return None
    try:
        text = joined.decode() if joined.isascii() else "".join([part.decode() for part in parts])
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _is_plain(part: bytes) -> bool:
    return _read(part, [part]) is not None


def _plain(delta: ChoiceDelta, text: str) -> ChoiceDelta:
    return ChoiceDelta(delta.choice, text)


def _thought(delta: ChoiceDelta, text: str) -> ChoiceDelta:
    return ChoiceDelta(delta.choice, None, text)


def _said(event: Event, raw: bytes, text: str) -> Event:
    """The event as it would be with another text."""
    delta = event.choices[0]
    changed = _plain(delta, text) if delta.text is not None else _thought(delta, text)
    return msgspec.structs.replace(event, raw=raw, choices=(changed,))
