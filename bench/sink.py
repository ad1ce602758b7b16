"""A collector that takes every export and keeps nothing: ``python -m bench.sink``.

``GET /`` says how much came, as JSON: ``posts`` and ``bytes``.
"""

from __future__ import annotations

import uvloop
from aiohttp import web

from bench.serving import serve


async def _main() -> None:
    seen = {"posts": 0, "bytes": 0}

    async def take(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response(seen)
        body = await request.read()
        seen["posts"] += 1
        seen["bytes"] += len(body)
        return web.Response(content_type="application/x-protobuf")

    runner = web.ServerRunner(web.Server(take, access_log=None, client_max_size=1 << 30))
    await serve(runner)


if __name__ == "__main__":
    uvloop.run(_main())
