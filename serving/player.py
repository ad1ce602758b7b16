"""A player of recorded vLLM traffic. It is not a model: it knows what was recorded, and no more.

    python -m serving.player --port 8000

A client sees what it would see of vLLM with the tiny model: the recorded status line, headers and
body bytes, one HTTP chunk for each event, at the recorded pace. Three things are made anew or left
out: the ids of the answer and of its tool calls (fresh each time, of the same length), and the usage
event of a stream where the client asked for none. What no recording answers gets vLLM's 404.

Demo and tests use it where no vLLM runs. Which request finds which recording: ``serving.tiny.shelf``.
A client that goes away, by half-closing too, ends its answer at once.
"""

import argparse
import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import cast

from serving.tiny.recording import Recording
from serving.tiny.shelf import CHAT, TRAFFIC, Shelf, wants_usage

_ID = re.compile(rb"chatcmpl-(?:tool-)?([0-9a-f]{16})")
_USAGE_EVENT = b'"choices":[],"usage":'
_REASONS = {400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


class Player:
    """An HTTP server that plays recordings.

    ``speed`` divides the recorded pauses; 0 plays without any. ``every`` plays one event in so many
    milliseconds instead, however busy the machine was when it recorded. ``new_id`` makes 16 hex digits.
    ``played`` names what was played, in order of the requests; ``aborted`` counts the answers that
    clients did not wait for.
    """

    def __init__(
        self,
        folder: Path = TRAFFIC,
        *,
        speed: float = 1.0,
        every: float | None = None,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self.speed = speed
        self.every = every
        self.played: list[str] = []
        self.aborted = 0
        self._shelf = Shelf.of(folder)
        self._new_id = new_id
        self._server: asyncio.Server | None = None
        self.connections: set[_Connection] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and return the base URL; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port)
        bound = self._server.sockets[0].getsockname()
        return f"http://{bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        """Stop listening and cut what is still played."""
        if self._server is not None:
            self._server.close()
            for connection in tuple(self.connections):
                connection.close()
            await self._server.wait_closed()
            self._server = None

    def find(self, method: str, path: str, body: bytes) -> tuple[Recording, bool] | bytes:
        """The recording for a request and whether to play its usage event, or an error answer."""
        if path != CHAT:
            found = self._shelf.other(method, path)
            usage = True
        elif method != "POST":
            return _answer(405, {"detail": "Method Not Allowed"})
        else:
            try:
                asked = json.loads(body)
                found = self._shelf.chat(asked)
                usage = wants_usage(asked)
            except (ValueError, AttributeError, KeyError, TypeError) as error:
                return _error(400, "Bad Request", f"the player cannot read this request: {error}")
        if found is None and path == CHAT:
            return _error(404, "NotFoundError", "the player has no recording of this conversation")
        if found is None:
            return _answer(404, {"detail": "Not Found"})
        name, recording = found
        self.played.append(name)
        return recording, usage

    def renew(self) -> Callable[[bytes], bytes]:
        """A function that replaces ids, the same one by the same one within an answer."""
        fresh: dict[bytes, bytes] = {}

        def replace(match: re.Match[bytes]) -> bytes:
            if match[1] not in fresh:
                fresh[match[1]] = self._new_id().encode("ascii")
            return match[0].removesuffix(match[1]) + fresh[match[1]]

        return lambda data: _ID.sub(replace, data)


class _Connection(asyncio.Protocol):
    """One client: requests one after the other, each answered by a task that its leaving ends."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not of that class
        self._writable.set()
        self._player.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._player.connections.discard(self)
        self._writable.set()
        if self._task is not None:
            self._player.aborted += 1
            self._task.cancel()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def _next(self) -> None:
        if self._task is not None or self._transport.is_closing():
            return
        try:
            taken = take_request(self._buffer)
        except ValueError:
            self._transport.write(_answer(400, "Invalid HTTP request received."))
            self._transport.close()
            return
        if taken is None:
            return
        method, path, last, body, self._buffer = taken
        self._task = asyncio.create_task(self._play(method, path, body, last=last))

    async def _play(self, method: str, path: str, body: bytes, *, last: bool) -> None:
        found = self._player.find(method, path, body)
        if isinstance(found, bytes):
            self._transport.write(found)
        else:
            await self._send(*found)
        self._task = None
        if last:
            self._transport.close()
        else:
            self._next()

    async def _send(self, recording: Recording, usage: bool) -> None:
        renew = self._player.renew()
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number, (ms, piece) in enumerate(recording.pieces):
            if self._player.every is not None:
                await asyncio.sleep(begin + number * self._player.every / 1000 - loop.time())
            elif self._player.speed:
                await asyncio.sleep(begin + ms / 1000 / self._player.speed - loop.time())
            if usage or _USAGE_EVENT not in piece:
                self._transport.write(renew(piece))
            await self._writable.wait()


def take_request(data: bytes) -> tuple[str, str, bool, bytes, bytes] | None:
    """Split off one request: method, path, whether it is the connection's last, body, the rest.

    ``None`` while it is not all there. Raises ``ValueError`` for what is not HTTP/1.1.
    """
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise ValueError(f"not HTTP/1: {first!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip().lower()
    last = headers.get("connection") == "close" or version == "HTTP/1.0"
    path = target.partition("?")[0]
    if headers.get("transfer-encoding") == "chunked":
        taken = _take_chunks(rest)
        return taken and (method, path, last, *taken)
    size = int(headers.get("content-length", "0"))
    if len(rest) < size:
        return None
    return method, path, last, rest[:size], rest[size:]


def _take_chunks(data: bytes) -> tuple[bytes, bytes] | None:
    body = b""
    while True:
        line, found, data = data.partition(b"\r\n")
        if not found:
            return None
        size = int(line.partition(b";")[0], 16)
        if len(data) < size + 2:
            return None
        body, data = body + data[:size], data[size + 2 :]
        if size == 0:
            return body, data


def _error(status: int, kind: str, message: str) -> bytes:
    error = {"message": message, "type": kind, "param": None, "code": status}
    return _answer(status, {"error": error})


def _answer(status: int, content: object) -> bytes:
    body = json.dumps(content, separators=(",", ":")).encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ndate: {formatdate(usegmt=True)}\r\n"
        f"server: uvicorn\r\ncontent-length: {len(body)}\r\ncontent-type: application/json\r\n\r\n"
    )
    return head.encode("ascii") + body


async def _serve(host: str, port: int, speed: float, folder: Path) -> None:
    player = Player(folder, speed=speed)
    print(f"playing recorded vLLM traffic at {await player.start(host, port)}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await player.stop()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Play recorded vLLM traffic (no model inside).")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one and prints it")
    parser.add_argument("--speed", type=float, default=1.0, help="2 is twice as fast, 0 no pauses")
    parser.add_argument("--traffic", type=Path, default=TRAFFIC, help="folder of recordings")
    options = parser.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.host, options.port, options.speed, options.traffic))


if __name__ == "__main__":
    main()
