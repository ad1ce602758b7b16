"""A wiretap between Interlock and the model server: hands every byte on, and keeps the answers.

It is how the demo knows what the model server really sent, whatever the agent was given. The bytes of one
exchange are found by the trace id that its request carried (``traceparent``).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from serving.tiny.recording import Recording

_READ_BYTES = 65536


@dataclass(slots=True)
class _Passed:
    asked: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)


class Wiretap:
    """Listens on a free loopback port and connects each caller with ``target``, an ``http://host:port``."""

    def __init__(self, target: str) -> None:
        address = urlsplit(target)
        self._target = address.hostname or "127.0.0.1", address.port or 80
        self._passed: list[_Passed] = []
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Listen, and give the URL to use instead of the target's."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def answer(self, trace_id: str) -> bytes:
        """The body of the answer to the request that carried this trace id; empty if none reached the server."""
        for passed in self._passed:
            head = bytes(passed.asked).partition(b"\r\n\r\n")[0]
            if trace_id.encode("ascii") in head:
                answered = bytes(passed.answered)
                return Recording(b"", answered, ((0.0, len(answered)),)).content if answered else b""
        return b""

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await self._relay(reader, writer)
        writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*self._target)
        passed: list[_Passed] = []
        up = asyncio.create_task(self._up(reader, to_server, passed))
        down = asyncio.create_task(self._down(from_server, writer, passed))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            down.cancel()
            to_server.close()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: list[_Passed]) -> None:
        while data := await reader.read(_READ_BYTES):
            # One request at a time on a connection: what follows an answer begins the next exchange.
            if not passed or passed[-1].answered:
                passed.append(_Passed())
                self._passed.append(passed[-1])
            passed[-1].asked += data
            writer.write(data)
            await writer.drain()

    @staticmethod
    async def _down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: list[_Passed]) -> None:
        while data := await reader.read(_READ_BYTES):
            passed[-1].answered += data
            writer.write(data)
            await writer.drain()
