"""The test's result for people and for programs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from proxy.selftest.canaries import SURFACES
from proxy.selftest.verdicts import Outcome, Verdict

_MARKS: dict[Outcome, str] = {"pass": "[green]✓[/]", "leak": "[bold red]LEAK[/]", "unjudged": "[dim]·[/]"}


def counts(verdicts: list[Verdict]) -> dict[str, int]:
    """How many cells have which outcome."""
    found = Counter(verdict.outcome for verdict in verdicts)
    return {outcome: found[outcome] for outcome in ("pass", "leak", "unjudged")}


def as_json(agent: str | None, verdicts: list[Verdict]) -> dict[str, Any]:
    """One object for an agent."""
    cells = [
        {
            "api": verdict.cell.form.name,
            "path": verdict.cell.form.path,
            "stream": verdict.cell.stream,
            "n": verdict.cell.form.choices,
            "surface": verdict.cell.surface.name,
            "outcome": verdict.outcome,
            "why": verdict.why,
            "policies": list(verdict.policies),
        }
        for verdict in verdicts
    ]
    return {"agent": agent or "anonymous", "counts": counts(verdicts), "cells": cells}


def show(console: Console, verdicts: list[Verdict]) -> None:
    """The table, then each reason once."""
    by_row: dict[tuple[str, bool], dict[str, Verdict]] = {}
    for verdict in verdicts:
        by_row.setdefault((verdict.cell.form.name, verdict.cell.stream), {})[verdict.cell.surface.name] = verdict
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold", show_header=True)
    table.add_column("API", no_wrap=True)
    table.add_column("", no_wrap=True)
    for number in range(1, len(SURFACES) + 1):
        table.add_column(_letter(number), justify="center", no_wrap=True)
    for (api, stream), cells in by_row.items():
        marks = [_MARKS[cells[s.name].outcome] if s.name in cells else "" for s in SURFACES]
        table.add_row(escape(api), "stream" if stream else "whole", *marks)
    console.print(table)
    console.print()
    for number, surface in enumerate(SURFACES, 1):
        console.print(f"[bold]{_letter(number)}[/]  {surface.canary} {surface.where}", highlight=False)
        for line in _reasons([verdict for verdict in verdicts if verdict.cell.surface is surface]):
            console.print(Padding(line, (0, 0, 0, 3)), highlight=False)
    found = counts(verdicts)
    console.print()
    console.print(
        f"[bold]{found['pass']} pass, {found['leak']} leak, {found['unjudged']} unjudged[/] "
        "[dim](·: nothing in force was to stop it; blank: this API has no such place)[/]",
        highlight=False,
    )


def _reasons(verdicts: list[Verdict]) -> list[str]:
    """Each outcome of a column with its reason, and where, unless it is so everywhere."""
    places: dict[tuple[Outcome, str], list[str]] = {}
    for verdict in verdicts:
        form = "stream" if verdict.cell.stream else "whole"
        places.setdefault((verdict.outcome, verdict.why), []).append(f"{verdict.cell.form.name} ({form})")
    told = []
    for (outcome, why), where in places.items():
        style = {"pass": "green", "leak": "bold red", "unjudged": "dim"}[outcome]
        rest = "" if len(places) == 1 else f" [dim]— {escape(_listed(where))}[/]"
        told.append(f"[{style}]{outcome}[/] {escape(why)}{rest}")
    return told


def _listed(where: list[str]) -> str:
    return "; ".join(where) if len(where) <= 4 else f"{'; '.join(where[:3])} and {len(where) - 3} more"


def _letter(number: int) -> str:
    return chr(ord("A") + number - 1)
