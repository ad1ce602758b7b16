"""Questions of several exchanges, answered one behind the other.

An engine that is asked now and then finds its code and memory gone from the processor's caches, which costs it half as
much again; so exchanges are asked about in groups, and what all of a group ask waits until none of them goes on.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from policies.engines.base import Engine
from policies.model import Stage


class InTurns:
    """An engine whose answers come together. ``seconds`` is the time that they took."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.seconds = 0.0
        self._engine = engine
        self._waiting: list[tuple[Stage, bytes, float, str, asyncio.Future[dict[str, Any]]]] = []
        self._turn: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._engine.start()

    async def close(self) -> None:
        await self._engine.close()

    async def ask_all(
        self, stage: Stage, document: bytes, seconds: float = math.inf, exchange: str = ""
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._waiting.append((stage, document, seconds, exchange, answer))
        if self._turn is None:
            self._turn = loop.create_task(self._answer())  # begins when all who can go on have done so
        return await answer

    async def ask_one(
        self, policy: str, stage: Stage, document: bytes, seconds: float = math.inf, exchange: str = ""
    ) -> Any:
        began = time.perf_counter()
        try:
            return await self._engine.ask_one(policy, stage, document, seconds, exchange)
        finally:
            self.seconds += time.perf_counter() - began

    async def _answer(self) -> None:
        self._turn, waiting, self._waiting = None, self._waiting, []
        began = time.perf_counter()
        for stage, document, seconds, exchange, answer in waiting:
            try:
                answer.set_result(await self._engine.ask_all(stage, document, seconds, exchange))
            except Exception as error:
                answer.set_exception(error)
        self.seconds += time.perf_counter() - began
