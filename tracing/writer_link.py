"""The journal as the serving process has it: a process of its own writes the records (``tracing.writer``).

How to think about it: to append is to encode what was said, as it was said, and to put it with what goes out within
``linger`` seconds, or at once where somebody waits. Nothing that an appender holds is kept or looked at later. Each
record stays here, as bytes, until the writer says that it is on disk; so nothing is lost if the writer is.

What happens when things go wrong is as in ``tracing.journal``: who waits is told, no new exchange is taken while
nothing can be written, and what is appended is bounded. It is the same if the writing process ends: another one is
started, which begins an epoch of its own (``Started.resumed``), says how far the chain had got, and is handed what is
not in it. Where a writer ends twice over the same records, what they hold of the traffic is left out the third time.
If this process is killed, the writer still writes what it was handed, and ends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from serving.frames import BadFrame, Frames, frame
from tracing.captures import CaptureModes
from tracing.chain import without_content
from tracing.drafts import Draft
from tracing.durable_log import DurableLog
from tracing.records import AnyRecord, Record
from tracing.room import FACTS_WEIGHT, JournalClosed, JournalFailed, Room
from tracing.writer import Entry, FromWriter, Order, Ready, Told, Unready
from tracing.writer_process import WriterProcess

_log = logging.getLogger(__name__)

_READ = 64 * 1024
_SEND = 256 * 1024
_ENOUGH = 128 * 1024  # bytes that do not wait for more
_START_SECONDS = 60.0
_DEATHS = 2
_NOTHING = memoryview(b"")
_NO_FORM = (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError)

_word = msgspec.msgpack.Decoder(FromWriter)
_entry = msgspec.msgpack.Decoder(tuple[int, Entry])


class _Sent(msgspec.Struct):
    """A record that is not known to be on disk."""

    number: int
    weight: int
    data: bytes


class WriterLink(DurableLog):
    """One writer's chain, as :class:`tracing.journal.Journal`. Made by :meth:`open`; for one event loop's thread."""

    def __init__(self, order: Order, *, pending_bytes: int, linger: float) -> None:
        super().__init__(Room(pending_bytes, lambda: self._written_weight))
        self._order = order
        self._linger = linger
        self._loop = asyncio.get_running_loop()
        self._next = 0
        self._durable = -1
        self._shift = 0  # from a record's number to the line's
        self._written_weight = 0
        self._written_bytes = self._written_before = 0
        self._capture_errors = self._errors_before = 0
        self._kept: deque[_Sent] = deque()
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._leaving = _NOTHING
        self._stuck = False
        self._timer: asyncio.TimerHandle | None = None
        self._ready = False
        self._deaths = (-1, 0)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._frames = Frames()

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
        modes: CaptureModes | None = None,
        version: str = "",
        bundle: str = "",
        rollout: str = "",
        patience: float = 5.0,
        process: WriterProcess | None = None,
    ) -> Self:
        """Start the writer, if no ``process`` is given, and return when ``started`` is on disk. ``patience``: seconds
        that a writer before it may still need for what it was handed. Blocks; raises as
        :meth:`tracing.journal.Journal.open` does, and :class:`JournalFailed` if the writer cannot be started."""
        order = Order(
            state_dir=str(state_dir),
            instance=instance,
            worker=worker,
            fsync=fsync,
            segment_bytes=segment_bytes,
            version=version,
            bundle=bundle,
            rollout=rollout,
            resumed=False,
            patience=patience,
            retry_seconds=retry_seconds,
            modes=modes or CaptureModes(),
        )
        link = cls(order, pending_bytes=pending_bytes, linger=linger)
        try:
            link._start(process)
            link._wait_ready()
        except BaseException:
            link._leave()
            raise
        link._order = msgspec.structs.replace(order, resumed=True)
        link._listen()
        return link

    # What the event loop calls.

    def append(self, record: Record, draft: Draft | None = None, *, agent: str = "") -> int:
        """Take a record; gives its number in the order of the appends. Does no I/O that waits.

        ``draft`` is the content that ``record`` gets where it is written, as the capture of ``agent`` lets it through.
        Raises as :meth:`tracing.journal.Journal.append` does if the record was *not* taken.
        """
        if self._closing:
            raise JournalClosed("the journal is closed")
        data = self._encoded(record, draft, agent)
        weight = len(data) + FACTS_WEIGHT
        gap = self._room.take(record, weight, self._failure)
        if gap is not None:
            self._put(self._encoded(gap, None, ""), FACTS_WEIGHT)
        return self._put(data, weight)

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._unlisten()
        try:
            if self._connection is None and self._kept:
                self._start()
            if self._connection is not None:
                self._finish(self._connection)
        except (OSError, JournalFailed, JournalClosed) as problem:
            self._failure = self._failure or str(problem)
        process = self._process
        self._leave()
        if process is not None:
            process.wait()
        self._failure = self._failure or ("the journal was closed" if self._waiters else None)
        self._answer_waiters()
        if self.pending_records:
            raise JournalFailed(f"{self.pending_records} records could not be written: {self._failure}")

    @property
    def pending_records(self) -> int:
        return self._next - 1 - self._durable

    @property
    def written_bytes(self) -> int:
        return self._written_before + self._written_bytes

    @property
    def capture_errors(self) -> int:
        return self._errors_before + self._capture_errors

    @property
    def durable(self) -> int:
        return self._durable

    @property
    def writer_pid(self) -> int | None:
        """The writing process, while there is one."""
        return self._process.pid if self._process is not None else None

    # What goes out.

    def _encoded(self, record: Record, draft: Draft | None, agent: str) -> bytes:
        """The record's frame. Of one that has no form on the wire its facts alone, or its kind, time and exchange."""
        try:
            return frame(1, (agent, record, draft))
        except _NO_FORM as error:
            name = type(error).__name__
        self._errors_before += 1
        _log.error("a %s record cannot be handed to the writer whole: %s", type(record).__name__, name)
        try:
            return frame(1, (agent, without_content(record, name), None))
        except _NO_FORM:
            bare = type(record)(time_ns=record.time_ns, exchange=record.exchange, capture_error=name)
            return frame(1, (agent, bare, None))

    def _put(self, data: bytes, weight: int) -> int:
        number = self._next
        self._next = number + 1
        self._kept.append(_Sent(number, weight, data))
        if not self._ready:
            return number
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if self._unsent_bytes >= _ENOUGH:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._linger, self._flush)
        return number

    def _hasten(self) -> None:
        self._flush()

    def _flush(self) -> None:
        """Send what there is, as far as the writer takes it now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        connection = self._connection
        if connection is None or not self._ready:
            return
        try:
            while self._leaving or self._unsent:
                self._leaving = self._leaving or self._parcel()
                sent = connection.send(self._leaving)
                self._leaving = self._leaving[sent:] if sent < len(self._leaving) else _NOTHING
        except BlockingIOError:
            self._loop.add_writer(connection, self._flush)
            self._stuck = True
            return
        except OSError:
            self._lost("its writing process has ended")
            return
        if self._stuck:
            self._loop.remove_writer(connection)
            self._stuck = False

    def _parcel(self) -> memoryview:
        parts, size = [], 0
        while self._unsent and size < _SEND:
            data = self._unsent.popleft()
            parts.append(data)
            size += len(data)
        self._unsent_bytes -= size
        return memoryview(b"".join(parts))

    # What comes in.

    def _hear(self) -> None:
        assert self._connection is not None
        try:
            data = self._connection.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost("its writing process has ended")
            return
        self._understand(data)
        self._answer_waiters()

    def _understand(self, data: bytes) -> None:
        try:
            for _, body in self._frames.feed(data):
                self._heard(_word.decode(body))
        except (BadFrame, msgspec.MsgspecError):
            self._lost("its writing process speaks another language")

    def _heard(self, word: FromWriter) -> None:
        match word:
            case Ready(found, next_seq):
                self._begin(found, next_seq)
            case Told():
                self._written_bytes, self._capture_errors = word.written_bytes, word.capture_errors
                self._acknowledge(word.durable - self._shift)
                self._failure = word.failure
            case Unready(_, reason):
                self._failure = reason

    def _begin(self, found: int, next_seq: int) -> None:
        """A writer goes on: it gets what is not in its chain."""
        if self._order.resumed:
            self._acknowledge(found - 1 - self._shift)
            self._shift = next_seq - (self._durable + 1)
        else:
            self._next, self._durable = next_seq, next_seq - 1
        self._ready = True
        self._stuck = False
        self._leaving = _NOTHING
        self._unsent = deque([sent.data for sent in self._kept])
        self._unsent_bytes = sum(map(len, self._unsent))
        if not self._kept:
            self._failure = None
        if not self._closing:
            self._flush()

    def _acknowledge(self, number: int) -> None:
        """All up to this record are on disk."""
        while self._kept and self._kept[0].number <= number:
            sent = self._kept.popleft()
            self._written_weight += sent.weight
            self._durable = sent.number

    # The process.

    def _start(self, given: WriterProcess | None = None) -> None:
        """Give a writer its order; it is started if none is given."""
        given = given or WriterProcess()
        self._process, self._connection = given.process, given.connection
        self._frames, self._ready = Frames(), False
        self._connection.sendall(frame(0, self._order))

    def _wait_ready(self) -> None:
        """Blocks until the writer has opened the chain; raises what it says."""
        connection = self._connection
        assert connection is not None
        connection.settimeout(_START_SECONDS)
        while not self._ready:
            data = b""
            with suppress(ConnectionResetError):  # it ended before it had read its order
                data = connection.recv(_READ)
            if not data:
                raise JournalFailed("the journal's writing process did not start")
            for _, body in self._frames.feed(data):
                word = _word.decode(body)
                if isinstance(word, Unready):
                    _raise(word)
                self._heard(word)

    def _listen(self) -> None:
        assert self._connection is not None
        self._connection.setblocking(False)
        self._loop.add_reader(self._connection, self._hear)

    def _unlisten(self) -> None:
        if self._connection is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)

    def _lost(self, reason: str) -> None:
        """The writer is gone: who waits is told, and another one is started."""
        if self._connection is None:
            return
        if self._failure is None:
            _log.error("the journal cannot be written: %s", reason)
        self._failure = self._failure or reason
        began = self._ready
        self._unlisten()
        self._leave()
        self._answer_waiters()
        first = self._kept[0].number if self._kept else -1
        count = self._deaths[1] + 1 if first == self._deaths[0] else 1
        if began:
            self._deaths = (first, count)
            if first >= 0 and count >= _DEATHS:
                self._leave_content_out()
        self._loop.call_later(0.0 if began and count == 1 else self._order.retry_seconds, self._start_again)

    def _start_again(self) -> None:
        if self._closing or self._connection is not None:
            return
        try:
            self._start()
        except OSError as problem:
            self._leave()
            self._failure = f"its writing process cannot be started ({problem.strerror or problem})"
            self._loop.call_later(self._order.retry_seconds, self._start_again)
            return
        self._listen()

    def _leave(self) -> None:
        """Let go of the writer: it ends by itself when it has written what it has."""
        self._ready = False
        self._written_before += self._written_bytes
        self._errors_before += self._capture_errors
        self._written_bytes = self._capture_errors = 0
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.poll()
            self._process = None

    def _leave_content_out(self) -> None:
        """What two writers ended over may be in what these records hold of the traffic."""
        for sent in self._kept:
            entry = _entry.decode(sent.data[4:])[1]
            bare: AnyRecord = without_content(entry.record, "WriterEnded")
            sent.data = frame(1, (entry.agent, bare, None))

    def _finish(self, connection: socket.socket) -> None:
        """Hand over what is left, and wait until the writer has ended."""
        connection.settimeout(None)
        while not self._ready:
            data = connection.recv(_READ)
            if not data:
                return
            self._understand(data)
        connection.sendall(b"".join((self._leaving, *self._unsent)))
        self._unsent.clear()
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(_READ):
            self._understand(data)


def _raise(word: Unready) -> None:
    if word.kind == "closed":
        raise JournalClosed(word.reason)
    if word.kind == "name":
        raise ValueError(word.reason)
    raise OSError(word.errno, word.reason)
