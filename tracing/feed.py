"""From the journal's records to whole exchanges, with a place that can be remembered.

Each sink has a feed of its own, so that one that is down holds no other. A feed reads on only when its sink
has taken what it read before: what waits, waits on the disk, not in memory.

The place is how far each chain was read, and where the exchanges begin that were read in part. A feed that
starts again there reads from the earliest of these beginnings, and up to the place takes only what belongs to
them. So nothing is left out, and nothing comes twice but what was handed out and never marked as done.

A long request whose answer flows for minutes is not kept meanwhile: its content is read again when it is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tracing.chain import without_content
from tracing.exchange import Exchange
from tracing.records import Alerted, Checked, Opened
from tracing.segments import Entry, read_at
from tracing.tail import Position, Tail

_FAR_BYTES = 8 * 1024 * 1024
_LONG_BYTES = 8 * 1024


class Beginning(msgspec.Struct, frozen=True):
    """Where the first record of an unfinished exchange stands."""

    chain: str
    position: Position


class Place(msgspec.Struct, frozen=True):
    """What a feed remembers: it can go on from here as if it had never stopped."""

    read: dict[str, Position] = {}
    unfinished: dict[str, Beginning] = {}


class Batch(msgspec.Struct, frozen=True):
    """What is ready to be sent: finished exchanges, checks that came after theirs was sent, alerts."""

    exchanges: list[Exchange]
    late_checks: list[Checked]
    alerts: list[Alerted]

    def __bool__(self) -> bool:
        return bool(self.exchanges or self.late_checks or self.alerts)


class _Growing(msgspec.Struct):
    """``left_in``: the file that has the content of ``opened``, once it is not kept here."""

    exchange: Exchange
    beginning: Beginning
    checks_missing: int = 0
    left_in: Path | None = None


class Feed:
    """The journal below ``state_dir`` from ``place`` on.

    An exchange is finished when it is settled and the checks that were still out have come, at the latest
    ``grace_seconds`` later. Without a place (a sink that is new), what is older than ``backfill_seconds`` is
    passed over. With ``alerts_only`` a batch holds nothing else.
    """

    def __init__(
        self,
        state_dir: Path,
        place: Place | None,
        *,
        grace_seconds: float = 10.0,
        backfill_seconds: float = 86400.0,
        clock: Callable[[], int] = time.time_ns,
        limit_bytes: int = 4 * 1024 * 1024,
        alerts_only: bool = False,
    ) -> None:
        self._clock = clock
        self._grace_ns = int(grace_seconds * 1e9)
        self._oldest_ns = 0 if place else clock() - int(backfill_seconds * 1e9)
        self._limit = limit_bytes
        place = place or Place()
        self._resumed = {chain: position.order() for chain, position in place.read.items()}
        self._wanted = set(place.unfinished)
        self._growing: dict[str, _Growing] = {}
        self._long: dict[str, Path] = {}
        starts = dict(place.read)
        for beginning in place.unfinished.values():
            at = starts.get(beginning.chain, beginning.position)
            starts[beginning.chain] = min(at, beginning.position, key=Position.order)
        self._tail = Tail(state_dir, starts, "alerted" if alerts_only else None)
        self._before = self._tail.positions

    def read(self) -> Batch:
        """What is new and ready; an empty batch if nothing is."""
        batch = Batch([], [], [])
        for entry in self._tail.read(self._limit):
            if not self._known(entry):
                self._take(entry, batch)
        now = self._clock()
        for growing in list(self._growing.values()):
            settled = growing.exchange.settled
            if settled is not None and (growing.checks_missing <= 0 or now - settled.time_ns >= self._grace_ns):
                self._finish(growing, batch)
        self._leave_content()
        return batch

    def place(self) -> Place:
        """To be remembered once everything that ``read`` gave is delivered."""
        unfinished = {name: growing.beginning for name, growing in self._growing.items()}
        self._before = self._tail.positions
        return Place(self._before, unfinished)

    def far_ahead(self) -> bool:
        """Whether so much was read since the last ``place`` that to read it again would be work."""
        now = self._tail.positions
        return any(
            (before := self._before.get(chain)) is None
            or before.file != at.file
            or at.offset - before.offset > _FAR_BYTES
            for chain, at in now.items()
        )

    def _known(self, entry: Entry) -> bool:
        """Whether an earlier life of this feed has taken the entry to its end."""
        before = self._resumed.get(entry.chain)
        if before is None:
            return False
        if Position(entry.file.name, entry.offset, 0).order() < before:
            return isinstance(entry.record, Alerted) or entry.record.exchange not in self._wanted
        del self._resumed[entry.chain]
        return False

    def _take(self, entry: Entry, batch: Batch) -> None:
        record = entry.record
        if isinstance(record, Alerted):
            if record.time_ns >= self._oldest_ns:
                batch.alerts.append(record)
            return
        growing = self._growing.get(record.exchange)
        if growing is None:
            if isinstance(record, Checked):
                batch.late_checks.append(record)
            if not isinstance(record, Opened):
                return
            at = Position(entry.file.name, entry.offset, entry.seq - 1)
            growing = _Growing(Exchange(record.exchange), Beginning(entry.chain, at))
            self._growing[record.exchange] = growing
            if entry.size > _LONG_BYTES:
                self._long[record.exchange] = entry.file
        elif isinstance(record, Checked) and growing.exchange.settled is not None:
            growing.checks_missing -= 1
        growing.exchange.add(record)
        if growing.exchange.settled is record:
            growing.checks_missing = growing.exchange.settled.checks_pending

    def _leave_content(self) -> None:
        """Of what was read just now and is not over, the long content stays in its file."""
        for name, file in self._long.items():
            growing = self._growing.get(name)
            if growing is not None and growing.exchange.opened is not None:
                growing.exchange.opened = without_content(growing.exchange.opened)
                growing.left_in = file
        self._long.clear()

    def _finish(self, growing: _Growing, batch: Batch) -> None:
        del self._growing[growing.exchange.id]
        if growing.left_in is not None and growing.exchange.opened is not None:
            again = read_at(growing.left_in, growing.beginning.position.offset)
            if isinstance(again, Opened) and again.exchange == growing.exchange.id:
                growing.exchange.opened = again
            else:
                growing.exchange.opened = without_content(growing.exchange.opened, "not to be read any more")
        opened = growing.exchange.opened
        if opened is not None and opened.time_ns >= self._oldest_ns:
            batch.exchanges.append(growing.exchange)
