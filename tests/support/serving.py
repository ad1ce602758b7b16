"""A scripted upstream that answers chat requests with given events or a given body, as vLLM frames them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from tests.support.raw import Script
from tests.support.wire import parse

HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 22:36:37 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\nvary: Origin\r\ntransfer-encoding: chunked\r\n\r\n"
)


def streaming(events: list[bytes], *, every: int = 1) -> Script:
    """One chunk an event; a loop turn between two writes."""

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for at in range(0, len(events), every):
            for event in events[at : at + every]:
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    return script


def answering(body: bytes) -> Script:
    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: %d\r\ncontent-type: application/json\r\n\r\n"
            % len(body)
        )
        writer.write(body)

    return script


def by_request(choose: Callable[[dict], Script]) -> Script:
    """The answer depends on the request's JSON body."""

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        await choose(json.loads(parse(request).body))(request, writer)

    return script


def post(body: bytes | dict, *headers: str, path: str = "/v1/chat/completions") -> bytes:
    """The bytes of a POST request."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json", f"Content-Length: {len(raw)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + raw


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": name,
            "parameters": {"type": "object", "properties": {arg: {"type": "string"}}, "required": [arg]},
        },
    }
    for name, arg in (("run_shell", "command"), ("get_weather", "city"), ("read_file", "path"))
]


def ask(**fields: object) -> dict:
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Clean up."}],
        "tools": TOOLS,
        **fields,
    }
