"""How a server of the benchmark runs: on a free loopback port that it prints, until it is ended."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp.web_runner import BaseRunner, TCPSite


async def serve(runner: BaseRunner) -> None:
    await runner.setup()
    await TCPSite(runner, "127.0.0.1", 0).start()
    print(f"ready on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await runner.cleanup()
