"""Many streams at a model's pace: ``python -m bench.paced``, its task as JSON on stdin, what it saw as JSON on stdout.

All streams are opened within ``ramp_seconds`` and read for ``seconds``; every event says when the upstream made it, so
what lies between that and its arrival here is known for each. ``open`` is printed on stderr when all streams flow,
``over`` before they are closed: between the two the target's memory is that of its open streams. With ``read`` off the
client asks and then reads nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import msgspec
import uvloop

from bench.stats import percentile
from bench.wire import Shape, request, stamps_in


class Task(msgspec.Struct):
    """``events``: how many each stream has. The first ``ramp_seconds`` are not counted."""

    port: int
    streams: int
    seconds: float
    ramp_seconds: float
    pace_ms: int
    history: int
    first: int
    events: int = 1_000_000
    read: bool = True


class Paced(msgspec.Struct):
    """Milliseconds from an event's making to its arrival; ``events`` were counted on ``flowing`` streams."""

    flowing: int
    events: int
    p50: float
    p99: float
    worst: float
    refused: str = ""


class _Stream(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self._load = load
        self._rest = b""
        self.flows = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, data: bytes) -> None:
        self._transport.write(data)
        if not self._load.task.read:
            self._transport.pause_reading()

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if not self.flows:
            if not data.startswith(b"HTTP/1.1 200"):
                self._load.refused = self._load.refused or data[:300].decode("utf-8", "replace")
            self.flows = True
        data = self._rest + data
        if self._load.counting:
            self._load.delays += [now - stamp for stamp in stamps_in(data)]
        end = data.rfind(b"\n\n")
        self._rest = data[end + 2 :] if end >= 0 else data


class _Load:
    def __init__(self, task: Task) -> None:
        self.task = task
        self.counting = False
        self.refused = ""
        self.delays: list[int] = []

    async def run(self) -> Paced:
        task, loop = self.task, asyncio.get_running_loop()
        sent = request("stream", f"127.0.0.1:{task.port}", Shape(task.history, task.events, task.pace_ms))
        streams = []
        began = time.monotonic()
        for number in range(task.streams):
            _, stream = await loop.create_connection(lambda: _Stream(self), "127.0.0.1", task.port)
            stream.ask(sent.number(task.first + number))
            streams.append(stream)
            await asyncio.sleep(max(0.0, began + (number + 1) * task.ramp_seconds / task.streams - time.monotonic()))
        await asyncio.sleep(1.0)
        print("open", file=sys.stderr, flush=True)
        self.counting = True
        await asyncio.sleep(task.seconds)
        self.counting = False
        print("over", file=sys.stderr, flush=True)
        await asyncio.sleep(0.5)  # what follows looks at the target's memory while all are open
        flowing = sum(stream.flows for stream in streams)
        for stream in streams:
            stream.close()
        delays = [delay / 1e6 for delay in self.delays] or [0.0]  # none where nothing is read
        return Paced(
            flowing,
            len(self.delays),
            percentile(delays, 0.5),
            percentile(delays, 0.99),
            max(delays),
            self.refused,
        )


if __name__ == "__main__":
    _seen = uvloop.run(_Load(msgspec.json.decode(sys.stdin.buffer.read(), type=Task)).run())
    sys.stdout.buffer.write(msgspec.json.encode(_seen))
