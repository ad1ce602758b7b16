"""Histories that wait for a tool call: in memory while they are short, else in one file that has no name.

Of a request that is on its way to the model server only this stays: its messages and what its tools are called, as one
piece of bytes. Up to :data:`IN_MEMORY` bytes of it wait in memory, so that thousands of open streams with long
histories cost what as many with short ones do. The file is in the state folder, which nobody else may read, and is
removed from it at once: it is gone with the process. Its blocks are used again; where it cannot be written, memory is
used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from pathlib import Path

import msgspec

from policies.facts.naming import READ
from serving.wire.request import ChatRequest, SentMessage, SentTool

IN_MEMORY = 32 * 1024
BLOCK = 64 * 1024

_log = logging.getLogger(__name__)


class History(msgspec.Struct, frozen=True):
    """What the model had seen, and what the tools were said to be (their parameters are left out)."""

    messages: tuple[SentMessage, ...]
    tools: tuple[SentTool, ...]


_decoder = msgspec.msgpack.Decoder(History)


class Spool:
    """The file of one process, made when it is first needed. Safe for threads."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: int | None = None
        self._free: list[int] = []
        self._blocks = 0
        self._lock = threading.Lock()

    def keep(self, request: ChatRequest) -> KeptHistory:
        """What later facts need of a request that was judged."""
        tools = [SentTool(tool.name, tool.description and tool.description[:READ]) for tool in request.tools]
        history = History(request.messages, tuple(tools))
        try:
            data = msgspec.msgpack.encode(history)
        except UnicodeEncodeError:  # half a surrogate pair has no bytes
            return KeptHistory(self, history, (), 0)
        if len(data) <= IN_MEMORY:
            return KeptHistory(self, data, (), len(data))
        try:
            return KeptHistory(self, None, self._write(data), len(data))
        except OSError as error:
            _log.warning("histories are kept in memory: the spool file cannot be written (%s)", error)
            return KeptHistory(self, data, (), len(data))

    def _write(self, data: bytes) -> tuple[int, ...]:
        count = -(-len(data) // BLOCK)
        with self._lock:
            if self._file is None:
                self._file = self._open()
            reused = min(count, len(self._free))
            blocks = [self._free.pop() for _ in range(reused)]
            blocks += range(self._blocks, self._blocks + count - reused)
            self._blocks += count - reused
            file = self._file
        view = memoryview(data)
        try:
            for nth, block in enumerate(blocks):
                part = view[nth * BLOCK : (nth + 1) * BLOCK]
                if os.pwrite(file, part, block * BLOCK) != len(part):
                    raise OSError("a block was written in part")
        except OSError:
            self.free(blocks)
            raise
        return tuple(blocks)

    def _open(self) -> int:
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file, name = tempfile.mkstemp(prefix="spool-", dir=self._folder)
        Path(name).unlink()
        return file

    def read(self, blocks: tuple[int, ...], size: int) -> bytes:
        assert self._file is not None
        parts = [os.pread(self._file, BLOCK, block * BLOCK) for block in blocks]
        return b"".join(parts)[:size]

    def free(self, blocks: tuple[int, ...] | list[int]) -> None:
        with self._lock:
            self._free += blocks
            if len(self._free) == self._blocks and self._file is not None:
                self._free.clear()
                self._blocks = 0
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, 0)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None


class KeptHistory:
    """One history, until :meth:`release`."""

    __slots__ = ("_blocks", "_held", "_spool", "size")

    def __init__(self, spool: Spool, held: bytes | History | None, blocks: tuple[int, ...], size: int) -> None:
        self._spool = spool
        self._held = held
        self._blocks = blocks
        self.size = size

    def read(self) -> History:
        """It again. Not after :meth:`release`."""
        if isinstance(self._held, History):
            return self._held
        return _decoder.decode(self._held if self._held is not None else self._spool.read(self._blocks, self.size))

    def release(self) -> None:
        self._held = None
        blocks, self._blocks = self._blocks, ()
        if blocks:
            self._spool.free(blocks)

    def __del__(self) -> None:
        self.release()
