"""The tables of ``--scale``, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.measure import Cell
from bench.report import Header, heading, ms, number, preface, table, times
from bench.scale import CONNECTIONS, Open, Scale

_REFERENCE = "aiohttp"


class ScaleReport(Header):
    """A run of ``--scale`` and what was seen."""

    scale: Scale


def render_scale(report: ScaleReport) -> str:
    """The whole report."""
    seen = report.scale
    parts = [preface(report)]
    for kind, title in (("whole", "Whole answers a second"), ("stream", "Streams a second")):
        cells = [cell for cell in seen.connections if cell.kind == kind]
        parts.append(heading(f"{title}, by connections") + _by_connections(cells))
        parts.append(heading(f"CPU µs for each ({'answer' if kind == 'whole' else 'stream'})") + _cpu(cells))
    parts.append(
        heading("Long answers: CPU µs per event") + _per_event([c for c in seen.lengths if c.kind == "stream"])
    )
    parts.append(
        heading("Long requests: CPU µs per request") + _per_request([c for c in seen.lengths if c.kind == "whole"])
    )
    parts.append(heading("Streams that stay open, one event of each in every 50 ms") + _open(seen.open))
    slow = ", ".join(f"{name} {number(kb)} KB" for name, kb in seen.slow_reader_kb.items())
    parts.append(f"A client that asks for a stream of 20 000 events and reads nothing of it costs: {slow}.")
    parts.append("\n".join(_notes(seen)))
    return "\n\n".join(parts) + "\n"


def _names(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.target for cell in cells))


def _by_connections(cells: Sequence[Cell]) -> str:
    head = [""]
    for count in CONNECTIONS:
        head += [f"{count}", "×"]
    lines = []
    for name in _names(cells):
        line = [name]
        for count in CONNECTIONS:
            rate = {c.target: c.rate for c in cells if c.connections == count}
            line += [number(rate[name]), times(rate[name], rate.get(_REFERENCE, math.nan))]
        lines.append(line)
    return table(head, lines)


def _cpu(cells: Sequence[Cell]) -> str:
    head = [""]
    for count in CONNECTIONS:
        head += [f"{count}", "×"]
    lines = []
    for name in _names([cell for cell in cells if cell.cpu_us]):
        line = [name]
        for count in CONNECTIONS:
            spent = {c.target: c.cpu_us for c in cells if c.connections == count}
            line += [number(spent[name]), times(spent[name], spent.get(_REFERENCE, math.nan))]
        lines.append(line)
    return table(head, lines)


def _per_event(cells: Sequence[Cell]) -> str:
    lengths = sorted({cell.events for cell in cells})
    lines = []
    for name in _names(cells):
        spent = {c.events: c.cpu_us / c.events for c in cells if c.target == name}
        lines.append([name, *(f"{spent[length]:.1f}" for length in lengths)])
    return table(["", *(f"{length} events" for length in lengths)], lines)


def _per_request(cells: Sequence[Cell]) -> str:
    sizes = sorted({cell.history for cell in cells})
    lines = []
    for name in _names(cells):
        spent = {c.history: c.cpu_us for c in cells if c.target == name}
        per_kb = (spent[sizes[-1]] - spent[sizes[0]]) / (sizes[-1] / 1024)
        lines.append([name, *(number(spent[size]) for size in sizes), f"{per_kb:.1f}"])
    return table(["", *(f"{size // 1024 + 2} KB" for size in sizes), "per KB"], lines)


def _open(rows: Sequence[Open]) -> str:
    head = ["", "streams", "request", "RSS MB idle", "KB/stream", "cores", "p50 ms", "p99 ms", "added p50", "added p99"]
    lines = []
    for row in rows:
        size = "1 MB" if row.history else "2 KB"
        memory = [f"{row.idle_mb:.0f}", number(row.kb)] if row.idle_mb else ["–", "–"]
        cores = f"{row.cores:.2f}" if row.idle_mb else "–"
        delays = [ms(row.paced.p50), ms(row.paced.p99), ms(row.added_p50), ms(row.added_p99)]
        lines.append([row.target, number(row.streams), size, *memory, cores, *delays])
    return table(head, lines)


def _notes(seen: Scale) -> list[str]:
    notes = []
    for cell in [*seen.connections, *seen.lengths]:
        if cell.wrong:
            notes.append(f"- WRONG: {cell.target}, {cell.kind}, {cell.connections} connections: {cell.first_wrong}")
        if cell.late:
            notes.append(f"- {cell.target}, {cell.kind}: still at work behind the traffic when time was up")
    for row in seen.open:
        if row.paced.flowing < row.streams or row.paced.refused:
            notes.append(f"- WRONG: {row.target}: {row.paced.flowing} of {row.streams} flowed; {row.paced.refused}")
    return notes or ["- every answer had the right status, size and ending, and every stream flowed"]
