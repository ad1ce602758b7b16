"""The real NeMo Guardrails server, launched as Interlock launches it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from checks.asking import check_session
from checks.nemo import CONFIG_ROOT, SHIPPED_CONFIG
from serving.launch.nemo import NemoServer
from serving.launch.process import Backoff, Watch


@pytest.fixture
async def nemo(nemo_python: Path, tmp_path: Path) -> AsyncIterator[NemoServer]:
    server = NemoServer(
        nemo_python,
        CONFIG_ROOT,
        config_id=SHIPPED_CONFIG,
        state_dir=tmp_path / "state",
        watch=Watch(ready=120, every=0.5, stop=5),
        backoff=Backoff(first=0.1, ceiling=0.5),
    )
    server.start()
    try:
        await server.wait_ready()
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with check_session(4) as session:
        yield session
