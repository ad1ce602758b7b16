"""An upstream faster than any proxy: ``python -m bench.upstream NAME EVENTS``.

One process, raw uvloop protocol. A whole answer is one write; a stream is one write for each event, one event
of each stream in every turn of the loop, as a model server gives one token of each sequence in every step. A
client that does not read is waited for.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import cast

import uvloop

from bench.wire import LAST_CHUNK, Answers, Shape, chunked, kind_of, shape_of

_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


class _Upstream:
    """What all connections share."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.whole = _WHOLE % (len(answers.whole), answers.whole)
        self.stream = [chunked(event) for event in answers.stream]
        self.numbers = itertools.count()
        self._long: dict[int, list[bytes]] = {}

    def long(self, events: int) -> list[bytes]:
        """The chunks of a stream of so many pieces of text."""
        if events not in self._long:
            self._long[events] = [chunked(event) for event in self.answers.long_stream(events)]
        return self._long[events]


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: _Upstream) -> None:
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._needs = 0  # bytes without which the next request is not whole
        self._events: list[bytes] = []
        self._next = 0
        self._left = 0
        self._due = self._loop.time()
        self._paused = False
        self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, _exc: Exception | None) -> None:
        self._gone = True

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._events:
            self._step()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < self._needs:
            return
        while (body := self._request()) is not None:
            self._answer(body)

    def _request(self) -> bytes | None:
        """The body of the next request that is whole. Bodies are counted or chunked."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head, start = bytes(self._buffer[:end]).lower(), end + 4
        if b"transfer-encoding: chunked" in head:
            stop = self._buffer.find(LAST_CHUNK, start)
            if stop < 0:
                return None
            stop += len(LAST_CHUNK)
        else:
            at = head.find(b"content-length:")
            stop = start + (int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0)
            if len(self._buffer) < stop:
                self._needs = stop
                return None
        body = bytes(self._buffer[start:stop])
        del self._buffer[:stop]
        self._needs = 0
        return body

    def _answer(self, body: bytes) -> None:
        upstream, kind, shape = self._upstream, kind_of(body), shape_of(body)
        if shape.pace_ms:
            self._transport.write(_STREAM)
            self._left = shape.events
            self._pace(shape)
        elif kind == "whole":
            self._transport.write(upstream.whole)
        elif kind == "whole-call":
            answer = upstream.answers.whole_call.number(next(upstream.numbers))
            self._transport.write(_WHOLE % (len(answer), answer))
        else:
            self._events = upstream.stream
            if kind == "stream-call":
                self._events = [chunked(event) for event in upstream.answers.call_events(next(upstream.numbers))]
            elif shape.events:
                self._events = upstream.long(shape.events)
            self._next = 0
            self._transport.write(_STREAM)
            self._loop.call_soon(self._step)

    def _pace(self, shape: Shape) -> None:
        """One event now and one in every ``pace_ms`` from now, by the clock."""
        if self._gone:
            return
        if not self._left:
            self._transport.write(chunked(b"data: [DONE]\n\n") + LAST_CHUNK)
            return
        self._left -= 1
        if not self._paused:
            self._transport.write(chunked(self._upstream.answers.stamped()))
        self._due = max(self._due, self._loop.time() - 1.0) + shape.pace_ms / 1000
        self._loop.call_at(self._due, self._pace, shape)

    def _step(self) -> None:
        if self._gone or self._paused:
            return
        if self._next < len(self._events):
            self._transport.write(self._events[self._next])
            self._next += 1
            self._loop.call_soon(self._step)
        else:
            self._events = []
            self._transport.write(LAST_CHUNK)


async def _main(name: str, events: int) -> None:
    upstream = _Upstream(Answers(name, events))
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(upstream), "127.0.0.1", 0)
    print(f"ready on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2])))
