"""Server-sent-event framing without I/O: bytes in any chunking in, whole events with their bytes out.

An event ends at an empty line. vLLM writes ``\\n`` line ends only; the other two line ends of the
specification (https://html.spec.whatwg.org/multipage/server-sent-events.html) are understood as well, because
a client's parser would understand them. Joining what :meth:`Framer.feed` and :meth:`Framer.rest` return gives
back exactly the bytes that were fed.
"""

from __future__ import annotations

import re

_BLANK = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n|\n|\r")


class Framer:
    """Cuts a byte stream into events. Work is linear in the bytes fed, whatever the chunks.

    Searching is for single newlines, because ``bytes`` finds one byte ten times as fast as two.
    """

    __slots__ = ("_buffer", "_returns", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._returns = False  # the buffer may hold a carriage return: all line ends are looked for
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The events that ``data`` completes, in order, each with its terminating empty line."""
        if self._returns or b"\r" in data:
            self._buffer += data
            events = self._cut()
            self._returns = bool(self._buffer)
            return events
        start, last = 0, len(data) - 1
        begun = bool(self._buffer)
        if not begun and data.find(b"\n") == last - 1 and data.endswith(b"\n"):
            return [data]  # one event in one read: what a stream at a model's pace is made of
        events = []
        if begun and data.startswith(b"\n") and self._buffer.endswith(b"\n"):
            start, begun = 1, False
            events.append(bytes(self._buffer + b"\n"))
        at = data.find(b"\n", start)
        while 0 <= at < last:
            if data[at + 1] != 10:
                at = data.find(b"\n", at + 1)
                continue
            event = data[start : at + 2]
            if begun:
                event, begun = bytes(self._buffer + event), False
            events.append(event)
            start = at + 2
            at = data.find(b"\n", start)
        if events:
            self._buffer.clear()
            self._searched = 0
        self._buffer += data[start:]
        return events

    def _cut(self) -> list[bytes]:
        buffer = self._buffer
        events: list[bytes] = []
        start = 0
        for blank in _BLANK.finditer(buffer, self._searched):
            events.append(bytes(buffer[start : blank.end()]))
            start = blank.end()
        if start:
            del buffer[:start]
        self._searched = max(0, len(buffer) - 3)
        return events

    @property
    def pending(self) -> int:
        """Bytes of the event that has begun and not ended."""
        return len(self._buffer)

    def rest(self) -> bytes:
        """What came after the last whole event; the framer is empty afterwards."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._returns = False
        self._searched = 0
        return rest


def data_of(event: bytes) -> bytes | None:
    """The payload of one event: its ``data`` lines joined by newlines; None if it has no such line."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and event[-1] == 10:
        return event[6:-2]
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:] for line in _LINE.split(event) if line.startswith(b"data:")
    ]
    if not lines:
        return None
    return b"\n".join(lines)
