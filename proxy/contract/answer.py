"""One HTTP/1.1 answer, byte by byte as it came, without I/O.

:class:`Reader` is fed what a socket gives and says when the answer is whole. The chunk framing is taken off the body
and kept beside it, so that for each byte of the body it is known in which read it came.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from serving.wire.sse import Framer


@dataclass(frozen=True, slots=True)
class Answer:
    """``body`` is without its chunk framing. ``fault`` says where the framing breaks; None: it came to its end.

    ``spans`` are (place in the raw bytes, place in the body, length) of each piece of the body; ``reads`` are
    (seconds since the request was sent, raw bytes so far) of each read of the socket.
    """

    version: str
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    fault: str | None = None
    chunked: bool = False
    spans: tuple[tuple[int, int, int], ...] = ()
    reads: tuple[tuple[float, int], ...] = ()

    @property
    def start(self) -> str:
        """The status line."""
        return f"{self.version} {self.status} {self.reason}".rstrip()

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def streams(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return (self.header("content-type") or "").lower().startswith("text/event-stream")

    def events(self) -> list[bytes]:
        """The events of a stream with their blank lines; a rest without one is the last."""
        return events_of(self.body)

    def came(self, place: int) -> float:
        """Seconds after the request when the body's byte at ``place`` came."""
        at = max(bisect_left(self.spans, (place + 1,), key=lambda span: (span[1],)) - 1, 0)
        raw, start, _ = self.spans[at]
        read = bisect_left(self.reads, raw + place - start + 1, key=lambda one: one[1])
        return self.reads[min(read, len(self.reads) - 1)][0]


def events_of(body: bytes) -> list[bytes]:
    framer = Framer()
    found = framer.feed(body)
    rest = framer.rest()
    return [*found, rest] if rest else found


class NoAnswer(Exception):
    """Nothing that is an HTTP answer came back; says what did."""


class Reader:
    """Reads the answer to one request of ``method``."""

    def __init__(self, method: str) -> None:
        self._bodiless = method == "HEAD"
        self._raw = bytearray()
        self._at = 0  # up to here the raw bytes are read
        self._head: Answer | None = None
        self._left: int | None = None  # bytes of the body that are missing; None: until the connection ends
        self._chunked = False
        self._body = bytearray()
        self._spans: list[tuple[int, int, int]] = []
        self._reads: list[tuple[float, int]] = []
        self._fault: str | None = None
        self.whole = False

    def feed(self, data: bytes, seconds: float) -> None:
        """``data`` came ``seconds`` after the request was sent."""
        self._raw += data
        self._reads.append((seconds, len(self._raw)))
        while not self.whole and self._step():
            pass

    def answer(self) -> Answer:
        """The answer so far; to be asked for at its end, or when the connection ended. Raises :class:`NoAnswer`."""
        if self._head is None:
            seen = bytes(self._raw[:60])
            raise NoAnswer(f"no HTTP answer: {seen!r}" if seen else "the connection ended without an answer")
        fault = self._fault
        if not self.whole and fault is None:
            if self._chunked:
                fault = f"cut short: the chunked body has no end after {len(self._body)} bytes"
            elif self._left:
                fault = f"cut short: {self._left} of {self._left + len(self._body)} bytes are missing"
        head = self._head
        return Answer(
            *(head.version, head.status, head.reason, head.headers, bytes(self._body)),
            fault=fault,
            chunked=self._chunked,
            spans=tuple(self._spans),
            reads=tuple(self._reads),
        )

    def _step(self) -> bool:
        """Read one part; whether there was one."""
        if self._head is None:
            return self._read_head()
        if self._chunked:
            return self._read_chunk()
        return self._read_body()

    def _read_head(self) -> bool:
        end = self._raw.find(b"\r\n\r\n", self._at)
        if end < 0:
            return False
        lines = self._raw[self._at : end].decode("latin-1").split("\r\n")
        self._at = end + 4
        version, _, rest = lines[0].partition(" ")
        status, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/") or not (status.isascii() and status.isdigit()):
            raise NoAnswer(f"no HTTP answer: {lines[0][:60]!r}")
        if 100 <= int(status) < 200:
            return True
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:]))
        self._head = Answer(version, int(status), reason, headers, b"")
        length = self._head.header("content-length")
        if self._bodiless or int(status) in (204, 304):
            self.whole = True
        elif (self._head.header("transfer-encoding") or "").lower() == "chunked":
            self._chunked = True
        elif length is not None and length.isascii() and length.isdigit():
            self._left = int(length)
            self.whole = self._left == 0
        return True

    def _read_body(self) -> bool:
        size = len(self._raw) - self._at
        if self._left is not None:
            size = min(size, self._left)
        self._take(size)
        if self._left is not None:
            self._left -= size
            self.whole = self._left == 0
        return False

    def _read_chunk(self) -> bool:
        line = self._raw.find(b"\r\n", self._at)
        if line < 0:
            return False
        try:
            size = int(self._raw[self._at : line].split(b";")[0], 16)
        except ValueError:
            self._fault = f"no chunk size: {bytes(self._raw[self._at : line][:40])!r}"
            self.whole = True
            return False
        if size == 0:  # trailers, if any, end with an empty line
            self.whole = self._raw.find(b"\r\n\r\n", line) >= 0
            return False
        if len(self._raw) < line + 2 + size + 2:
            return False
        self._at = line + 2
        self._take(size)
        self._at += 2
        return True

    def _take(self, size: int) -> None:
        if size:
            self._spans.append((self._at, len(self._body), size))
            self._body += self._raw[self._at : self._at + size]
            self._at += size
