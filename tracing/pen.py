"""What brings records to disk: one chain, open for appending. Everything that is queued when it is asked goes down in
one write and one sync. The form of a line is in ``tracing.chain``, the folders in ``tracing.segments``.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec

from tracing import recovery
from tracing.folders import private_folder
from tracing.lines import Fill, LineWriter
from tracing.records import Record, Settled, Started
from tracing.room import JournalClosed
from tracing.segment_file import SegmentFile
from tracing.segments import chain_folder

_BATCH_BYTES = 4 * 1024 * 1024
_LOCK_POLL_SECONDS = 0.02


class Waiting(msgspec.Struct, frozen=True):
    """A record that is to be written; ``weight``: what counts for it until it is on disk."""

    seq: int
    record: Record
    fill: Fill | None
    weight: int


class Pen:
    """Made by :meth:`open`. ``queue`` may be filled by one thread while another one writes; the rest is the writing
    one's. ``durable`` is the last sequence number on disk, ``found`` what the first one was to be when the chain was
    opened, ``next`` the first one that is free after opening."""

    def __init__(self, segment: SegmentFile, tip: recovery.Tip, lock: int) -> None:
        self._segment = segment
        self._lock = lock
        self._lines = LineWriter(tip.head)
        self._unsafe: list[bytes] = []
        self._unsafe_last = tip.next_seq - 1
        self._unsafe_weight = 0
        self.queue: deque[Waiting] = deque()
        self.found = tip.next_seq
        self.next = tip.next_seq
        self.durable = tip.next_seq - 1
        self.written_weight = 0
        self.written_bytes = 0

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        instance: str = "local",
        worker: int = 0,
        fsync: bool = True,
        segment_bytes: int = 64 * 1024 * 1024,
        clock: Callable[[], int] = time.time_ns,
        version: str = "",
        bundle: str = "",
        rollout: str = "",
        resumed: bool = False,
        patience: float = 0.0,
    ) -> Self:
        """Repair, begin a new epoch, and settle what was interrupted; with ``resumed`` nothing was, because whoever
        appends is still the same.

        When it returns, ``started`` is on disk. ``patience``: seconds to wait for another writer to end. Raises
        :class:`JournalClosed` if another process writes this chain, ``OSError`` from the disk, ``ValueError`` for an
        instance name that cannot be a folder.
        """
        folder = private_folder(state_dir, chain_folder(state_dir, instance, worker))
        lock = _lock(folder, patience)
        try:
            tip = recovery.repair(folder, instance, worker)
            interrupted = [] if resumed else tip.interrupted
            pen = cls(SegmentFile(state_dir, folder, tip.epoch, fsync=fsync, segment_bytes=segment_bytes), tip, lock)
            now = clock()
            started = Started(
                time_ns=now,
                instance=instance,
                worker=worker,
                epoch=tip.epoch,
                version=version,
                bundle=bundle,
                rollout=rollout,
                interrupted=len(interrupted),
                torn_bytes=tip.torn_bytes,
                fault=tip.fault,
                resumed=resumed,
            )
            pen.put(started)
            for exchange in interrupted:
                pen.put(Settled(time_ns=now, exchange=exchange, ending="interrupted"))
            pen.write()
        except BaseException:
            os.close(lock)
            raise
        return pen

    @property
    def capture_errors(self) -> int:
        """Records written without their content because capturing it failed."""
        return self._lines.capture_errors

    def put(self, record: Record, fill: Fill | None = None, weight: int = 0) -> int:
        """Queue a record; gives its sequence number."""
        seq = self.next
        self.next = seq + 1
        self.queue.append(Waiting(seq, record, fill, weight))
        return seq

    def write(self, told: Callable[[], None] = lambda: None) -> None:
        """Bring everything queued to disk, batch by batch; ``told`` is called after each. After an ``OSError`` nothing
        is lost, and :meth:`try_again` comes first."""
        while True:
            self._encode_batch()
            if self._unsafe:
                self._save()
            told()
            if not self.queue:
                return

    def try_again(self) -> None:
        """Cut the segment back to what is known to be on disk, and write what is not into a new one."""
        self._segment.cut_back()
        self._encode_batch()
        self._save()

    def close(self) -> None:
        self._segment.close()
        os.close(self._lock)

    def _encode_batch(self) -> None:
        size = 0
        while self.queue and size < _BATCH_BYTES:
            waiting = self.queue.popleft()
            line = self._lines.line(waiting.seq, waiting.record, waiting.fill)
            self._unsafe.append(line)
            self._unsafe_last = waiting.seq
            self._unsafe_weight += waiting.weight
            size += len(line)

    def _save(self) -> None:
        """Bring to disk what is not yet safe; ``OSError`` leaves it unsafe."""
        self.written_bytes += self._segment.write(b"".join(self._unsafe))
        self.written_weight += self._unsafe_weight
        self._unsafe_weight = 0
        self._unsafe.clear()
        self.durable = self._unsafe_last


def _lock(folder: Path, patience: float) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError as error:
            if time.monotonic() < deadline:
                time.sleep(_LOCK_POLL_SECONDS)
                continue
            os.close(lock)
            raise JournalClosed(
                f"another process writes the journal in {folder}; give this one its own instance name"
            ) from error
