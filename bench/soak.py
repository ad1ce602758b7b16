"""Whether memory stays flat: ``python -m bench --soak``, many requests and long streams on Interlock alone.

A warm-up fills what Interlock remembers within bounds (runs, what was redacted lately). The run has ten equal parts,
each of requests that are answered whole (every one begins a run of its own) and then of streams of 20 000 events. After
the warm-up and after each part, once the tree of processes is quiet, its resident memory is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from bench import proc
from bench.load import Seen, Task, loaded
from bench.measure import Measurer
from bench.targets import StartError, Target
from bench.wire import Kind

POINTS = 10
_STREAM_EVENTS = 20_000
_CONNECTIONS, _STREAMS = 16, 4
_ANY_SIZE = (1, 1 << 40)
_PART_SECONDS = 3600.0


class Point(msgspec.Struct):
    """After so many requests and events: the tree's memory in MB, and that of each of its processes, largest first."""

    requests: int
    events: int
    seconds: float
    rss_mb: float
    processes_mb: list[float]


class Soak(msgspec.Struct):
    """``idle_mb``: before anything was asked; the first of ``points`` is that after the warm-up. They deviate by at
    most ``deviation`` (0.05: 5 %) from the mean of them all; ``trend`` is what the last has more than the first, as a
    part of it. ``wrong`` answers are told."""

    idle_mb: float
    points: list[Point]
    deviation: float
    trend: float
    wrong: int


def soak(
    measurer: Measurer, target: Target, *, warm: int, requests: int, events: int, tell: Callable[[str], None]
) -> Soak:
    """``warm``: requests of the warm-up, which are not in ``requests``. ``events`` are rounded up to whole streams in
    every part."""
    measurer.until_quiet(target)
    idle, began = _megabytes(target), time.monotonic()
    points: list[Point] = []
    asked = streamed = wrong = 0
    streams = -(-events // (POINTS * _STREAM_EVENTS))
    for number in range(POINTS + 1):
        tell(f"soak: part {number} of {POINTS}" if number else "soak: warm-up")
        whole = _load(measurer, target, "whole", max(requests // POINTS if number else warm, 1), _CONNECTIONS, 0)
        long = _load(measurer, target, "stream", streams, _STREAMS, _STREAM_EVENTS)
        wrong += whole.wrong + long.wrong
        if number:
            asked, streamed = asked + whole.answers + long.answers, streamed + long.answers * _STREAM_EVENTS
        for seen in (whole, long):
            if seen.wrong:
                tell(f"soak: {seen.wrong} wrong answers, the first: {seen.first_wrong}")
        measurer.until_quiet(target)
        sizes = _megabytes(target)
        points.append(Point(asked, streamed, time.monotonic() - began, sum(sizes), sizes))
        tell(f"soak: {asked} requests, {streamed} events, {sum(sizes):.1f} MB")
    return summary(sum(idle), points, wrong)


def summary(idle_mb: float, points: Sequence[Point], wrong: int = 0) -> Soak:
    """What the points say."""
    sizes = [point.rss_mb for point in points]
    mean = sum(sizes) / len(sizes)
    deviation = max(abs(size - mean) for size in sizes) / mean
    return Soak(idle_mb, list(points), deviation, sizes[-1] / sizes[0] - 1.0, wrong)


def render_soak(seen: Soak) -> str:
    """The points as a table."""
    rows = [
        "| requests | events | seconds | RSS MB | of each process |",
        "|---:|---:|---:|---:|---|",
        f"| at rest | | | {seen.idle_mb:.1f} | |",
    ]
    for point in seen.points:
        each = ", ".join(f"{size:.1f}" for size in point.processes_mb)
        rows.append(f"| {point.requests} | {point.events} | {point.seconds:.0f} | {point.rss_mb:.1f} | {each} |")
    rows.append("")
    rows.append(
        f"From the first point to the last: {seen.trend:+.1%}. Largest distance from the mean of the points: "
        f"{seen.deviation:.1%}. Wrong answers: {seen.wrong}."
    )
    return "\n".join(rows)


def _megabytes(target: Target) -> list[float]:
    if target.pid is None:
        raise StartError("there is no process between")
    return sorted((proc.rss(stat.pid) / 1e6 for stat in proc.tree(target.pid, proc.processes())), reverse=True)


def _load(measurer: Measurer, target: Target, kind: Kind, count: int, connections: int, events: int) -> Seen:
    connections = min(connections, count)
    task = Task(
        mode="rate",
        ports=[target.port],
        kind=kind,
        connections=connections,
        seconds=_PART_SECONDS,
        warm_seconds=0.0,
        requests=count - connections + 1,  # what is under way when the last is counted comes as well
        first=measurer.numbers(count),
        body_bytes=_ANY_SIZE,
        events=events,
    )
    return loaded(task)
