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
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec

from tracing import recovery
from tracing.folders import private_folder
from tracing.lines import Fill, LineWriter
from tracing.records import Gap, Opened, Record, Settled, Started
from tracing.segment_file import SegmentFile
from tracing.segments import chain_folder

_log = logging.getLogger(__name__)

_FACTS_WEIGHT = 1024
_BATCH_BYTES = 4 * 1024 * 1024


class JournalError(Exception):
    """The journal cannot take or keep a record; whoever asked must not go on as if it had."""


class JournalFailed(JournalError):
    """The disk failed; the journal retries by itself (``healthy``)."""


class JournalOverloaded(JournalError):
    """The disk is slower than the traffic; the record was not taken."""


class JournalClosed(JournalError):
    """The journal was closed, or never opened: another process has it."""


class _Waiting(msgspec.Struct, frozen=True):
    seq: int
    record: Record
    fill: Fill | None
    weight: int


class Journal:
    """One writer's chain, open for appending. Made by :meth:`open`; appended to from one thread."""

    def __init__(
        self,
        segment: SegmentFile,
        *,
        tip: recovery.Tip,
        lock: int,
        pending_bytes: int,
        linger: float,
        retry_seconds: float,
    ) -> None:
        self._lock = lock
        self._pending_bytes = pending_bytes
        self._linger = linger
        self._retry_seconds = retry_seconds
        # Written by the appending thread only.
        self._next = tip.next_seq
        self._appended_weight = 0
        self._refused = 0
        self._refused_since = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._queued: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._promised = 0
        self._closing = False
        # Written by the writing thread only.
        self._segment = segment
        self._lines = LineWriter(tip.head)
        self._unsafe: list[bytes] = []
        self._unsafe_last = tip.next_seq - 1
        self._unsafe_weight = 0
        self._durable = tip.next_seq - 1
        self._written_weight = 0
        self._written_bytes = 0
        self._failure: str | None = None
        # Shared.
        self._queue: deque[_Waiting] = deque()
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
        folder = private_folder(state_dir, chain_folder(state_dir, instance, worker))
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise JournalClosed(
                f"another process writes the journal in {folder}; give this one its own instance name"
            ) from error
        try:
            tip = recovery.repair(folder, instance, worker)
            segment = SegmentFile(state_dir, folder, tip.epoch, fsync=fsync, segment_bytes=segment_bytes)
            journal = cls(
                segment, tip=tip, lock=lock, pending_bytes=pending_bytes, linger=linger, retry_seconds=retry_seconds
            )
            now = clock()
            started = Started(
                time_ns=now,
                instance=instance,
                worker=worker,
                epoch=tip.epoch,
                version=version,
                bundle=bundle,
                rollout=rollout,
                interrupted=len(tip.interrupted),
                torn_bytes=tip.torn_bytes,
                fault=tip.fault,
            )
            journal._put(started, None, 0)
            for exchange in tip.interrupted:
                journal._put(Settled(time_ns=now, exchange=exchange, ending="interrupted"), None, 0)
            journal._drain()
        except BaseException:
            os.close(lock)
            raise
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
        weight += _FACTS_WEIGHT
        pending = self._appended_weight - self._written_weight
        if isinstance(record, Opened):
            if self._failure is not None:
                raise JournalFailed(f"the journal cannot be written: {self._failure}")
            if pending + weight > self._pending_bytes and pending > self._pending_bytes // 4:
                raise JournalOverloaded(f"{pending} bytes wait for the disk; no new exchange is taken")
        elif pending + weight > 2 * self._pending_bytes:
            if not self._refused:
                self._refused_since = record.time_ns
            self._refused += 1
            raise JournalOverloaded(f"{pending} bytes wait for the disk; the record was not taken")
        if self._refused:
            gap = Gap(time_ns=record.time_ns, refused=self._refused, since_ns=self._refused_since)
            self._refused = 0
            self._put(gap, None, _FACTS_WEIGHT)
        return self._put(record, fill, weight)

    async def room(self, weight: int, seconds: float) -> bool:
        """Return once there is room for an ``opened`` of this weight, who asked first going first; it is to be appended
        at once. Whether that had to be waited for.

        :class:`JournalOverloaded` if there is none within ``seconds``, :class:`JournalFailed` if the disk fails.
        """
        if not self._queued and self._has_room:
            return False
        if self._failure is not None:
            raise JournalFailed(f"the journal cannot be written: {self._failure}")
        loop = asyncio.get_running_loop()
        self._loop = loop
        waiter = loop.create_future()
        self._queued.append((weight, waiter))
        self._hurry.set()
        self._wake.set()
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            raise JournalOverloaded(
                f"{self.pending_bytes} bytes wait for the disk; no new exchange is taken after {seconds:g} s"
            ) from None
        finally:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._promised -= weight
        return True

    @property
    def _has_room(self) -> bool:
        return self.pending_bytes + self._promised < self._pending_bytes // 4

    async def commit(self, seq: int) -> None:
        """Return once the record ``seq`` and all before it are on disk (with ``fsync``: synced).

        :class:`JournalFailed` if that is not so: what waits on this record must not happen.
        """
        if self._durable >= seq:
            return
        if self._failure is not None:
            raise JournalFailed(f"the journal cannot be written: {self._failure}")
        loop = asyncio.get_running_loop()
        self._loop = loop
        waiter = loop.create_future()
        self._waiters.append((seq, waiter))
        self._hurry.set()
        self._wake.set()
        await waiter

    def close(self) -> None:
        """Write and sync what is left, and end. Blocks; :class:`JournalFailed` if records were left behind.

        Calling it again does nothing.
        """
        if self._closing:
            return
        self._closing = True
        self._hurry.set()
        self._wake.set()
        self._thread.join()
        self._segment.close()
        os.close(self._lock)
        left = self._next - 1 - self._durable
        if left:
            raise JournalFailed(f"{left} records could not be written: {self._failure}")

    @property
    def healthy(self) -> bool:
        """False while the disk refuses; True again once everything appended is down."""
        return self._failure is None

    @property
    def failure(self) -> str | None:
        """Why it is not healthy."""
        return self._failure

    @property
    def pending_bytes(self) -> int:
        """About how many bytes are appended and not yet on disk."""
        return self._appended_weight - self._written_weight

    @property
    def pending_records(self) -> int:
        """How many records are appended and not yet on disk."""
        return self._next - 1 - self._durable

    @property
    def written_bytes(self) -> int:
        """Bytes written to segments since open."""
        return self._written_bytes

    @property
    def capture_errors(self) -> int:
        """Records written without their content because capturing it failed."""
        return self._lines.capture_errors

    @property
    def durable(self) -> int:
        """The last sequence number on disk."""
        return self._durable

    def _put(self, record: Record, fill: Fill | None, weight: int) -> int:
        seq = self._next
        self._next = seq + 1
        self._appended_weight += weight
        self._queue.append(_Waiting(seq, record, fill, weight))
        if not self._wake.is_set():
            self._wake.set()
        return seq

    def _answer_waiters(self) -> None:
        """On the loop: release who waits for what is on disk, and if the disk failed, everyone else too."""
        durable, failure = self._durable, self._failure
        kept: deque[tuple[int, asyncio.Future[None]]] = deque()
        for seq, waiter in self._waiters:
            if waiter.done():
                continue
            if seq <= durable:
                waiter.set_result(None)
            elif failure is not None:
                waiter.set_exception(JournalFailed(f"the journal cannot be written: {failure}"))
            else:
                kept.append((seq, waiter))
        self._waiters = kept
        while self._queued and (failure is not None or self._has_room):
            weight, waiter = self._queued.popleft()
            if waiter.done():
                continue
            if failure is not None:
                waiter.set_exception(JournalFailed(f"the journal cannot be written: {failure}"))
            else:
                self._promised += weight
                waiter.set_result(None)

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
                self._drain()
            except OSError as error:
                self._fail(error)
                if not self._retry():
                    return
            if self._closing and not self._queue:
                return

    def _drain(self) -> None:
        """Bring everything queued to disk, batch by batch."""
        while True:
            self._encode_batch()
            if self._unsafe:
                self._save()
            self._tell()
            if not self._queue:
                return

    def _encode_batch(self) -> None:
        size = 0
        while self._queue and size < _BATCH_BYTES:
            waiting = self._queue.popleft()
            line = self._lines.line(waiting.seq, waiting.record, waiting.fill)
            self._unsafe.append(line)
            self._unsafe_last = waiting.seq
            self._unsafe_weight += waiting.weight
            size += len(line)

    def _save(self) -> None:
        """Bring to disk what is not yet safe; ``OSError`` leaves it unsafe."""
        self._written_bytes += self._segment.write(b"".join(self._unsafe))
        self._written_weight += self._unsafe_weight
        self._unsafe_weight = 0
        self._unsafe.clear()
        self._durable = self._unsafe_last

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
                self._segment.cut_back()
                self._encode_batch()
                self._save()
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
        if self._loop is not None and (self._waiters or self._queued):
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(self._answer_waiters)
