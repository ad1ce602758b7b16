"""A real OTLP and webhook receiver on loopback, which can be slow, refuse, or be away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Receiver:
    """What arrived. ``answer`` gives the status for a request (its body is given)."""

    def __init__(self) -> None:
        self.url = ""
        self.answer: Callable[[bytes], int] = lambda body: 200
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.taken: list[bytes] = []

    @property
    def spans(self) -> list[Any]:
        """Every span of every request that was taken."""
        return [
            span
            for body in self.taken
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def traces(self) -> list[str]:
        """The exchanges of the root spans that were taken, in order of arrival."""
        return [attributes(span)["interlock.exchange"] for span in self.spans if span.name.startswith("invoke_agent")]

    @property
    def alerts(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.taken]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(90):
            while not condition():  # noqa: ASYNC110 - what is waited for is another process
                await asyncio.sleep(0.02)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append((dict(request.headers), body))
        status = self.answer(body)
        if status == 200:
            self.taken.append(body)
        return web.Response(status=status)


def attributes(span: Any) -> dict[str, Any]:
    """A protobuf span's attributes with their plain values."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in span.attributes}


@asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver for any POST; ``port`` 0: a free one."""
    receiver = Receiver()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    bound = runner.addresses[0][1]
    receiver.url = f"http://127.0.0.1:{bound}"
    try:
        yield receiver
    finally:
        await runner.cleanup()
