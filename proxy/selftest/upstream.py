"""The canary model server: it answers whatever is asked with what it was told to say, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from proxy.plane import url_of
from proxy.selftest.forms import Answer

_LARGEST = 64 * 1024 * 1024


class CanaryUpstream:
    """``answer`` is what it says from now on; ``received`` are the bodies of requests since then."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[bytes] = []
        self._answer = Answer(False, [b"{}"])

    def says(self, answer: Answer) -> None:
        self._answer, self.received = answer, []

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request on any path."""
        self.received.append(await request.read())
        answer = self._answer
        if not answer.stream:
            return web.Response(body=answer.parts[0], content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        response.enable_chunked_encoding()
        with contextlib.suppress(ConnectionError):  # an answer that is cut is not heard to its end
            await response.prepare(request)
            for part in answer.parts:
                await response.write(part)
                await asyncio.sleep(0)
            await response.write_eof()
        return response


@contextlib.asynccontextmanager
async def canary_upstream() -> AsyncIterator[CanaryUpstream]:
    """It runs on a free port of loopback."""
    upstream = CanaryUpstream()
    runner = web.ServerRunner(web.Server(upstream.handle), handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        upstream.url = url_of(runner)
        yield upstream
    finally:
        await runner.cleanup()
