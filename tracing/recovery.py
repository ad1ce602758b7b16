"""What a writer finds when it opens its chain again: the tip to go on from, and what was left open.

A crash leaves two things behind: bytes after the last newline, which are cut off (nobody was told that they
are on disk), and exchanges that were opened and never settled. Anything else that is wrong with the last
lines did not come from a crash of ours: it is left as it stands for ``audit verify``, and noted.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import groupby
from pathlib import Path

import msgspec

from tracing.chain import LineFault, Parts, check_line, genesis
from tracing.segments import lines, place_of, segments


class Tip(msgspec.Struct, frozen=True):
    """Where the new epoch begins: its number, its first sequence number, the hash that it links to; what
    was interrupted, in the order of opening; and what was repaired."""

    epoch: int
    next_seq: int
    head: str
    interrupted: list[str]
    torn_bytes: int = 0
    fault: str | None = None


class _Glance(msgspec.Struct):
    type: str
    exchange: str = ""
    ending: str = ""
    interrupted: int = 0
    resumed: bool = False


class _GlanceLine(msgspec.Struct):
    seq: int
    hash: str
    record: _Glance


_glance = msgspec.json.Decoder(_GlanceLine)
_TYPES_OF_INTEREST = (b'"record":{"type":"opened"', b'"record":{"type":"settled"')


def repair(folder: Path, instance: str, worker: int) -> Tip:
    """Cut an unfinished last line off the newest segment, and say where to go on."""
    files = segments(folder)
    if not files:
        return Tip(epoch=1, next_seq=0, head=genesis(instance, worker), interrupted=[])
    torn = _cut_torn_line(files[-1])
    last, fault = _last_line(files)
    return Tip(
        epoch=place_of(files[-1])[0] + 1,
        next_seq=0 if last is None else last.seq + 1,
        head=genesis(instance, worker) if last is None else last.hash,
        interrupted=interrupted(files),
        torn_bytes=torn,
        fault=fault,
    )


def _cut_torn_line(segment: Path) -> int:
    """Truncate to the last newline; gives how many bytes went."""
    whole = 0
    for _, offset, line in lines(segment):
        whole = offset + len(line)
    torn = segment.stat().st_size - whole
    if torn:
        with segment.open("r+b") as stream:
            stream.truncate(whole)
            os.fsync(stream.fileno())
    return torn


def _last_line(files: list[Path]) -> tuple[Parts | None, str | None]:
    """The newest line that is sound, and what was wrong with those after it."""
    fault = None
    for segment in reversed(files):
        for number, _, line in reversed(deque(lines(segment), maxlen=64)):
            try:
                return check_line(line), fault
            except LineFault as error:
                fault = fault or f"{segment.name} line {number}: {error}"
    return None, fault


def interrupted(files: list[Path]) -> list[str]:
    """Exchanges that no epoch settled. An epoch whose opening is whole has settled all before it."""
    epochs = [list(group) for _, group in groupby(files, key=lambda path: place_of(path)[0])]
    first = len(epochs) - 1
    while first > 0 and not _opening_is_whole(epochs[first]):
        first -= 1
    unsettled: dict[str, None] = {}
    for segment in (segment for epoch in epochs[first:] for segment in epoch):
        for _, _, line in lines(segment):
            if not line.startswith(_TYPES_OF_INTEREST, line.find(b'"record":')):
                continue
            record = _look(line)
            if record is None or not record.exchange:
                continue
            if record.type == "opened":
                unsettled[record.exchange] = None
            else:
                unsettled.pop(record.exchange, None)
    return list(unsettled)


def _opening_is_whole(epoch: list[Path]) -> bool:
    """Whether the epoch's ``started`` is followed by as many interrupted exchanges as it says. One that was resumed
    has settled nothing of what was before it."""
    expected: int | None = None
    for segment in epoch:
        for _, _, line in lines(segment):
            record = _look(line)
            if expected is None:
                if record is None or record.type != "started" or record.resumed:
                    return False
                expected = record.interrupted
            elif record is None or record.ending != "interrupted":
                return False
            else:
                expected -= 1
            if expected == 0:
                return True
    return False


def _look(line: bytes) -> _Glance | None:
    try:
        return _glance.decode(line).record
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
