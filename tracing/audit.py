"""Whether the journal is whole: offline, from the files alone.

``verify`` walks every chain from its genesis and holds each line against three things: its own hash and
seal, the line before it, and the name of the file that it stands in. It goes on behind a fault, so that one
changed byte is one finding with a place, not the end of the answer.

What a chain without outside witnesses cannot show is said with every report (``UNPROVEN``). Whoever notes
down the head of a chain (its last sequence number and hash, printed by every verify) has a witness: given
back later, it must still be found.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tracing.chain import LineFault, Parts, check_line, genesis, read_line
from tracing.records import Started
from tracing.segments import Chain, chains, place_of, segments

UNPROVEN = (
    "Removal of the newest records of a chain, or of a whole chain, does not show: there are no signed "
    "checkpoints and no witnesses yet. Heads that you noted down elsewhere can be checked (--head).",
    "Someone who can write the state folder can write a whole chain anew, with hashes that fit.",
    "The chain shows what was written and in which order, not that it was true when it was written.",
)


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where: ``line`` counts from 1 (0: the file as a whole)."""

    file: Path
    line: int
    seq: int | None
    what: str


class ChainReport(msgspec.Struct):
    """One writer's chain: how much was looked at, and its head."""

    chain: str
    segments: int = 0
    epochs: int = 0
    records: int = 0
    last_seq: int = -1
    head: str = ""
    first_ns: int = 0
    last_ns: int = 0
    note: str | None = None


class Report(msgspec.Struct):
    """The answer of :func:`verify`; sound if ``faults`` is empty."""

    chains: list[ChainReport]
    faults: list[Fault]


class Head(msgspec.Struct, frozen=True):
    """A head that somebody noted down: this chain had this hash at this sequence number."""

    chain: str
    seq: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> Head:
        """From ``instance/wN:seq:hash`` as verify prints it (the hash may be shortened to 16 digits)."""
        chain, _, rest = text.partition(":")
        seq, _, digest = rest.partition(":")
        if not chain or not seq.isdecimal() or len(digest) < 16:
            raise ValueError(f"{text!r}: expected instance/wN:sequence:hash with 16 digits of the hash or more")
        return cls(chain, int(seq), digest.lower())


def verify(state_dir: Path, heads: list[Head] | None = None) -> Report:
    """Check every chain below ``state_dir``. ``OSError`` if files cannot be read."""
    report = Report([], [])
    wanted = {(head.chain, head.seq): head for head in heads or ()}
    for chain in chains(state_dir):
        walk = _Walk(chain, wanted)
        report.chains.append(walk.report)
        report.faults += walk.run()
    known = {chain.chain for chain in report.chains}
    for head in wanted.values():
        where = "is not there any more" if head.chain in known else "is missing as a whole chain"
        report.faults.append(
            Fault(state_dir / "journal" / head.chain, 0, head.seq, f"the noted head {where}: records were removed")
        )
    return report


class _Walk:
    """One chain, line by line. ``_expected`` is the next sequence number; ``_anchor`` the hash that it must
    link to, None behind a line whose hash cannot be relied on."""

    def __init__(self, chain: Chain, wanted: dict[tuple[str, int], Head]) -> None:
        self.report = ChainReport(chain=chain.name)
        self._chain = chain
        self._wanted = wanted
        self._expected = 0
        self._anchor: str | None = genesis(chain.instance, chain.worker)
        self._before: Path | None = None
        self._missing: dict[int, int] = {}  # sequence number -> index of the fault that calls it missing
        self._faults: list[Fault] = []

    def run(self) -> list[Fault]:
        files = segments(self._chain.folder)
        self.report.segments = len(files)
        self.report.epochs = len({place_of(file)[0] for file in files})
        for file in files:
            tail = b""
            number = 0
            with file.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    if line.endswith(b"\n"):
                        self._line(file, number, line)
                    else:
                        tail = line
            if tail:
                self._tail(file, number, tail, newest=file == files[-1])
            self._before = file
        return self._faults

    def _line(self, file: Path, number: int, line: bytes) -> None:
        try:
            parts = check_line(line)
            record = read_line(line).record
        except LineFault as fault:
            self._faults.append(Fault(file, number, self._expected, str(fault)))
            self._expected += 1
            self._anchor = None
            return
        self.report.records += 1
        if parts.seq < self._expected:
            self._out_of_place(file, number, parts.seq)
            return
        if parts.seq > self._expected:
            self._removed(file, number, parts.seq)
        elif self._anchor is not None and parts.prev != self._anchor:
            self._faults.append(
                Fault(file, number, parts.seq, "does not link to the record before it: one of both was replaced")
            )
        if isinstance(record, Started):
            self._started(file, number, record, parts.seq)
        self._go_on(parts, record.time_ns)

    def _go_on(self, parts: Parts, time_ns: int) -> None:
        self._expected = parts.seq + 1
        self._anchor = parts.hash
        self.report.last_seq = parts.seq
        self.report.head = parts.hash
        self.report.first_ns = self.report.first_ns or time_ns
        self.report.last_ns = time_ns
        noted = self._wanted.get((self._chain.name, parts.seq))
        if noted is not None and parts.hash.startswith(noted.hash):
            del self._wanted[self._chain.name, parts.seq]

    def _removed(self, file: Path, number: int, seq: int) -> None:
        first, last = self._expected, seq - 1
        which = f"record {first} was" if first == last else f"records {first} to {last} were"
        where = ""
        if number == 1:
            where = f" between {self._before.name} and {file.name}" if self._before else " before the first segment"
            where += " (a segment or its end)"
        for gone in range(first, min(last, first + 1000) + 1):
            self._missing[gone] = len(self._faults)
        self._faults.append(Fault(file, number, first, f"{which} removed{where}"))

    def _out_of_place(self, file: Path, number: int, seq: int) -> None:
        if seq not in self._missing:
            self._faults.append(Fault(file, number, seq, "stands here a second time"))
            return
        index = self._missing.pop(seq)
        if index not in self._missing.values():
            told = self._faults[index]
            self._faults[index] = Fault(told.file, told.line, told.seq, f"record {told.seq} does not stand before it")
        self._faults.append(Fault(file, number, seq, "stands out of place: records were swapped"))

    def _started(self, file: Path, number: int, record: Started, seq: int) -> None:
        here = (self._chain.instance, self._chain.worker, place_of(file)[0])
        if (record.instance, record.worker, record.epoch) != here:
            self._faults.append(
                Fault(
                    file,
                    number,
                    seq,
                    f"belongs to {record.instance}/w{record.worker} epoch {record.epoch}: "
                    "the file was renamed or put here",
                )
            )

    def _tail(self, file: Path, number: int, tail: bytes, *, newest: bool) -> None:
        """Bytes after the last newline: a write under way or a crash leaves only the beginning of a line."""
        begun = b'{"seq":%d,' % self._expected
        if _whole(tail[:-1]) or not newest or not (begun.startswith(tail) or tail.startswith(begun)):
            self._faults.append(Fault(file, number, self._expected, "the last line was changed"))
            return
        self.report.note = (
            f"{file.name} ends in an unfinished line of {len(tail)} bytes: it is being written, or a crash left it "
            "(the next start cuts it off)"
        )


def _whole(line: bytes) -> bool:
    try:
        check_line(line + b"\n")
    except LineFault:
        return False
    return True
