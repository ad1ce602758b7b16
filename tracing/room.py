"""How much may wait for the disk, and what is told to whom when it is more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tracing.records import Gap, Opened, Record

FACTS_WEIGHT = 1024
"""Bytes that a record's facts are taken to need."""


class JournalError(Exception):
    """The journal cannot take or keep a record; whoever asked must not go on as if it had."""


class JournalFailed(JournalError):
    """The disk failed; the journal retries by itself (``healthy``)."""


class JournalOverloaded(JournalError):
    """The disk is slower than the traffic; the record was not taken."""


class JournalClosed(JournalError):
    """The journal was closed, or never opened: another process has it."""


class Room:
    """What is appended and not yet on disk is bounded. Who is about to open an exchange waits until less than a quarter
    of ``size`` bytes are pending; beyond ``size`` no new exchange is taken, and the records of running ones have as
    much room again. ``written`` gives how many bytes of those that were let in are on disk. For one event loop's
    thread."""

    def __init__(self, size: int, written: Callable[[], int]) -> None:
        self._size = size
        self._written = written
        self._taken = 0
        self._refused = 0
        self._refused_since = 0
        self._promised = 0
        self._queued: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def pending(self) -> int:
        """About how many bytes are let in and not yet on disk."""
        return self._taken - self._written()

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for room."""
        return bool(self._queued)

    def take(self, record: Record, weight: int, failure: str | None) -> Gap | None:
        """Let a record of ``weight`` bytes in. Gives the record that is to stand before it, if some were refused
        meanwhile. Raises :class:`JournalFailed` for a new exchange while there is a ``failure``,
        :class:`JournalOverloaded` where there is no room."""
        pending = self.pending
        if isinstance(record, Opened):
            if failure is not None:
                raise JournalFailed(cannot_write(failure))
            if pending + weight > self._size and pending > self._size // 4:
                raise JournalOverloaded(f"{pending} bytes wait for the disk; no new exchange is taken")
        elif pending + weight > 2 * self._size:
            if not self._refused:
                self._refused_since = record.time_ns
            self._refused += 1
            raise JournalOverloaded(f"{pending} bytes wait for the disk; the record was not taken")
        self._taken += weight
        if not self._refused:
            return None
        gap = Gap(time_ns=record.time_ns, refused=self._refused, since_ns=self._refused_since)
        self._refused = 0
        self._taken += FACTS_WEIGHT
        return gap

    async def wait(self, weight: int, seconds: float, failure: str | None, hurry: Callable[[], None]) -> bool:
        """Return once there is room for an ``opened`` of this weight, who asked first going first; it is to be taken at
        once. Whether that had to be waited for; then ``hurry`` was called.

        :class:`JournalOverloaded` if there is none within ``seconds``, :class:`JournalFailed` on a failure.
        """
        if not self._queued and self._free:
            return False
        if failure is not None:
            raise JournalFailed(cannot_write(failure))
        waiter = asyncio.get_running_loop().create_future()
        self._queued.append((weight, waiter))
        hurry()
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            raise JournalOverloaded(
                f"{self.pending} bytes wait for the disk; no new exchange is taken after {seconds:g} s"
            ) from None
        finally:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._promised -= weight
        return True

    def answer(self, failure: str | None) -> None:
        """Give room to who waits for it, as much as there is now; on a failure tell them all."""
        while self._queued and (failure is not None or self._free):
            weight, waiter = self._queued.popleft()
            if waiter.done():
                continue
            if failure is not None:
                waiter.set_exception(JournalFailed(cannot_write(failure)))
            else:
                self._promised += weight
                waiter.set_result(None)

    @property
    def _free(self) -> bool:
        return self.pending + self._promised < self._size // 4


def cannot_write(failure: str) -> str:
    """What is said to whoever needs a record that is not on disk."""
    return f"the journal cannot be written: {failure}"
