"""A recording relay in front of the model server: what reached it through the proxy, compared with what was sent.

The proxy is set up to have the tap as its upstream. The tap hands every byte on in both directions and keeps those
that came from the proxy since it was last asked; cases are asked one at a time, so they belong to the last case.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from proxy.contract.answer import Answer, NoAnswer, Reader
from proxy.contract.client import Request, Target, raw
from proxy.contract.compare import Difference, documents, headers_differ

KIND = "request changed"
CREDENTIALS = frozenset({"authorization", "x-api-key"})
"""Headers that are the proxy's business: it has a key of its own for the server. They are never shown."""
TURNS = 4


class Tap:
    """Relays to ``target``; ``arrived`` has the requests of each connection since :meth:`clear`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._heard: list[bytearray] = []
        self._calls: dict[int, bytearray] = {}
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    def clear(self) -> None:
        self._heard, self._calls = [], {}

    def changed(self, request: Request, proxy: Target) -> list[Difference]:
        """In what the request that arrived differs from ``request`` as it was sent to ``proxy``."""
        sent = _read(raw(request, proxy))
        heard = [bytes(one) for one in self._heard if one.startswith(request.method.encode() + b" ")]
        if not heard:
            return [Difference(KIND, "", "sent", "never reached the server")]
        return list(_changed(sent, _read(heard[0])))

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the proxy's."""
        task = asyncio.current_task()
        assert task is not None
        ends = self._open[task] = [writer]
        context = ssl.create_default_context() if self._target.tls else None
        try:
            down, up = await asyncio.open_connection(self._target.host, self._target.port, ssl=context)
            ends.append(up)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, up, id(writer)))
                group.create_task(self._pass(down, writer, None))
        except* OSError:
            pass
        finally:
            del self._open[task]
            for end in ends:
                end.close()  # what is written is sent first

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int | None) -> None:
        while data := await reader.read(65536):
            if connection is not None:
                self._hear(connection, data)
            writer.write(data)
            await writer.drain()
        writer.close()

    def _hear(self, connection: int, data: bytes) -> None:
        call = self._calls.get(connection)
        if call is None:
            call = self._calls[connection] = bytearray()
            self._heard.append(call)
        call += data

    async def stop(self) -> None:
        """Cut what a proxy keeps open, and wait until it is gone."""
        for _ in range(TURNS):  # a connection that was just accepted gets its task in one of the next turns
            await asyncio.sleep(0)
        while self._open:
            for end in [end for ends in self._open.values() for end in ends]:
                end.transport.abort()
            await asyncio.gather(*self._open)


@asynccontextmanager
async def tapped(target: Target, port: int) -> AsyncIterator[Tap]:
    """A tap on a loopback port. Raises OSError where it is taken."""
    tap = Tap(target)
    server = await asyncio.start_server(tap.handle, "127.0.0.1", port)
    try:
        yield tap
    finally:
        server.close()
        await tap.stop()


def _read(request: bytes) -> tuple[str, Answer]:
    """The request line, and the rest as if it were an answer: framing and headers are the same."""
    line, _, rest = request.partition(b"\r\n")
    reader = Reader("POST")
    reader.feed(b"HTTP/1.1 200 OK\r\n" + rest, 0.0)
    try:
        return line.decode("latin-1"), reader.answer()
    except NoAnswer:
        return line.decode("latin-1"), Answer("HTTP/1.1", 200, "OK", (), b"", fault="no whole request")


def _changed(sent: tuple[str, Answer], came: tuple[str, Answer]) -> Iterator[Difference]:
    (line, ours), (other, theirs) = sent, came
    if line != other:
        yield Difference(KIND, "request line", line, other)
    for one in headers_differ(ours, theirs, ("", "")):
        if one.where in CREDENTIALS or (one.where == "content-length" and ours.chunked):
            continue  # a body in chunks may be sent on in one piece
        yield Difference(KIND, f"{one.kind.removeprefix('header ')} header {one.where}", one.direct, one.through)
    for one in documents(ours.body, theirs.body):
        yield Difference(KIND, f"{one.kind} {one.where}".strip(), one.direct, one.through)
