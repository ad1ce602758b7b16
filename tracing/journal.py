"""The journal: the one durable log that every other record is made from.

How to think about it: the event loop *appends* (a queue and a sequence number, no more), one thread *writes*
(capture, encoding, hashing, one synced ``write``, in the order of the appends), and who must not go on
before a record is safe awaits :meth:`Journal.commit`. Everything that is queued when the thread wakes goes
down in one write and one sync, which all waiters share. Without a waiter the thread lets appends gather for
``linger`` seconds, so that a quiet exchange costs no sync of its own. The form of a line is in
``tracing.chain``, the folders in ``tracing.segments``.

What happens when things go wrong:

* **A crash** leaves at most an unfinished last line. On the next open it is cut off, a new epoch begins whose
  first line links to the last whole one, and every exchange that was opened and not settled gets a
  ``settled`` record with ending ``interrupted``.
* **The disk fails** (full, gone, I/O error): ``commit`` raises, ``healthy`` is False, and a new exchange's
  ``opened`` is refused; what was appended stays in memory. Every ``retry_seconds`` the thread cuts the
  segment back to what is known to be on disk and writes the rest into a new segment. When that succeeds the
  journal is healthy again, and nothing is missing.
* **The disk is too slow**: what is appended and not yet on disk is bounded. Who is about to append an ``opened``
  waits for :meth:`Journal.room`, which there is below a quarter of ``pending_bytes``. Beyond ``pending_bytes``
  ``opened`` is refused (:class:`JournalOverloaded`), so that no new exchange is taken in; the records of
  running exchanges have as much room again. Beyond that every append is refused, and a ``gap`` record says
  so where it happened: whoever is refused ends its exchange.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tracing.durable_log import DurableLog
from tracing.lines import Fill
from tracing.pen import Pen
from tracing.records import Record
from tracing.room import FACTS_WEIGHT, JournalClosed, JournalError, JournalFailed, JournalOverloaded, Room

__all__ = ["Journal", "JournalClosed", "JournalError", "JournalFailed", "JournalOverloaded"]

_log = logging.getLogger(__name__)


class Journal(DurableLog):
    """One writer's chain, open for appending. Made by :meth:`open`; appended to from one thread."""

    def __init__(self, pen: Pen, *, pending_bytes: int, linger: float, retry_seconds: float) -> None:
        super().__init__(Room(pending_bytes, lambda: pen.written_weight))
        self._linger = linger
        self._retry_seconds = retry_seconds
        self._loop: asyncio.AbstractEventLoop | None = None  # of who waits
        # The writing thread's, but for the pen's queue.
        self._pen = pen
        # Shared.
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        instance: str = "local",
        worker: int = 0,
        fsync: bool = True,
        segment_bytes: int = 64 * 1024 * 1024,
        pending_bytes: int = 32 * 1024 * 1024,
        linger: float = 0.05,
        retry_seconds: float = 1.0,
        clock: Callable[[], int] = time.time_ns,
        version: str = "",
        bundle: str = "",
        rollout: str = "",
    ) -> Self:
        """Repair, begin a new epoch, settle what was interrupted, and start the writing thread.

        Blocks on the disk; when it returns, ``started`` is on disk. ``version``, ``bundle`` and ``rollout``
        are put down in it. ``linger`` and ``retry_seconds`` are in seconds, ``clock`` gives nanoseconds.
        Raises :class:`JournalClosed` if another process writes this chain, ``OSError`` from the disk,
        ``ValueError`` for an instance name that cannot be a folder.
        """
        pen = Pen.open(
            state_dir,
            instance=instance,
            worker=worker,
            fsync=fsync,
            segment_bytes=segment_bytes,
            clock=clock,
            version=version,
            bundle=bundle,
            rollout=rollout,
        )
        journal = cls(pen, pending_bytes=pending_bytes, linger=linger, retry_seconds=retry_seconds)
        journal._thread.start()
        return journal

    # What the event loop calls.

    def append(self, record: Record, fill: Fill | None = None, *, weight: int = 0) -> int:
        """Take a record; gives its sequence number. Does no I/O and never waits.

        ``fill`` is called in the writing thread and gives the record to write in place of ``record``: the
        same facts with the captured content in it, so that heavy redaction is no work of the event loop. If
        it raises, ``record`` is written without content and says so (``capture_error``).
        ``weight`` is about how many bytes of content the record or its ``fill`` holds in memory.

        :class:`JournalFailed` or :class:`JournalOverloaded` if the record was *not* taken (see the module),
        :class:`JournalClosed` after :meth:`close`.
        """
        if self._closing:
            raise JournalClosed("the journal is closed")
        weight += FACTS_WEIGHT
        gap = self._room.take(record, weight, self._failure)
        if gap is not None:
            self._put(gap, None, FACTS_WEIGHT)
        return self._put(record, fill, weight)

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._hurry.set()
        self._wake.set()
        self._thread.join()
        self._pen.close()
        left = self.pending_records
        if left:
            raise JournalFailed(f"{left} records could not be written: {self._failure}")

    @property
    def pending_records(self) -> int:
        return self._pen.next - 1 - self._pen.durable

    @property
    def written_bytes(self) -> int:
        return self._pen.written_bytes

    @property
    def capture_errors(self) -> int:
        return self._pen.capture_errors

    @property
    def durable(self) -> int:
        return self._pen.durable

    def _put(self, record: Record, fill: Fill | None, weight: int) -> int:
        seq = self._pen.put(record, fill, weight)
        if not self._wake.is_set():
            self._wake.set()
        return seq

    def _hasten(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._hurry.set()
        self._wake.set()

    # What the writing thread does.

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except Exception as fault:  # the thread's edge: who waits must be told, and nothing more is taken
            _log.exception("the journal's writing thread ended")
            self._failure = f"its writing thread ended ({type(fault).__name__}); restart Interlock"
            self._tell()

    def _write_until_closed(self) -> None:
        while True:
            self._wake.wait()
            if not self._hurry.is_set():
                self._hurry.wait(self._linger)
            self._wake.clear()
            self._hurry.clear()
            try:
                self._pen.write(self._tell)
            except OSError as error:
                self._fail(error)
                if not self._retry():
                    return
            if self._closing and not self._pen.queue:
                return

    def _fail(self, error: OSError) -> None:
        if self._failure is None:
            _log.error("the journal cannot be written: %s", error)
        self._failure = f"{error.strerror or error}"
        self._tell()

    def _retry(self) -> bool:
        """Try until the disk takes everything (True), or the journal is closed and it still does not."""
        while True:
            if not self._closing:
                self._hurry.wait(self._retry_seconds)
                self._hurry.clear()
            try:
                self._pen.try_again()
            except OSError as error:
                self._fail(error)
                if self._closing:
                    return False
                continue
            _log.warning("the journal can be written again")
            self._failure = None
            self._wake.set()
            return True

    def _tell(self) -> None:
        if self._loop is not None and (self._waiters or self._room.awaited):
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(self._answer_waiters)
