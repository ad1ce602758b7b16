"""A stage: an upstream that answers as the test says, and Interlock before it."""

from __future__ import annotations

import asyncio

from tests.support.raw import Script, ScriptedUpstream


class Stage:
    """``script`` is what ``upstream`` answers next; ``port`` is Interlock's data port."""

    def __init__(self) -> None:
        self.script: Script
        self.upstream: ScriptedUpstream
        self.port = 0

    async def play(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        await self.script(request, writer)
