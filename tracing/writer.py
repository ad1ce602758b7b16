"""The process that writes one chain of the journal: ``python -m tracing.writer FD``.

How to think about it: what a record holds of the traffic has to be redacted, encoded, hashed and synced, and all of
that would take the interpreter from the event loop, in a thread as well. So the serving process only hands over what
was said (``tracing.writer_link``), and this one, which does nothing else, writes it down. It is told what to do by
the first frame on the socket of that number, takes records until the other side is gone, and writes what it was given
by then. A record's frame says its number, its agent, the record and its draft (``tracing.drafts``); after each write
the other side is told what is on disk.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from serving.frames import BadFrame, Frames, frame
from serving.patterns import shipped_redactor
from tracing.captures import CaptureModes, Captures
from tracing.drafts import Draft
from tracing.pen import Pen
from tracing.records import AnyRecord, Record
from tracing.room import JournalClosed

_log = logging.getLogger(__name__)

_BLOCK = 1024 * 1024


class Order(msgspec.Struct, frozen=True):
    """What to write, where, and how; as :meth:`tracing.pen.Pen.open` has it."""

    state_dir: str
    instance: str
    worker: int
    fsync: bool
    segment_bytes: int
    version: str
    bundle: str
    rollout: str
    resumed: bool
    patience: float
    retry_seconds: float
    modes: CaptureModes


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The chain is open. ``found``: the sequence number that it was to go on with; ``next``: that of the first record
    that comes."""

    found: int
    next: int


class Unready(msgspec.Struct, frozen=True, tag="unready"):
    """It could not be opened. ``kind``: closed (another one writes it), name, or disk."""

    kind: str
    reason: str
    errno: int = 0


class Told(msgspec.Struct, frozen=True, tag="told"):
    """``durable`` is the last sequence number on disk; ``failure`` why nothing more can be written now."""

    durable: int
    written_bytes: int
    capture_errors: int
    failure: str | None = None


FromWriter = Ready | Unready | Told


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A record on its way. ``draft`` is read only where it is filled in: what is wrong with it costs the content, not
    the record."""

    agent: str
    record: AnyRecord
    draft: msgspec.Raw


_entry = msgspec.msgpack.Decoder(Entry)
_draft = msgspec.msgpack.Decoder(Draft | None)


class Writer:
    """Takes frames from ``connection`` and writes them by ``pen``."""

    def __init__(self, connection: socket.socket, pen: Pen, captures: Captures, retry_seconds: float) -> None:
        self._connection = connection
        self._pen = pen
        self._captures = captures
        self._retry_seconds = retry_seconds
        self._failure: str | None = None
        self._next_try = 0.0
        self._told: Told | None = None

    def run(self, frames: Frames) -> bool:
        """Until the other side is gone; whether everything is on disk then."""
        while True:
            data = self._receive()
            if data:
                for _, body in frames.feed(data):
                    self._take(_entry.decode(body))
            over = data == b""
            if over or self._failure is None or time.monotonic() >= self._next_try:
                self._write()
            if over:
                return self._failure is None

    def _receive(self) -> bytes | None:
        """What came; nothing at the end; None where it is time to try the disk again."""
        if self._failure is None:
            self._connection.settimeout(None)
        else:
            self._connection.settimeout(max(self._next_try - time.monotonic(), 0.001))
        try:
            return self._connection.recv(_BLOCK)
        except TimeoutError:
            return None
        except ConnectionError:
            return b""

    def _take(self, entry: Entry) -> None:
        self._pen.put(entry.record, partial(self._fill, entry))

    def _fill(self, entry: Entry) -> Record:
        draft = _draft.decode(entry.draft)
        return entry.record if draft is None else draft.fill(entry.record, self._captures.of(entry.agent))

    def _write(self) -> None:
        try:
            if self._failure is not None:
                self._pen.try_again()
                _log.warning("the journal can be written again")
                self._failure = None
            self._pen.write(self._tell)
        except OSError as error:
            if self._failure is None:
                _log.error("the journal cannot be written: %s", error)
            self._failure = f"{error.strerror or error}"
            self._next_try = time.monotonic() + self._retry_seconds
            self._tell()

    def _tell(self) -> None:
        pen = self._pen
        told = Told(pen.durable, pen.written_bytes, pen.capture_errors, self._failure)
        if told != self._told:
            self._told = told
            _send(self._connection, told)


def _send(connection: socket.socket, word: FromWriter) -> None:
    connection.settimeout(None)
    with suppress(OSError):  # whoever should hear it is gone
        connection.sendall(frame(0, word))


def _open(order: Order) -> Pen | Unready:
    try:
        return Pen.open(
            Path(order.state_dir),
            instance=order.instance,
            worker=order.worker,
            fsync=order.fsync,
            segment_bytes=order.segment_bytes,
            version=order.version,
            bundle=order.bundle,
            rollout=order.rollout,
            resumed=order.resumed,
            patience=order.patience,
        )
    except JournalClosed as problem:
        return Unready("closed", str(problem))
    except ValueError as problem:
        return Unready("name", str(problem))
    except OSError as problem:
        return Unready("disk", problem.strerror or str(problem), problem.errno or 0)


def _order(connection: socket.socket, frames: Frames) -> Order | None:
    """The first thing that is said; None if the other side went without a word."""
    while data := connection.recv(_BLOCK):
        for body in [body for _, body in frames.feed(data)]:
            return msgspec.msgpack.decode(body, type=Order)
    return None


def main(handle: int) -> int:
    """Run as a process; gives its exit code."""
    connection, frames = socket.socket(fileno=handle), Frames()
    redact = shipped_redactor()  # takes longer than all the rest, and may be done before the order comes
    order = _order(connection, frames)
    if order is None:
        return 0
    pen = _open(order)
    if isinstance(pen, Unready):
        _send(connection, pen)
        return 1
    _send(connection, Ready(pen.found, pen.next))
    captures = Captures(order.modes, Path(order.state_dir), redact)
    gc.collect()
    gc.freeze()
    try:
        return 0 if Writer(connection, pen, captures, order.retry_seconds).run(frames) else 1
    except (BadFrame, msgspec.MsgspecError) as error:
        _log.error("what came is no record (%s)", type(error).__name__)
        return 1
    finally:
        pen.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends when its records end
        signal.signal(number, signal.SIG_IGN)
    sys.exit(main(int(sys.argv[1])))
