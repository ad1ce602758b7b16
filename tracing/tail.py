"""Following the journal while it grows: from a remembered place, across segments, epochs and new writers."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from tracing.chain import LineFault, read_line
from tracing.segments import Chain, Entry, chains, place_of, segments

_log = logging.getLogger(__name__)


class Position(msgspec.Struct, frozen=True):
    """A byte of a chain: ``offset`` in the segment ``file`` (its name). ``seq`` is the last sequence number
    before it."""

    file: str
    offset: int
    seq: int

    def order(self) -> tuple[int, int, int]:
        """Sorts as the chain goes."""
        return (*place_of(Path(self.file)), self.offset)


class Tail:
    """Every chain below a state folder, read from ``starts`` (chain name → position; else its beginning).
    ``only``: records of this type alone; all others are passed over without a look into them."""

    def __init__(self, state_dir: Path, starts: dict[str, Position], only: str | None = None) -> None:
        self._state_dir = state_dir
        self._only = None if only is None else b'"record":{"type":"%s"' % only.encode()
        self._positions = dict(starts)

    @property
    def positions(self) -> dict[str, Position]:
        """Behind the last record that was given out, per chain."""
        return dict(self._positions)

    def read(self, limit_bytes: int) -> list[Entry]:
        """What has been written since, about ``limit_bytes`` per chain at most; [] if nothing is new."""
        found: list[Entry] = []
        for chain in chains(self._state_dir):
            found += self._read_chain(chain, limit_bytes)
        return found

    def _read_chain(self, chain: Chain, room: int) -> list[Entry]:
        found: list[Entry] = []
        position = self._positions.get(chain.name)
        files = segments(chain.folder)
        if position is not None:
            here = place_of(Path(position.file))
            files = [file for file in files if place_of(file) >= here]
        for file in files:
            offset = position.offset if position is not None and position.file == file.name else 0
            seq = -1 if position is None else position.seq
            for at, line in _whole_lines(file, offset, room):
                room -= len(line)
                entry = self._entry(chain.name, file, at, line)
                if entry is not None and entry.seq > seq:  # else written again after a disk error
                    found.append(entry)
                    seq = entry.seq
                position = Position(file.name, at + len(line), seq)
            position = position or Position(file.name, 0, seq)
            if room <= 0:
                break
        if position is not None:
            self._positions[chain.name] = position
        return found

    def _entry(self, chain: str, file: Path, offset: int, line: bytes) -> Entry | None:
        if self._only is not None and not line.startswith(self._only, line.find(b'"record":')):
            return None
        try:
            read = read_line(line)
        except LineFault as fault:
            _log.warning("%s, byte %d: %s; left out (interlock audit verify)", file.name, offset, fault)
            return None
        return Entry(chain, file, 0, offset, read.seq, read.record, len(line))


def _whole_lines(file: Path, offset: int, room: int) -> list[tuple[int, bytes]]:
    """(offset, line) from ``offset`` on; one line at least, if there is a whole one."""
    found = []
    with file.open("rb") as stream:
        stream.seek(offset)
        while room > 0 and (line := stream.readline()).endswith(b"\n"):
            found.append((offset, line))
            offset += len(line)
            room -= len(line)
    return found
