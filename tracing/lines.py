"""Records into lines, in the journal's writing thread: nothing that a record holds may break the chain."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from serving.text import printable
from tracing.chain import without_content, write_line
from tracing.records import Record

_log = logging.getLogger(__name__)

_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)

Fill = Callable[[], Record]


class LineWriter:
    """Writes the next line of one chain; ``head`` is the hash of the line before."""

    def __init__(self, head: str) -> None:
        self._head = head
        self.capture_errors = 0

    def line(self, seq: int, record: Record, fill: Fill | None) -> bytes:
        """The record's line, with the content that ``fill`` gives. If that fails, or cannot be JSON, the
        record's facts alone; if these cannot, its kind, time and exchange."""
        whole = record
        if fill is not None:
            try:
                whole = fill()
            except Exception as error:  # whatever a fill does: its content is lost, the record is not
                whole = self._without_content(record, error)
        try:
            return self._write(seq, whole)
        except _UNWRITABLE as error:
            facts = self._without_content(whole, error)
        try:
            return self._write(seq, facts)
        except _UNWRITABLE as error:
            bare = type(facts)(time_ns=facts.time_ns, exchange=printable(facts.exchange, 80))
            return self._write(seq, self._without_content(bare, error))

    def _write(self, seq: int, record: Record) -> bytes:
        line, self._head = write_line(seq, self._head, record)
        return line

    def _without_content(self, record: Record, error: Exception) -> Record:
        self.capture_errors += 1
        _log.error("capture of a %s record failed: %s", type(record).__name__, type(error).__name__)
        return without_content(record, type(error).__name__)
