"""The load generator: ``python -m bench.load``, its task as JSON on stdin, what it saw as JSON on stdout.

A process of its own with a raw uvloop protocol, because a client library would cost more than what it measures.
Two tasks. ``rate``: some connections to one target, each sending its next request when the last is answered.
``turns``: one connection to each of several targets, asked in turn, one request in all at a time, so that
whatever else the machine does falls on all of them alike.

Every answer is checked: status, size within what framing can add, and the ending.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, cast

import msgspec
import uvloop

from bench.stats import percentile
from bench.wire import BodyReader, Kind, Numbered, Shape, request


class Task(msgspec.Struct):
    """``ports`` of loopback targets (one for ``rate``). Ends after ``seconds`` (``warm_seconds`` before it
    are not counted in rate and times) or ``requests``. ``first`` is the first request's number.
    ``body_bytes``: the least and most that an answer's body may have."""

    mode: Literal["rate", "turns"]
    ports: list[int]
    kind: Kind
    connections: int
    seconds: float
    warm_seconds: float
    requests: int
    first: int
    body_bytes: tuple[int, int]
    history: int = 0
    events: int = 0


class Times(msgspec.Struct):
    """Milliseconds from the request's last byte to the answer's first body byte; zeros of none."""

    p50: float
    p99: float
    count: int

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        if not seconds:
            return cls(0.0, 0.0, 0)
        return cls(percentile(seconds, 0.5) * 1e3, percentile(seconds, 0.99) * 1e3, len(seconds))


class Seen(msgspec.Struct):
    """``answers``: all of them, for what was spent; ``rate``: answers per second of the counted time;
    ``wrong``: how many were not what they should be, ``first_wrong`` the first of them in words."""

    answers: int
    rate: float
    wrong: int
    first_wrong: str
    first_byte: list[Times]


def loaded(task: Task) -> Seen:
    """What a load generator of its own saw; it is ended a minute after it should have been done."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        cwd=Path(__file__).parent.parent,
        input=msgspec.json.encode(task),
        stdout=subprocess.PIPE,
        check=True,
        timeout=task.seconds + task.warm_seconds + 60.0,
    )
    return msgspec.json.decode(done.stdout, type=Seen)


class _Client(asyncio.Protocol):
    """One connection. ``ask`` sends; ``over`` is called with the answer."""

    def __init__(self) -> None:
        self.reader = BodyReader()
        self.began = 0.0
        self.first_byte = 0.0
        self.waiting: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(exc or ConnectionResetError("the connection was closed"))

    def ask(self, data: bytes) -> asyncio.Future[None]:
        self.reader = BodyReader()
        self.first_byte = 0.0
        self.waiting = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        self.began = time.perf_counter()
        return self.waiting

    def data_received(self, data: bytes) -> None:
        over = self.reader.feed(data)
        if not self.first_byte and self.reader.body_began:
            self.first_byte = time.perf_counter()
        if over and self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)


class _Load:
    def __init__(self, task: Task) -> None:
        self._task = task
        self._shape = Shape(task.history, task.events)
        self._numbers = itertools.count(task.first)
        self._answers = 0
        self._counted = 0
        self._wrong = 0
        self._first_wrong = ""
        self._times: list[list[float]] = [[] for _ in task.ports]
        self._began = 0.0
        self._end = 0.0

    async def run(self) -> Seen:
        task = self._task
        begin = time.perf_counter()
        self._began = begin + task.warm_seconds
        self._end = self._began + task.seconds
        if task.mode == "rate":
            await asyncio.gather(*(self._connection(task.ports[0]) for _ in range(task.connections)))
        else:
            await self._turns()
        spent = min(time.perf_counter(), self._end) - self._began
        return Seen(
            answers=self._answers,
            rate=self._counted / spent if spent > 0 else 0.0,
            wrong=self._wrong,
            first_wrong=self._first_wrong,
            first_byte=[Times.of(times) for times in self._times],
        )

    async def _connection(self, port: int) -> None:
        client, sent = await _connect(port), request(self._task.kind, f"127.0.0.1:{port}", self._shape)
        while self._goes_on():
            await self._ask(client, sent, 0)

    async def _turns(self) -> None:
        ports = self._task.ports
        clients = [(await _connect(port), request(self._task.kind, f"127.0.0.1:{port}", self._shape)) for port in ports]
        while self._goes_on():
            for place, (client, sent) in enumerate(clients):
                await self._ask(client, sent, place)

    def _goes_on(self) -> bool:
        return time.perf_counter() < self._end and self._answers < self._task.requests

    async def _ask(self, client: _Client, sent: Numbered, place: int) -> None:
        await client.ask(sent.number(next(self._numbers)))
        now = time.perf_counter()
        self._answers += 1
        if self._began <= now <= self._end:
            self._counted += 1
            self._times[place].append(client.first_byte - client.began)
        self._check(client.reader)

    def _check(self, reader: BodyReader) -> None:
        least, most = self._task.body_bytes
        right = reader.status == 200 and least <= reader.size <= most
        if self._task.kind.startswith("stream"):
            right = right and b"[DONE]" in reader.tail
        if not right:
            self._wrong += 1
            self._first_wrong = self._first_wrong or (
                f"status {reader.status}, {reader.size} bytes (of {least} to {most}), ending {reader.tail[-40:]!r}"
            )


async def _connect(port: int) -> _Client:
    _, client = await asyncio.get_running_loop().create_connection(_Client, "127.0.0.1", port)
    return client


if __name__ == "__main__":
    _seen = uvloop.run(_Load(msgspec.json.decode(sys.stdin.buffer.read(), type=Task)).run())
    sys.stdout.buffer.write(msgspec.json.encode(_seen))
