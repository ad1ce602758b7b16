"""What Interlock keeps of an exchange while its answer flows: nothing that nobody will read again."""

from __future__ import annotations

import asyncio
import gc
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from proxy.app import Interlock
from tests.support.interlock import port_of, running
from tests.support.serving import HEAD, ask, post

_LAST = b"the last word"
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"tiny","choices":[{"index":0,'
    b'"delta":{"content":" word"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
)
_CHUNK = b"%x\r\n%s\r\n" % (len(_EVENT), _EVENT)


class _Upstream(asyncio.Protocol):
    """Keeps nothing of a request. Begins a stream, and gives ``events`` of it as far as they are taken."""

    def __init__(self, events: int) -> None:
        self._left = events
        self._tail = b""
        self.paused = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(1024)

    def data_received(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-100:]
        if _LAST in self._tail:
            self._transport.write(HEAD + _CHUNK)
            self._go_on()

    def pause_writing(self) -> None:
        self.paused.set()

    def resume_writing(self) -> None:
        self.paused.clear()
        self._go_on()

    def _go_on(self) -> None:
        while self._left and not self.paused.is_set():
            self._left -= 1
            self._transport.write(_CHUNK)


@asynccontextmanager
async def _serving(events: int) -> AsyncIterator[tuple[str, list[_Upstream]]]:
    made: list[_Upstream] = []

    def make() -> _Upstream:
        made.append(_Upstream(events))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", made


def _request(size: int, stream: bool = True) -> bytes:
    """A history of about ``size`` bytes, half of it arguments of calls; tools with long descriptions besides."""
    messages: list[dict[str, object]] = []
    for place in range(size // 2048):
        call = {"id": f"call-{place}", "type": "function"}
        arguments = '{"path": "' + f"{place}".rjust(1000, "x") + '"}'
        messages.append(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{**call, "function": {"name": "read_file", "arguments": arguments}}],
            }
        )
        messages.append({"role": "tool", "tool_call_id": f"call-{place}", "content": f"{place}".rjust(1000, "y")})
    messages.append({"role": "user", "content": _LAST.decode()})
    schema = {"type": "object", "properties": {"path": {"type": "string", "description": "z" * 100_000}}}
    tool = {"type": "function", "function": {"name": "read_file", "description": "w" * 100_000, "parameters": schema}}
    fields = ask(stream=stream, tools=[tool])
    del fields["messages"]
    return post({**fields, "messages": messages})


async def _open(interlock: Interlock, request: bytes) -> socket.socket:
    """A client whose answer has begun and who reads no more of it."""
    loop, client = asyncio.get_running_loop(), socket.socket()
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", port_of(interlock)))
    await loop.sock_sendall(client, request)
    assert await loop.sock_recv(client, 15) == b"HTTP/1.1 200 OK"
    return client


async def _written(interlock: Interlock) -> None:
    """What was recorded by now is on disk."""
    assert interlock._plane is not None
    journal = interlock._plane.journal
    await journal.commit(journal.durable + journal.pending_records)


@pytest.mark.asyncio
async def test_a_long_request_is_not_kept_while_its_answer_flows(tmp_path: Path) -> None:
    async with _serving(0) as (url, _), running(url, tmp_path) as interlock:
        request = _request(1024 * 1024)
        clients = [await _open(interlock, request)]
        await _written(interlock)
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            clients += [await _open(interlock, request) for _ in range(2)]
            await _written(interlock)
            gc.collect()
            kept = (tracemalloc.get_traced_memory()[0] - before) / 2
        finally:
            tracemalloc.stop()
        for client in clients:
            client.close()
    assert kept < 100_000, f"{kept:.0f} bytes of 1.2 MB"


@pytest.mark.asyncio
async def test_what_a_client_does_not_read_waits_at_the_model_server(tmp_path: Path) -> None:
    async with _serving(100_000) as (url, upstreams), running(url, tmp_path) as interlock:
        request = _request(2048)
        tracemalloc.start()
        try:
            client = await _open(interlock, request)
            before, _ = tracemalloc.get_traced_memory()
            async with asyncio.timeout(20):
                await upstreams[-1].paused.wait()
                still = 0
                while still < 10:  # nothing moves any more
                    await asyncio.sleep(0.02)
                    still = still + 1 if upstreams[-1].paused.is_set() else 0
            gc.collect()
            kept = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        client.close()
    assert kept < 256 * 1024, f"{kept} bytes of 20 MB"
