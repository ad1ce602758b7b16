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
    """Cuts a byte stream into events. Work is linear in the bytes fed, whatever the chunks."""

    __slots__ = ("_buffer", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The events that ``data`` completes, in order, each with its terminating empty line."""
        if not self._buffer and b"\r" not in data:
            if data.endswith(b"\n\n") and data.count(b"\n\n") == 1:
                return [data]
            parts = data.split(b"\n\n")
            rest = parts.pop()
            self._buffer += rest
            self._searched = max(0, len(rest) - 1)
            return [part + b"\n\n" for part in parts]
        self._buffer += data
        return self._cut()

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
        self._searched = 0
        return rest


def data_of(event: bytes) -> bytes | None:
    """The payload of one event: its ``data`` lines joined by newlines; None if it has no such line."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2:
        return event[6:-2]
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in _LINE.split(event)
        if line.startswith(b"data:")
    ]
    if not lines:
        return None
    return b"\n".join(lines)
