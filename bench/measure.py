"""Rounds of cells, one after the other: never two loads at once.

A cell is one load on one target. Its CPU time is that of the target's whole tree of processes, from before the
load until the tree is quiet again, because Interlock's exporter works behind the traffic and what it does later
is a cost as well. Rounds go through all targets in turn, so that a machine which changes its mind changes it for
all; the figure is the median of the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.load import Seen, Task, loaded
from bench.stats import median
from bench.targets import Stage, Target, total
from bench.wire import KINDS, PLAIN, Answers, Kind, Shape

_QUIET_SECONDS = 0.4
_QUIET_SHARE = 0.05  # of one core
_TURNS_AT_MOST = 20_000
_ANY_SIZE = (1, 1 << 40)
_LATENCY_KINDS: tuple[Kind, ...] = ("whole", "stream")


@dataclass(frozen=True, slots=True)
class Tools:
    """What is installed beside Interlock: the ``nginx`` command, an interpreter that has NeMo Guardrails (``no_nemo``
    says why there is none), the ``opa`` command, and the commands that start other proxies, by name."""

    nginx: str | None
    nemo: Path | None
    no_nemo: str = ""
    opa: str | None = None
    rivals: Mapping[str, str] = field(default_factory=dict)


class Options(msgspec.Struct, frozen=True):
    """``catch_up_seconds``: how long a tree may take to become quiet after a load."""

    rounds: int
    seconds: float
    warm_seconds: float
    connections: int
    events: int
    catch_up_seconds: float
    requests: int


class Cell(msgspec.Struct):
    """One load on one target. CPU in µs for one answer: the whole tree, and its first process alone (for
    Interlock: the worker without its exporter). ``decisions``: asked for one answer. ``late``: the tree was
    not quiet in time, so some of its CPU is missing."""

    target: str
    kind: Kind
    rate: float
    answers: int
    wrong: int
    first_wrong: str
    cpu_us: float
    root_cpu_us: float
    rss_mb: float
    decisions: float = 0.0
    checks: float = 0.0
    checks_dropped: float = 0.0
    late: bool = False
    connections: int = 0
    history: int = 0
    events: int = 0


class Latency(msgspec.Struct):
    """To the first byte of the body at concurrency 1, in ms, and what was added to the direct way's."""

    target: str
    kind: Kind
    p50: float
    p99: float
    added_p50: float
    added_p99: float
    count: int


class Row(msgspec.Struct):
    """The median of a target's cells of one kind; ``low`` and ``high`` are the extremes of ``rate``."""

    target: str
    kind: Kind
    rate: float
    low: float
    high: float
    cpu_us: float
    root_cpu_us: float
    rss_mb: float
    decisions: float


def row_of(cells: Sequence[Cell]) -> Row:
    """``cells`` are of one target and kind."""
    rates = [cell.rate for cell in cells]
    return Row(
        target=cells[0].target,
        kind=cells[0].kind,
        rate=median(rates),
        low=min(rates),
        high=max(rates),
        cpu_us=median([cell.cpu_us for cell in cells]),
        root_cpu_us=median([cell.root_cpu_us for cell in cells]),
        rss_mb=max(cell.rss_mb for cell in cells),
        decisions=median([cell.decisions for cell in cells]),
    )


