"""A raw HTTP client and a scripted upstream: sockets and bytes, so that nothing is hidden by a library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.wire import Message, parse


async def send(port: int, request: bytes, *, seconds: float = 20.0) -> bytes:
    """Send raw bytes and return all that comes until the server closes or the message is whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(seconds):
            return await whole_message(reader)
    finally:
        writer.close()


async def whole_message(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the message is whole, or the other side closes."""
    raw = bytearray()
    while True:
        data = await reader.read(65536)
        raw += data
        if not data:
            return bytes(raw)
        if b"\r\n\r\n" not in raw:
            continue
        if raw.startswith(b"HTTP/1.1 100") and raw.count(b"\r\n\r\n") == 1 and raw.endswith(b"\r\n\r\n"):
            continue
        message = parse(bytes(raw))
        if message.whole and (message.chunked or message.header("content-length") is not None):
            return bytes(raw)


Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class ScriptedUpstream:
    """Takes connections, keeps each request's bytes, and answers as its script says."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def last(self) -> Message:
        return parse(self.requests[-1])


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[ScriptedUpstream]:
    """A server on a free loopback port; ``script(request bytes, writer)`` writes the answer and may close."""
    state = ScriptedUpstream(0)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await _read_request(reader)
                if request is None:
                    break
                state.requests.append(request)
                await script(request, writer)
                if writer.is_closing():
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            state.closed.append(True)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()


async def _read_request(reader: asyncio.StreamReader) -> bytes | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lowered = head.lower()
    if b"\r\ncontent-length:" in lowered:
        size = int(lowered.split(b"\r\ncontent-length:")[1].split(b"\r\n")[0])
        return head + await reader.readexactly(size)
    if b"transfer-encoding: chunked" in lowered:
        body = bytearray()
        while not body.endswith(b"0\r\n\r\n"):
            body += await reader.readuntil(b"\r\n")
        return head + bytes(body)
    return head


def replay(response: bytes, pieces: Callable[[bytes], list[bytes]]) -> Script:
    """Answers with recorded bytes, cut into ``pieces`` that are sent in loop turns of their own, then closes
    as the recorded server did (the recordings were made with ``Connection: close``)."""

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        for piece in pieces(response):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    return script
