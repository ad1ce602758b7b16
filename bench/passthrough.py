"""The reference that matters: a bare aiohttp pass-through, ``python -m bench.passthrough UPSTREAM``.

The same libraries as Interlock's (aiohttp, uvloop), one process, nothing inspected and nothing recorded: what
is left is what carrying costs.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

from bench.serving import serve

_HOP = frozenset({"host", "content-length", "transfer-encoding", "connection", "keep-alive"})
_SESSION = web.AppKey("session", aiohttp.ClientSession)


def _application(upstream: str) -> web.Application:
    async def carry(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        session, url = request.app[_SESSION], upstream + request.path_qs
        async with session.request(request.method, url, data=body, headers=headers) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response

    async def session(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as app[_SESSION]:
            yield

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", carry)
    return app


async def _main(upstream: str) -> None:
    runner = web.AppRunner(_application(upstream), access_log=None)
    await serve(runner)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
