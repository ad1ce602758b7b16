"""Results of tools are read while the model works, so that a call does not wait for it.

What orders stand in a result, and its text as values are looked for in it, is a function of the text alone
(``policies.facts.known``): whether it was worked out before the call came or when it came changes nothing but the time
that the call waits. One thread reads, so that nobody's results keep the event loop from its work more than one thread
can. Where more waits than :data:`MOST_WAITING`, or what was read is forgotten, a text is read when its call comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from policies.facts.known import KnownTexts

SHORT = 2048
"""Characters of an exchange's new results that are read in a moment, when a call comes."""
MOST_WAITING = 16 * 1024 * 1024
"""Characters of results that wait to be read, of all exchanges together."""


class ReadAhead:
    """The reading that is under way for the exchanges of one event loop."""

    def __init__(self, texts: KnownTexts) -> None:
        self._texts = texts
        self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._under_way: dict[str, asyncio.Future[None]] = {}
        self._waiting = 0

    def begin(self, exchange: str, results: Sequence[str]) -> None:
        """Read the new results of an exchange, if that takes its time."""
        size = sum(map(len, results))
        if size < SHORT or self._waiting + size > MOST_WAITING or exchange in self._under_way:
            return
        self._waiting += size
        reading = asyncio.get_running_loop().run_in_executor(self._thread, self._read, [*results])
        self._under_way[exchange] = reading
        reading.add_done_callback(lambda _: self._done(exchange, size))

    async def end(self, exchange: str) -> None:
        """Return when nothing is being read for the exchange any more."""
        reading = self._under_way.get(exchange)
        if reading is not None:
            await asyncio.wait([reading])

    def close(self) -> None:
        """What is not begun will not be read."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, results: list[str]) -> None:
        for text in results:
            self._texts.of(text).read()

    def _done(self, exchange: str, size: int) -> None:
        self._waiting -= size
        reading = self._under_way.pop(exchange)
        if not reading.cancelled():
            reading.exception()  # it comes again, and is told, when the call's facts are made
