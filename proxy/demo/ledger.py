"""Reading the record while the story runs: by the trace id that a request carried."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tracing.exchange import Exchange
from tracing.lookup import find_exchanges

_PATIENCE_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.02


class NotOnRecord(Exception):
    """An exchange is over and does not stand in the record."""


class Ledger:
    """The record below a state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    async def exchange(self, trace_id: str) -> Exchange:
        """The exchange, settled. It is written a moment after its answer; raises :class:`NotOnRecord` after ten
        seconds."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for exchange in self.exchanges():
                if exchange.opened is not None and exchange.opened.trace_id == trace_id and exchange.settled:
                    return exchange
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        raise NotOnRecord(f"an exchange is missing in the record below {self._state_dir}")

    def exchanges(self) -> list[Exchange]:
        """All of them."""
        return list(find_exchanges(self._state_dir))

    def files_with(self, word: str) -> tuple[int, int]:
        """How many files there are below the state folder, and how many of them hold ``word``."""
        files = [path for path in self._state_dir.rglob("*") if path.is_file()]
        return len(files), sum(word.encode() in path.read_bytes() for path in files)
