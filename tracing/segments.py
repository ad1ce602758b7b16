"""Where the journal lies, and reading it back in order, also while it grows.

    <state>/journal/<instance>/w<worker>/e<epoch>-s<segment>.jsonl

One folder per writer, one epoch per start of that writer, one segment per ``segment_bytes``; epoch and
segment have six digits, so that the order of names is the order of the chain. Only whole lines are read: the
bytes after the last newline belong to a write under way or to a crash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tracing.chain import LineFault, read_line
from tracing.records import AnyRecord

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SEGMENT = re.compile(r"e(\d{6,})-s(\d{6,})\.jsonl")
_WORKER = re.compile(r"w(\d+)")
_BLOCK = 1024 * 1024


class Chain(msgspec.Struct, frozen=True, order=True):
    """One writer's chain."""

    instance: str
    worker: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.instance}/w{self.worker}"


class Entry(msgspec.Struct, frozen=True):
    """One record, and where it stands: ``line`` counts from 1 in ``file`` (0 where a tail began later),
    ``offset`` is the line's first byte, ``size`` how many it has (0: not said)."""

    chain: str
    file: Path
    line: int
    offset: int
    seq: int
    record: AnyRecord
    size: int = 0


class ReadFault(msgspec.Struct, frozen=True):
    """A line that could not be read; readers go on behind it, ``audit verify`` says what it is."""

    file: Path
    line: int
    reason: str


def check_instance(instance: str) -> str:
    """The name of an instance, as it may stand in a path; ValueError else."""
    if not _NAME.fullmatch(instance):
        raise ValueError(f"instance name {instance!r}: expected 1-64 of letters, digits, '_', '.', '-'")
    return instance


def chain_folder(state_dir: Path, instance: str, worker: int) -> Path:
    return state_dir / "journal" / check_instance(instance) / f"w{worker}"


def chains(state_dir: Path) -> list[Chain]:
    """All writers that have a folder, by name."""
    root = state_dir / "journal"
    found = []
    for instance in root.iterdir() if root.is_dir() else ():
        for folder in instance.iterdir() if instance.is_dir() else ():
            if match := _WORKER.fullmatch(folder.name):
                found.append(Chain(instance.name, int(match[1]), folder))
    return sorted(found)


def segment_name(epoch: int, segment: int) -> str:
    return f"e{epoch:06d}-s{segment:06d}.jsonl"


def place_of(segment: Path) -> tuple[int, int]:
    """(epoch, segment) of a segment file."""
    match = _SEGMENT.fullmatch(segment.name)
    if match is None:
        raise ValueError(f"{segment.name} is not a segment's name")
    return int(match[1]), int(match[2])


def segments(folder: Path) -> list[Path]:
    """The segments of one chain in order."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _SEGMENT.fullmatch(path.name)), key=place_of)


def lines(segment: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number, offset, bytes with newline) of every whole line."""
    offset = 0
    with segment.open("rb", buffering=_BLOCK) as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            yield number, offset, line
            offset += len(line)


def read(state_dir: Path, faults: list[ReadFault] | None = None, since_ns: int = 0) -> Iterator[Entry]:
    """Every record of every chain, chain by chain, each in its order; unreadable lines go to ``faults``. Segments that
    were written to the last time before ``since_ns`` (nanoseconds since the epoch) are passed over."""
    for chain in chains(state_dir):
        for segment in segments(chain.folder):
            if segment.stat().st_mtime_ns >= since_ns:
                yield from read_segment(chain.name, segment, faults)


def read_segment(chain: str, segment: Path, faults: list[ReadFault] | None = None) -> Iterator[Entry]:
    for number, offset, line in lines(segment):
        try:
            found = read_line(line)
        except LineFault as fault:
            if faults is not None:
                faults.append(ReadFault(segment, number, str(fault)))
            continue
        yield Entry(chain, segment, number, offset, found.seq, found.record, len(line))


def read_at(segment: Path, offset: int) -> AnyRecord | None:
    """The record whose line begins at ``offset``; None if there is none any more."""
    try:
        with segment.open("rb") as stream:
            stream.seek(offset)
            return read_line(stream.readline()).record
    except (OSError, LineFault):
        return None
