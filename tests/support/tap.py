"""A TCP relay before a real server that keeps every exchange's bytes, and can hand the answer on event by event.

It stands between Interlock and vLLM, so that a test knows what really arrived there and what really came back,
whatever vLLM's ids, clocks and event grouping were in that very exchange.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.wire import Message, parse

_UNTIL_EVENT_ENDS = re.compile(rb".*?\n\n\r\n|.+", re.S)


@dataclass
class Passed:
    """One exchange as it passed. ``gone``: its connection ended before the answer was whole."""

    sent: bytearray = field(default_factory=bytearray)
    came: bytearray = field(default_factory=bytearray)
    gone: bool = False

    @property
    def request(self) -> Message:
        return parse(bytes(self.sent))

    @property
    def response(self) -> Message:
        return parse(bytes(self.came))

    @property
    def whole(self) -> bool:
        """Whether the answer came to its end."""
        return b"\r\n\r\n" in self.came and self.response.whole


Step = Callable[[bytes], Awaitable[None]]


class Tap:
    """``exchanges`` are in the order in which their requests began. ``step``, where set, is awaited after each
    piece of an answer (at most one event long, with its chunk framing) was handed on and before the next is."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.url = ""
        self.exchanges: list[Passed] = []
        self.step: Step | None = None

    @property
    def last(self) -> Passed:
        return self.exchanges[-1]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(self._host, self._port)
        current: list[Passed] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(reader, upstream_writer, current))
                group.create_task(self._down(upstream_reader, writer, current))
        except* ConnectionError:
            pass
        finally:
            if current and not current[-1].whole:
                current[-1].gone = True
            writer.close()
            upstream_writer.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, current: list[Passed]) -> None:
        while data := await reader.read(65536):
            if not current or current[-1].came:
                current.append(Passed())
                self.exchanges.append(current[-1])
            current[-1].sent += data
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, current: list[Passed]) -> None:
        while data := await reader.read(65536):
            current[-1].came += data
            for piece in [data] if self.step is None else _UNTIL_EVENT_ENDS.findall(data):
                writer.write(piece)
                await writer.drain()
                if self.step is not None:
                    await self.step(piece)
        writer.close()


@asynccontextmanager
async def tapped(port: int, host: str = "127.0.0.1") -> AsyncIterator[Tap]:
    """A tap before the server on ``port``, itself on a free loopback port."""
    tap = Tap(host, port)
    server = await asyncio.start_server(tap.handle, "127.0.0.1", 0)
    tap.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield tap
    finally:
        server.close()
