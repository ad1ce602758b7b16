"""A recorded exchange: the bytes of one request, of its answer, and when they came.

The file form is for people as well: both messages stand in it exactly as they were on the wire::

    >>> REQUEST
    POST /v1/chat/completions HTTP/1.1 …            head, blank line, body
    (blank line)
    <<< RESPONSE (raw bytes)
    HTTP/1.1 200 OK …                               with its chunk framing
    (blank line)
    ### recv log (ms since send, bytes)
    (4.0, 182)                                      one line a read

The sizes in the log add up to the answer's length, so nothing within the answer can be mistaken for
a marker. Line ends inside the messages are CRLF: an editor that "repairs" them breaks the file, and
reading it says so.
"""

import re
from dataclasses import dataclass
from functools import cached_property

_REQUEST = b">>> REQUEST\n"
_RESPONSE = b"\n\n<<< RESPONSE (raw bytes)\n"
_LOG = b"\n\n### recv log (ms since send, bytes)\n"
_READ = re.compile(rb"\((\d+(?:\.\d+)?), (\d+)\)")
_BLANK_LINE = b"\r\n\r\n"


class RecordingError(ValueError):
    """A file that is not a recording, or was damaged."""


@dataclass(frozen=True)
class Recording:
    """``received`` holds for each read the milliseconds since the request was sent, and its size."""

    request: bytes
    response: bytes
    received: tuple[tuple[float, int], ...]

    @classmethod
    def loads(cls, data: bytes) -> "Recording":
        """Read the file form. Raises :class:`RecordingError`."""
        before, found, log = data.rpartition(_LOG)
        received = tuple((float(ms), int(size)) for ms, size in _READ.findall(log))
        size = sum(size for _, size in received)
        head, response = before[: len(before) - size], before[len(before) - size :]
        if not (found and head.startswith(_REQUEST) and head.endswith(_RESPONSE)):
            raise RecordingError(
                "not a recording: expected a request, a response and a log of reads whose sizes"
                " add up to the response; record it again"
            )
        return cls(head[len(_REQUEST) : -len(_RESPONSE)], response, received)

    def dumps(self) -> bytes:
        """The file form."""
        log = b"".join(b"(%.1f, %d)\n" % read for read in self.received)
        return _REQUEST + self.request + _RESPONSE + self.response + _LOG + log

    @property
    def method(self) -> str:
        return self.request.split(b" ", 2)[0].decode("ascii")

    @property
    def path(self) -> str:
        return self.request.split(b" ", 2)[1].decode("ascii")

    @property
    def body(self) -> bytes:
        """The request's body."""
        return self.request.partition(_BLANK_LINE)[2]

    @property
    def head(self) -> bytes:
        """The answer's status line and headers with the blank line after them."""
        head, blank, _ = self.response.partition(_BLANK_LINE)
        return head + blank

    @cached_property
    def pieces(self) -> tuple[tuple[float, bytes], ...]:
        """The answer as it was framed, each piece with the milliseconds until it had arrived.

        The first piece is the head. Of a chunked answer each further one is an HTTP chunk with its
        framing (vLLM sends one per event, and an empty one at the end); else the body is one piece.
        """
        at = len(self.head)
        ends = [at]
        if b"transfer-encoding: chunked" in self.head.lower():
            while at < len(self.response):
                line = self.response.index(b"\r\n", at)
                at = line + 2 + int(self.response[at:line], 16) + 2
                ends.append(at)
        elif at < len(self.response):
            ends.append(len(self.response))
        return tuple(
            (self._arrived(end), self.response[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)
        )

    @property
    def content(self) -> bytes:
        """The answer's body without its chunk framing."""
        _, *body = (piece for _, piece in self.pieces)
        if b"transfer-encoding: chunked" not in self.head.lower():
            return b"".join(body)
        return b"".join(chunk.partition(b"\r\n")[2][:-2] for chunk in body)

    def _arrived(self, end: int) -> float:
        total = 0
        for ms, size in self.received:
            total += size
            if total >= end:
                return ms
        raise RecordingError(f"the log of reads ends at byte {total}, before byte {end}")
