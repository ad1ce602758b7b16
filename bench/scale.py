"""How costs grow: with connections, with the length of answers and requests, and with streams that stay open.

``python -m bench --scale``. Each table has the targets side by side in one run; memory is that of a target's whole tree
of processes, taken while its streams are open, less what it was before.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from bench.measure import Cell, Measurer
from bench.paced import Paced, Task
from bench.targets import ROOT, Target
from bench.wire import Shape

CONNECTIONS = (1, 16, 256, 1000)
EVENTS = (200, 2000, 20_000)
HISTORIES = (0, 16 * 1024, 128 * 1024, 1024 * 1024)
_FEW = 4  # connections where lengths are compared


class Plan(msgspec.Struct, frozen=True):
    """``streams`` flow for ``seconds``, one event of each in ``pace_ms``; ``large`` of them ask with 1 MB."""

    streams: int = 1000
    large: int = 100
    pace_ms: int = 50
    seconds: float = 6.0
    ramp_seconds: float = 4.0


class Open(msgspec.Struct):
    """A target with its streams open. ``kb`` is memory per open stream, ``idle_mb`` what the target had before;
    ``cores`` what it used of the CPU meanwhile. Delays are in ms; ``added`` is the difference to the direct way's."""

    target: str
    streams: int
    history: int
    paced: Paced
    idle_mb: float
    kb: float
    cores: float
    added_p50: float
    added_p99: float


class Scale(msgspec.Struct):
    connections: list[Cell]
    lengths: list[Cell]
    open: list[Open]
    slow_reader_kb: dict[str, float]


def scale(measurer: Measurer, targets: Sequence[Target], plan: Plan, tell: Callable[[str], None]) -> Scale:
    """``targets``: the direct way first."""
    connections, lengths = [], []
    for kind in ("whole", "stream"):
        for number in CONNECTIONS:
            for target in targets:
                tell(f"{number} connections: {kind}, {target.name}")
                connections.append(measurer.cell(target, kind, number))
    for shape in [Shape(events=n) for n in EVENTS] + [Shape(history=n) for n in HISTORIES]:
        for target in targets[1:]:
            tell(f"lengths: {shape.events} events, {shape.history} bytes of history, {target.name}")
            lengths.append(measurer.cell(target, "stream" if shape.events else "whole", _FEW, shape))
    opened = []
    for streams, history in ((plan.streams, 0), (plan.large, 1024 * 1024)):
        direct: Paced | None = None
        for target in targets:
            tell(f"{streams} paced streams, {history} bytes of history, {target.name}")
            one = _open(measurer, target, plan, streams, history)
            direct = direct or one.paced
            one.added_p50, one.added_p99 = one.paced.p50 - direct.p50, one.paced.p99 - direct.p99
            opened.append(one)
    slow = {target.name: _slow_reader(measurer, target, tell) for target in targets[1:]}
    return Scale(connections, lengths, opened, slow)


def _open(measurer: Measurer, target: Target, plan: Plan, streams: int, history: int) -> Open:
    task = Task(target.port, streams, plan.seconds, plan.ramp_seconds, plan.pace_ms, history, measurer.numbers(streams))
    measurer.until_quiet(target)
    before = target.usage()
    marks: dict[str, tuple[float, float, int]] = {}

    def mark(name: str) -> None:
        usage = target.usage()
        marks[name] = (time.monotonic(), usage.cpu, usage.rss)

    flow = paced(task, mark)
    measurer.until_quiet(target)
    (began, spent, _), (ended, spent_then, rss) = marks["open"], marks["over"]
    return Open(
        target=target.name,
        streams=streams,
        history=history,
        paced=flow,
        idle_mb=before.rss / 1e6,
        kb=(rss - before.rss) / 1e3 / streams,
        cores=(spent_then - spent) / (ended - began),
        added_p50=0.0,
        added_p99=0.0,
    )


def _slow_reader(measurer: Measurer, target: Target, tell: Callable[[str], None]) -> float:
    """KB per client that asked for a long answer at full speed and reads nothing of it."""
    clients = 20
    tell(f"{clients} clients that do not read, {target.name}")
    task = Task(target.port, clients, 3.0, 0.5, 0, 0, measurer.numbers(clients), events=20_000, read=False)
    measurer.until_quiet(target)
    before, sizes = target.usage().rss, []

    def mark(name: str) -> None:
        sizes.append(target.usage().rss)

    paced(task, mark)
    measurer.until_quiet(target)
    return (sizes[-1] - before) / 1e3 / clients


def paced(task: Task, mark: Callable[[str], None]) -> Paced:
    """Run the load; ``mark`` is called when it says a word."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.paced"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    watchdog = threading.Timer(task.seconds + task.ramp_seconds + 60.0, process.kill)
    watchdog.start()
    try:
        process.stdin.write(msgspec.json.encode(task))
        process.stdin.close()
        said = []
        for line in process.stderr:
            said.append(line.decode("utf-8", "replace"))
            if said[-1].strip() in ("open", "over"):
                mark(said[-1].strip())
        seen = process.stdout.read()
        if process.wait() != 0:
            raise RuntimeError("bench.paced failed: " + "".join(said[-20:]))
        return msgspec.json.decode(seen, type=Paced)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
