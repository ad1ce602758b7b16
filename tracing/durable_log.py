"""What every journal is to the event loop that appends to it, whoever writes it down.

How to think about it: to append takes no time, and what is appended is written elsewhere, by a thread
(``tracing.journal``) or by a process (``tracing.writer_link``). So the loop has three questions. Is there room for
more (:meth:`DurableLog.room`)? Is this record on disk (:meth:`DurableLog.commit`)? And can it be written at all
(:attr:`DurableLog.healthy`)?
"""

from __future__ import annotations

import asyncio
import heapq
from abc import ABC, abstractmethod
from itertools import count

from tracing.room import JournalFailed, Room, cannot_write


class DurableLog(ABC):
    """For one event loop's thread, but for ``_failure``, which whoever writes may set. Whoever knows that more is on
    disk, or that nothing can be written, has :meth:`_answer_waiters` called on the loop."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._failure: str | None = None
        self._closing = False
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._turns = count()

    async def room(self, weight: int, seconds: float) -> bool:
        """Return once there is room for an ``opened`` of this weight, who asked first going first; it is to be appended
        at once. Whether that had to be waited for.

        :class:`JournalOverloaded` if there is none within ``seconds``, :class:`JournalFailed` if the disk fails.
        """
        return await self._room.wait(weight, seconds, self._failure, self._hasten)

    async def commit(self, seq: int) -> None:
        """Return once the record ``seq`` and all before it are on disk (with ``fsync``: synced).

        :class:`JournalFailed` if that is not so: what waits on this record must not happen.
        """
        if self.durable >= seq:
            return
        if self._failure is not None:
            raise JournalFailed(cannot_write(self._failure))
        waiter = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (seq, next(self._turns), waiter))
        self._hasten()
        await waiter

    @property
    def healthy(self) -> bool:
        """False while nothing can be written; True again once everything appended is down."""
        return self._failure is None

    @property
    def failure(self) -> str | None:
        """Why it is not healthy."""
        return self._failure

    @property
    def pending_bytes(self) -> int:
        """About how many bytes are appended and not yet on disk."""
        return self._room.pending

    @property
    @abstractmethod
    def pending_records(self) -> int:
        """How many records are appended and not yet on disk."""

    @property
    @abstractmethod
    def durable(self) -> int:
        """The number of the last record on disk, as :meth:`commit` has it."""

    @property
    @abstractmethod
    def written_bytes(self) -> int:
        """Bytes written to segments since open."""

    @property
    @abstractmethod
    def capture_errors(self) -> int:
        """Records written without their content because capturing it failed."""

    @abstractmethod
    def close(self) -> None:
        """Write and sync what is left, and end. Blocks; :class:`JournalFailed` if records were left behind.

        Calling it again does nothing.
        """

    @abstractmethod
    def _hasten(self) -> None:
        """Somebody waits, on the running loop: what is appended is to be written at once."""

    def _answer_waiters(self) -> None:
        """Release who waits for what is on disk, and if nothing can be written, everyone else too."""
        durable, failure, waiters = self.durable, self._failure, self._waiters
        while waiters and (waiters[0][0] <= durable or failure is not None):
            seq, _, waiter = heapq.heappop(waiters)
            if waiter.done():
                continue
            if seq <= durable:
                waiter.set_result(None)
            else:
                waiter.set_exception(JournalFailed(cannot_write(failure or "")))
        self._room.answer(failure)
