"""An answer's body on its way through: from the model server's connection to the client's, in the very turn of the
event loop in which it comes.

A task that waits for each piece costs more than all that is done with a token: a future, a turn of the loop, and the
way down through every coroutine between the server and the one that reads. So :meth:`Content.each` has what comes taken
where it arrives, and wakes the task only for what needs one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

import aiohttp
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import _EXC_SENTINEL
from aiohttp.http import StreamWriter

_AT_A_READ = 32 * 1024  # bytes that one read takes from the model server
_AT_ONCE = 32 * 1024  # bytes of an answer that are on their way through Interlock at a time

Take = Callable[[bytes], bool]


class Answering(ResponseHandler, asyncio.BufferedProtocol):
    """A connection to the model server. asyncio's own event loop reads into the one buffer that all connections share,
    and so takes no more in one read than is good for a client that does not read; uvloop takes this for a protocol
    without a buffer, and reads up to 256 KiB, wherever flow control stands."""

    _arriving = memoryview(bytearray(_AT_A_READ))
    flows: Callable[[], None] | None = None  # takes what a read brought, while a task waits in ``Content.each``

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._arriving

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._arriving[:nbytes]))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if data and self.flows is not None:  # none: the parser goes on with what it had
            self.flows()

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _EXC_SENTINEL) -> None:
        """What is wrong with the connection is wrong with the body that comes over it: aiohttp would let its reader
        wait for ever behind bytes that are no chunk."""
        super().set_exception(exc, exc_cause)
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("The answer broke off."), exc)


class Content(aiohttp.StreamReader):
    """An answer's body as Interlock reads it: all that has come, in one piece, but not more than is good for a client
    that does not read (32 KiB).

    aiohttp notes where each HTTP chunk ended, and takes what has come apart again chunk by chunk, with a look at flow
    control for each. A model server sends every token as a chunk, and nobody asks for their places.
    """

    __slots__ = ()  # an aiohttp.StreamReader becomes one by its class alone

    @staticmethod
    def of(answer: aiohttp.ClientResponse) -> None:
        """From now on the body of ``answer`` is read so."""
        content = answer.content
        if content.__class__ is aiohttp.StreamReader and isinstance(content._protocol, Answering):
            content.__class__ = Content

    def begin_http_chunk_receiving(self) -> None:
        """Nothing is noted."""

    def end_http_chunk_receiving(self) -> None:
        if len(self._buffer) > self._high_water_chunks:
            self._protocol.pause_reading()

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        self._size += len(data)
        self._buffer.append(data)
        self.total_bytes += len(data)
        protocol, waiter = self._connection, self._waiter
        if waiter is not None and protocol.flows is None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        if self._size > self._high_water:
            protocol.pause_reading()
        return False

    async def readany(self) -> bytes:
        if self._exception is not None:
            raise self._exception
        while not self._buffer and not self._eof:
            await self._wait("readany")
        self._timer.assert_timeout()
        return self._all()

    async def each(self, take: Take) -> bool:
        """Have ``take`` take what comes, as it comes, until it answers False; whether there may be more. Raises as
        reading does, and what ``take`` raises."""
        if self._exception is not None:
            raise self._exception
        protocol = self._connection
        while True:
            while self._buffer:
                self._timer.assert_timeout()
                if not take(self._all()):
                    return True
            if self._eof:
                return False
            protocol.flows = flows = partial(self._arrived, take)
            try:
                await self._wait("each")
                enough = protocol.flows is None
            finally:
                if protocol.flows is flows:
                    protocol.flows = None
            if enough:
                return True

    def _arrived(self, take: Take) -> None:
        """A read is over, and a task waits in :meth:`each`. What comes with the end is left to that task."""
        waiter = self._waiter
        if waiter is None or waiter.done() or self._eof:
            return
        try:
            while self._buffer:
                if take(self._all()):
                    continue
                self._connection.flows = None
                if not waiter.done():
                    waiter.set_result(None)
                return
        except Exception as problem:
            if not waiter.done():
                waiter.set_exception(problem)

    @property
    def _connection(self) -> Answering:
        return cast(Answering, self._protocol)

    def _all(self) -> bytes:
        if self._size > _AT_ONCE or self._buffer_offset:
            return self._read_nowait(_AT_ONCE)
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        self._size = 0
        self._cursor += len(data)
        self._http_chunk_splits = None
        if self._protocol._reading_paused:
            self._protocol.resume_reading()
        return data


async def each(content: aiohttp.StreamReader, take: Take) -> bool:
    """:meth:`Content.each` of any body. One that is not read so has ``take`` called once."""
    if isinstance(content, Content):
        return await content.each(take)
    data = await content.readany()
    if data:
        take(data)
    return bool(data)


class Outlet:
    """Where the body of a streamed answer leaves for the client. Made when the head of the answer has left."""

    __slots__ = ("_chunked", "_client", "_writer")

    def __init__(self, request: web.BaseRequest) -> None:
        self._client = request.protocol
        self._writer = cast(StreamWriter, request.writer)
        self._chunked = self._writer.chunked

    def give(self, data: bytes) -> bool:
        """Send it; whether more may be given before :meth:`drained`. Raises ``ConnectionResetError`` where the client
        is gone."""
        transport = self._client.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("The client is gone.")
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return not self._client._paused

    async def drained(self) -> None:
        """The client has taken enough of what it was given."""
        await self._writer.drain()
