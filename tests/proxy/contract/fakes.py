"""A model server that plays recorded vLLM answers, and proxies before it that each do one thing wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.support.raw import Script, scripted, send
from tests.support.wire import load

WHOLE = load("chat_nonstream").response_bytes
STREAM = load("chat_stream_plain").response_bytes
TWO_CHOICES = load("n2_stream").response_bytes
MODELS = load("get_models").response_bytes
NOT_FOUND = load("err_no_route").response_bytes

Change = Callable[[bytes], bytes]


def unchanged(answer: bytes) -> bytes:
    return answer


def recorded(request: bytes) -> bytes:
    """What vLLM said to such a request."""
    if request.startswith(b"GET /v1/models "):
        return MODELS
    if not request.startswith(b"POST /v1/chat/completions "):
        return NOT_FOUND
    return STREAM if b'"stream":true' in request else WHOLE


def plays(change: Change = unchanged, *, pause: float = 0.0, held: bool = False) -> Script:
    """Answers with what was recorded, changed; a stream event by event with ``pause`` seconds between, or, if
    ``held``, all at once when its time is over."""

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        answer = change(recorded(request)) if request.startswith(b"POST") else recorded(request)
        pieces = [piece + b"\n\n\r\n" for piece in answer.split(b"\n\n\r\n")] if pause else [answer]
        for piece in pieces:
            await asyncio.sleep(pause)
            if not held:
                writer.write(piece)
                await writer.drain()
        if held:
            writer.write(answer)
            await writer.drain()
        writer.close()

    return script


def passes_on(port: int, change: Change = unchanged) -> Script:
    """Sends requests on to ``port``, changed, and hands back what comes."""

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(await send(port, change(request)))
        writer.close()

    return script


@asynccontextmanager
async def pair(server: Script, proxy: Script) -> AsyncIterator[tuple[str, str]]:
    """The two URLs."""
    async with scripted(server) as direct, scripted(proxy) as through:
        yield direct.url, through.url


def split(answer: bytes) -> tuple[bytes, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def with_body(answer: bytes, body: bytes) -> bytes:
    """A whole answer with another body, its length corrected."""
    head, old = split(answer)
    return head.replace(b"content-length: %d" % len(old), b"content-length: %d" % len(body)) + b"\r\n\r\n" + body


def chunks(answer: bytes) -> list[bytes]:
    """The events of a recorded stream, a chunk each."""
    body = split(answer)[1]
    found = []
    while (size := int(body[: body.index(b"\r\n")], 16)) > 0:
        start = body.index(b"\r\n") + 2
        found.append(body[start : start + size])
        body = body[start + size + 2 :]
    return found


def with_chunks(answer: bytes, events: list[bytes]) -> bytes:
    """A stream with other events, in chunks of its own."""
    framed = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)
    return split(answer)[0] + b"\r\n\r\n" + framed + b"0\r\n\r\n"


def each_json(answer: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Every JSON document of an answer changed, whole or in events."""
    if b"transfer-encoding: chunked" not in split(answer)[0]:
        return with_body(answer, change(split(answer)[1]))
    return with_chunks(
        answer,
        [
            b"data: " + change(event[6:-2]) + b"\n\n" if event.startswith(b"data: {") else event
            for event in chunks(answer)
        ],
    )


def each_value(answer: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    """The same on parsed values; spelled as vLLM spells them."""

    def changed(document: bytes) -> bytes:
        value = json.loads(document)
        change(value)
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

    return each_json(answer, changed)
