"""The tables, in Markdown, so that a run can be put into a document as it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from bench.measure import Cell, Latency, Options, Result, Row, row_of
from bench.stats import median, ratio
from bench.wire import Kind

_REFERENCE = "aiohttp"


class Header(msgspec.Struct):
    """A run: where and with what. ``others``: cores that other programs kept busy."""

    command: str
    date: str
    machine: str
    versions: dict[str, str]
    load_before: float
    others: float
    seconds: float
    options: Options


class Report(Header):
    """A run and what was seen."""

    result: Result


def rows_of(cells: Sequence[Cell], kind: Kind) -> list[Row]:
    """One row for each target, in the order in which they were measured."""
    names = list(dict.fromkeys(cell.target for cell in cells if cell.kind == kind))
    return [row_of([cell for cell in cells if cell.target == name and cell.kind == kind]) for name in names]


def render(report: Report) -> str:
    """The whole report."""
    result, options = report.result, report.options
    parts = [preface(report)]
    for kind, title in (("whole", "Whole answers"), ("stream", "Streams")):
        rows = rows_of(result.cells, kind)  # type: ignore[arg-type]
        checked = rows_of(result.nemo_cells, kind)  # type: ignore[arg-type]
        parts.append(heading(f"{title}, {options.connections} connections") + _rates(rows, checked, options))
    parts.append(heading("One request at a time: ms to the first byte of the body") + _latencies(result.latencies))
    call_rows = [*rows_of(result.call_cells, "whole-call"), *rows_of(result.call_cells, "stream-call")]
    parts.append(heading("A tool call in every answer, each with a decision of its own") + _calls(call_rows))
    parts.append("\n".join(f"- {note}" for note in _notes(report)))
    return "\n\n".join(parts) + "\n"


def preface(report: Header) -> str:
    """What every report begins with."""
    options = report.options
    return "\n".join(
        [
            f"`{report.command}` on {report.date}, {report.seconds:.0f} s",
            "",
            f"{report.machine}; load average before the run {report.load_before:.1f}; other programs kept "
            f"{report.others:.2f} cores busy during it.",
            ", ".join(f"{name} {number}" for name, number in report.versions.items()) + ".",
            f"{options.rounds} round(s) of {options.seconds:g} s; medians, extremes of the rate in brackets; × is "
            f"the ratio to the bare aiohttp pass-through. CPU is that of the whole tree of processes; in brackets "
            "the serving process alone.",
        ]
    )


def heading(text: str) -> str:
    """A title, as part of a document."""
    return f"### {text}\n\n"


def _rates(rows: Sequence[Row], checked: Sequence[Row], options: Options) -> str:
    every = [*rows, *checked]
    reference = next((row for row in every if row.target == _REFERENCE), None)
    streams = bool(rows) and rows[0].kind == "stream"
    head = ["", "streams/s" if streams else "requests/s", "×"]
    if streams:
        head.append("events/s")
    head += ["CPU µs/stream" if streams else "CPU µs/request", "×", "RSS MB"]
    lines = []
    for row in every:
        extremes = f" ({number(row.low)}–{number(row.high)})" if options.rounds > 1 else ""
        line = [row.target, number(row.rate) + extremes]
        line.append(times(row.rate, reference.rate if reference else math.nan))
        if streams:
            line.append(number(row.rate * (options.events + 4)))
        if row.cpu_us:
            line.append(_cpu(row))
            line.append(times(row.cpu_us, reference.cpu_us if reference else math.nan))
            line.append(f"{row.rss_mb:.0f}")
        else:
            line += ["–", "–", "–"]
        lines.append(line)
    return table(head, lines)


def _cpu(row: Row) -> str:
    if row.root_cpu_us > row.cpu_us * 0.98 or row.root_cpu_us < row.cpu_us * 0.02:  # one process, or a mere parent
        return number(row.cpu_us)
    return f"{number(row.cpu_us)} ({number(row.root_cpu_us)})"


def _latencies(rows: Sequence[Latency]) -> str:
    names = list(dict.fromkeys(row.target for row in rows))
    head = ["", "whole p50", "p99", "added p50", "added p99", "stream p50", "p99", "added p50", "added p99"]
    lines = []
    for name in names:
        line = [name]
        for kind in ("whole", "stream"):
            found = next((row for row in rows if row.target == name and row.kind == kind), None)
            values = [found.p50, found.p99, found.added_p50, found.added_p99] if found else [math.nan] * 4
            line += [ms(value) for value in values]
        lines.append(line)
    return table(head, lines)


def _calls(rows: Sequence[Row]) -> str:
    head = ["", "answers", "answers/s", "×", "CPU µs/answer", "×", "decisions/answer"]
    lines = []
    for row in rows:
        reference = next((r for r in rows if r.target == _REFERENCE and r.kind == row.kind), None)
        rate, cpu = (reference.rate, reference.cpu_us) if reference else (math.nan, math.nan)
        spent = [_cpu(row), times(row.cpu_us, cpu)] if row.cpu_us else ["–", "–"]
        what = "whole" if row.kind == "whole-call" else "streamed"
        decided = f"{row.decisions:.2f}" if row.decisions else "–"
        lines.append([row.target, what, number(row.rate), times(row.rate, rate), *spent, decided])
    return table(head, lines)


def _notes(report: Report) -> Iterable[str]:
    result = report.result
    every = [*result.cells, *result.call_cells, *result.nemo_cells]
    yield from result.notes
    if result.nemo_cells:
        checks = median([cell.checks for cell in result.nemo_cells])
        dropped = sum(cell.checks_dropped * cell.answers for cell in result.nemo_cells)
        asked = sum(cell.checks * cell.answers for cell in result.nemo_cells)
        yield (
            f"NeMo Guardrails ran on the same cores, {checks:.1f} checks for each exchange; its queue was full for "
            f"{ratio(dropped, asked):.1%} of them, and these are on record as `dropped`"
        )
    wrong = [cell for cell in every if cell.wrong]
    if not wrong:
        yield f"all {sum(cell.answers for cell in every):,} answers had the right status, size and ending"
    for cell in wrong:
        yield f"WRONG: {cell.target}, {cell.kind}: {cell.wrong} of {cell.answers} answers; {cell.first_wrong}"
    for name, kind in dict.fromkeys((cell.target, cell.kind) for cell in every if cell.late):
        yield f"{name}, {kind}: still at work behind the traffic when time was up; that CPU is not in the figure"
    if report.others > 0.1:
        yield (
            "other programs were running: rates and latencies are not what this machine can do; "
            "CPU per request and the ratios are the steadier figures"
        )


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""

    widths = [max(len(row[place]) for row in [head, *lines]) for place in range(len(head))]

    def text(cells: Sequence[str]) -> str:
        aligned = [cells[0].ljust(widths[0])]
        aligned += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join(aligned) + " |"

    rule = "|" + "|".join([" :" + "-" * (widths[0] - 1) + " "] + [" " + "-" * (w - 1) + ": " for w in widths[1:]]) + "|"
    return "\n".join([text(head), rule, *map(text, lines)])


def number(value: float) -> str:
    """Whole, with thin groups; NaN is a dash."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}".replace(",", " ")


def times(value: float, reference: float) -> str:
    """``value`` in units of ``reference``."""
    by = ratio(value, reference)
    return "–" if math.isnan(by) else f"{by:.2f}"


def ms(value: float) -> str:
    """Two decimals; NaN is a dash."""
    return "–" if math.isnan(value) else f"{value:.2f}"
