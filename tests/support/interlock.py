"""A whole Interlock inside the test's own process, on free ports, with its state in a folder of the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.app import Interlock
from serving.settings import Settings


@asynccontextmanager
async def running(upstream: str, state_dir: Path, **sections: Any) -> AsyncIterator[Interlock]:
    """``sections`` are settings as the YAML file has them; listening ports are free ones."""
    listen = {"port": 0, "admin_port": 0, "drain_seconds": 0.2, **sections.pop("listen", {})}
    settings = Settings.model_validate(
        {
            "upstream": {"url": upstream, **sections.pop("upstream", {})},
            "listen": listen,
            "state_dir": state_dir,
            **sections,
        }
    )
    interlock = Interlock(settings)
    await interlock.start()
    try:
        yield interlock
    finally:
        await interlock.stop()


def port_of(interlock: Interlock) -> int:
    return int(interlock.url.rpartition(":")[2])
