"""The recorded exchanges of ``tests/wire``: raw request and response bytes of a real vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WIRE = Path(__file__).parent.parent / "wire"


@dataclass(frozen=True)
class Message:
    """One HTTP message. ``body`` is decoded from its chunks; ``whole`` is False if its framing never ended."""

    start: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    chunked: bool = False
    whole: bool = True

    def multiset(self, *without: str) -> list[tuple[str, str]]:
        """Header names in lower case with values, sorted, hop-by-hop and ``without`` left out."""
        drop = {"connection", "keep-alive", "transfer-encoding", *without}
        return sorted((k.lower(), v) for k, v in self.headers if k.lower() not in drop)

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name), None)


@dataclass(frozen=True)
class Capture:
    """One recorded exchange; ``request_bytes`` and ``response_bytes`` as they went over the socket."""

    name: str
    request_bytes: bytes
    response_bytes: bytes

    @property
    def request(self) -> Message:
        return parse(self.request_bytes)

    @property
    def response(self) -> Message:
        return parse(self.response_bytes)


def load(name: str) -> Capture:
    raw = (WIRE / f"{name}.txt").read_bytes()
    request, _, rest = raw.partition(b"\n<<< RESPONSE (raw bytes)\n")
    response, _, _ = rest.rpartition(b"\n### recv log")
    return Capture(name, request.removeprefix(b">>> REQUEST\n")[:-1], response[:-1])


def names() -> list[str]:
    return sorted(path.stem for path in WIRE.glob("*.txt"))


def captures() -> list[Capture]:
    return [load(name) for name in names()]


def dechunk(body: bytes) -> tuple[bytes, bool]:
    """The payload of a chunked body, and whether the last chunk is there."""
    payload = bytearray()
    at = 0
    while True:
        line_end = body.find(b"\r\n", at)
        if line_end < 0:
            return bytes(payload), False
        size = int(body[at:line_end].split(b";")[0], 16)
        at = line_end + 2
        if size == 0:
            return bytes(payload), True
        payload += body[at : at + size]
        if len(body) < at + size + 2:
            return bytes(payload), False
        at += size + 2


def parse(raw: bytes) -> Message:
    """One HTTP message from its bytes (a ``100 Continue`` before it is skipped)."""
    head, _, body = raw.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100"):
        return parse(body)
    lines = head.decode("latin-1").split("\r\n")
    headers = tuple((k, v.strip()) for k, _, v in (line.partition(":") for line in lines[1:]))
    named = {k.lower(): v for k, v in headers}
    if named.get("transfer-encoding", "").lower() == "chunked":
        payload, whole = dechunk(body)
        return Message(lines[0], headers, payload, chunked=True, whole=whole)
    length = named.get("content-length")
    return Message(lines[0], headers, body, whole=length is None or len(body) >= int(length))