class Measurer:
    """``tell`` is told what is being done."""

    def __init__(self, options: Options, name: str, tell: Callable[[str], None]) -> None:
        self._options = options
        self._answers = Answers(name, options.events)
        self._tell = tell
        self._first = 1

    def warm(self, targets: Sequence[Target], kinds: Sequence[Kind]) -> None:
        """What only the first requests cost (connections, caches, compiled policies) is no part of any cell."""
        for kind in kinds:
            self._load("turns", targets, kind, min(1.0, self._options.seconds))
        for target in targets:
            self.until_quiet(target)

    def rounds(self, targets: Sequence[Target], kinds: Sequence[Kind]) -> list[Cell]:
        cells = []
        for number in range(1, self._options.rounds + 1):
            for kind in kinds:
                for target in targets:
                    self._tell(f"round {number} of {self._options.rounds}: {kind}, {target.name}")
                    cells.append(self.cell(target, kind))
        return cells

    def cell(self, target: Target, kind: Kind, connections: int | None = None, shape: Shape = PLAIN) -> Cell:
        """Load one target, with the connections of the options if no other number is given."""
        began, counted = target.usage(), target.metrics()
        seen = self._load("rate", [target], kind, self._options.seconds, connections, shape)
        quiet = self.until_quiet(target)
        ended, now = target.usage(), target.metrics()

        def counter(name: str, *labels: str) -> float:
            return (total(now, name, *labels) - total(counted, name, *labels)) / max(seen.answers, 1)

        return Cell(
            target=target.name,
            kind=kind,
            rate=seen.rate,
            answers=seen.answers,
            wrong=seen.wrong,
            first_wrong=seen.first_wrong,
            cpu_us=(ended.cpu - began.cpu) * 1e6 / max(seen.answers, 1),
            root_cpu_us=(ended.root_cpu - began.root_cpu) * 1e6 / max(seen.answers, 1),
            rss_mb=ended.rss / 1e6,
            decisions=counter("interlock_decisions_total", 'stage="tool_call"', 'mode="enforce"'),
            checks=counter("interlock_checks_total"),
            checks_dropped=counter("interlock_checks_dropped_total"),
            late=not quiet,
            connections=connections or self._options.connections,
            history=shape.history,
            events=shape.events or self._options.events,
        )

    def numbers(self, count: int) -> int:
        """The first of so many numbers that no request has had."""
        first, self._first = self._first, self._first + count
        return first

    def latencies(self, targets: Sequence[Target], kind: Kind) -> list[Latency]:
        """Ask ``targets``, the first of which is the direct way, in turn."""
        self._tell(f"one request at a time, in turn: {kind}, {', '.join(target.name for target in targets)}")
        seen = self._load("turns", targets, kind, self._options.seconds * 2)
        direct = seen.first_byte[0]
        for target in targets:
            self.until_quiet(target)
        return [
            Latency(target.name, kind, at.p50, at.p99, at.p50 - direct.p50, at.p99 - direct.p99, at.count)
            for target, at in zip(targets, seen.first_byte, strict=True)
        ]

    def _load(
        self,
        mode: str,
        targets: Sequence[Target],
        kind: Kind,
        seconds: float,
        connections: int | None = None,
        shape: Shape = PLAIN,
    ) -> Seen:
        connections = connections or self._options.connections
        task = Task(
            mode="turns" if mode == "turns" else "rate",
            ports=[target.port for target in targets],
            kind=kind,
            connections=connections,
            seconds=seconds,
            warm_seconds=self._options.warm_seconds,
            requests=_TURNS_AT_MOST if mode == "turns" else self._options.requests,
            first=self._first,
            body_bytes=self._body_bytes(kind, shape) if all(t.exact for t in targets) else _ANY_SIZE,
            history=shape.history,
            events=shape.events,
        )
        seen = loaded(task)
        self._first += seen.answers + connections
        return seen

    def _body_bytes(self, kind: Kind, shape: Shape) -> tuple[int, int]:
        """Whole: exactly. Streams: what the events have, and the framing of as many chunks as there may be."""
        if kind == "whole":
            return len(self._answers.whole), len(self._answers.whole)
        if kind == "whole-call":
            size = len(self._answers.whole_call.number(0))
            return size, size
        events = self._answers.stream if kind == "stream" else self._answers.call_events(0)
        if shape.events:
            events = self._answers.long_stream(shape.events)
        size = sum(map(len, events))
        return size, size + 32 * (len(events) + 1)

    def until_quiet(self, target: Target) -> bool:
        """Whether the target's processes came to rest in time."""
        if target.pid is None:
            return True
        deadline = time.monotonic() + self._options.catch_up_seconds
        used = target.usage().cpu
        quiet = 0
        while quiet < 2:
            if time.monotonic() > deadline:
                return False
            time.sleep(_QUIET_SECONDS)
            now = target.usage().cpu
            quiet = quiet + 1 if now - used <= _QUIET_SHARE * _QUIET_SECONDS else 0
            used = now
        return True


class Result(msgspec.Struct):
    """Everything that was seen."""

    cells: list[Cell]
    call_cells: list[Cell]
    nemo_cells: list[Cell]
    latencies: list[Latency]
    notes: list[str]


def measure(stage: Stage, options: Options, name: str, tools: Tools, tell: Callable[[str], None]) -> Result:
    """Start the targets, load them, and give what was seen."""
    measurer = Measurer(options, name, tell)
    notes = []
    direct, bare = stage.direct(), stage.aiohttp()
    interlock = stage.interlock()
    targets = [direct, bare]
    if tools.nginx is not None:
        targets.append(stage.nginx(tools.nginx))
    else:
        notes.append("nginx is not installed (`make bench-tools`)")
    targets += [stage.rival(rival, command) for rival, command in tools.rivals.items()]
    targets.append(interlock)
    measurer.warm(targets, KINDS)
    before = stage.sink_seen()
    cells = measurer.rounds(targets, ["whole", "stream"])
    latencies = [row for kind in _LATENCY_KINDS for row in measurer.latencies(targets, kind)]
    deciding = [direct, bare, interlock]
    if tools.opa is not None:
        deciding.append(stage.interlock("interlock+opa", opa=tools.opa))
        measurer.warm(deciding[-1:], ("whole-call", "stream-call"))
    else:
        notes.append("no `opa` command, so the decisions of an OPA server are not in the table of tool calls")
    call_cells = measurer.rounds(deciding, ["whole-call", "stream-call"])
    after = stage.sink_seen()
    notes.append(
        f"the collector took {after['posts'] - before['posts']} exports, "
        f"{(after['bytes'] - before['bytes']) / 1e6:.0f} MB, from Interlock"
    )
    nemo_cells = []
    if tools.nemo is not None:
        stage.stop(interlock)
        tell("starting Interlock with NeMo Guardrails")
        checked = stage.interlock("interlock+nemo", nemo=tools.nemo)
        measurer.warm([checked], _LATENCY_KINDS)
        nemo_cells = measurer.rounds([checked], ["whole", "stream"])
        latencies += [row for kind in _LATENCY_KINDS for row in measurer.latencies([direct, checked], kind)[1:]]
    else:
        notes.append(tools.no_nemo)
    return Result(cells, call_cells, nemo_cells, latencies, notes)
