"""The segment that is being written: what is on disk for certain, and what to do when it is not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tracing.folders import private_folder, sync_folder
from tracing.segments import segment_name


class SegmentFile:
    """The newest segment of one epoch; a new one is begun when it holds ``segment_bytes``."""

    def __init__(self, state_dir: Path, folder: Path, epoch: int, *, fsync: bool, segment_bytes: int) -> None:
        self._state_dir = state_dir
        self._folder = folder
        self._epoch = epoch
        self._fsync = fsync
        self._segment_bytes = segment_bytes
        self._number = 0
        self._file = -1
        self._safe = 0

    def write(self, data: bytes) -> int:
        """Write and (with ``fsync``) sync; gives how many bytes. After an ``OSError`` none of ``data`` counts
        as written, and :meth:`cut_back` comes first."""
        if self._file < 0:
            self._begin()
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        if os.fstat(self._file).st_nlink == 0:
            raise OSError(errno.ENOENT, "the segment was deleted under the journal")
        self._safe += len(data)
        if self._safe >= self._segment_bytes:
            self.close()
        return len(data)

    def cut_back(self) -> None:
        """Take off what may have been written of a failed write, and leave the segment; the next write begins
        another."""
        if self._file >= 0:
            os.ftruncate(self._file, self._safe)
            self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _begin(self) -> None:
        private_folder(self._state_dir, self._folder)
        self._number += 1
        path = self._folder / segment_name(self._epoch, self._number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        if self._fsync:
            flags |= os.O_DSYNC  # each write is its fdatasync: one wait without the interpreter lock, not two
        self._file = os.open(path, flags, 0o600)
        self._safe = 0
        if self._fsync:
            sync_folder(self._folder)
