"""The differences as a table for a person, or as JSON for a program."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy import __version__
from proxy.contract.compare import KINDS, Difference, FirstBytes
from proxy.contract.matrix import Outcome, Run, first_event
from serving.text import printable

SHOWN = 110
"""Characters of an excerpt in the table."""
FEW = 6
"""Lines of one case in the table; ``--all`` shows every one."""


def printed(run: Run, console: Console, *, every: bool) -> None:
    """The table of differences, how many cases have each class, and the sum."""
    differing = [outcome for outcome in run.outcomes if outcome.verdict == "differs"]
    if differing:
        console.print(_differences(differing, every))
        console.print()
        console.print(_classes(differing, len(run.outcomes)))
        console.print()
    for line in _sum(run):
        console.print(Text(line))


def _differences(differing: Sequence[Outcome], every: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column, width in (("what differs", 18), ("where", 26), ("direct", None), ("through the proxy", None)):
        table.add_column(column, overflow="fold", min_width=width, ratio=None if width else 1)
    for outcome in differing:
        table.add_row(Text(outcome.ask.name, "bold"))
        lines = list(_lines(outcome.differences))
        shown = lines if every else lines[:FEW]
        for kind, *cells in shown:
            table.add_row(Text(f"  {kind}"), *(Text(printable(text, SHOWN) or "–") for text in cells))
        if len(shown) < len(lines):
            table.add_row(Text(f"  … and {len(lines) - len(shown)} more", "dim"))
        if outcome.first is not None:
            table.add_row(*_first(outcome.first))
    return table


def _lines(differences: Sequence[Difference]) -> Iterator[tuple[str, str, str, str]]:
    """Class, place and excerpts; the headers of a class in one line, after the rest."""
    headers: dict[str, list[Difference]] = {}
    for one in differences:
        if one.kind.startswith("header "):
            headers.setdefault(one.kind, []).append(one)
        else:
            yield one.kind, f"{one.where} ({one.count}×)" if one.count > 1 else one.where, one.direct, one.through
    for kind, some in headers.items():
        names = ", ".join(one.where for one in some)
        yield (kind, names, "; ".join(one.direct for one in some), "; ".join(one.through for one in some))


def _first(first: FirstBytes) -> list[Text]:
    said = ["  first bytes", f"{first.part}, at {first.place}", _bytes(first.direct), _bytes(first.through)]
    return [Text(text, "dim") for text in said]


def _bytes(text: bytes) -> str:
    """Bytes in a form of which every one can be seen."""
    return repr(text)[1:] if text else "nothing"


def _classes(differing: Sequence[Outcome], cases: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("cases", justify="right")
    table.add_column("class")
    table.add_column("what it means", overflow="fold")
    table.add_column("most often at", overflow="fold")
    for kind, count in counted(differing).items():
        places = Counter(
            one.where for outcome in differing for one in outcome.differences if one.kind == kind and one.where
        )
        often = ", ".join(printable(place, 60) for place, _ in places.most_common(4))
        table.add_row(f"{count}/{cases}", kind, KINDS[kind], often)
    return table


def counted(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """In how many cases each class was found, in the order of :data:`KINDS`."""
    found = Counter(kind for outcome in outcomes for kind in {one.kind for one in outcome.differences})
    return {kind: found[kind] for kind in KINDS if kind in found}


def verdicts(run: Run) -> dict[str, int]:
    found = Counter(outcome.verdict for outcome in run.outcomes)
    return {"cases": len(run.outcomes)} | {name: found[name] for name in ("same", "differs", "unsteady", "not offered")}


def _sum(run: Run) -> list[str]:
    numbers = verdicts(run)
    lines = [f"{numbers['cases']} cases: {numbers['same']} the same, {numbers['differs']} differ"]
    if numbers["unsteady"]:
        lines[0] += f", {numbers['unsteady']} in which the server does not repeat itself"
    if numbers["not offered"]:
        lines[0] += f", {numbers['not offered']} that the server does not offer"
    for outcome in run.outcomes:
        if outcome.verdict in ("unsteady", "not offered"):
            lines.append(f"  {outcome.verdict}: {outcome.ask.name} ({printable(outcome.detail, 200)})")
    if (timed := first_event(run.outcomes)) is not None:
        streams, direct, through = timed
        lines.append(
            f"first event of {streams} streams, median: {direct * 1000:.1f} ms direct, {through * 1000:.1f} ms "
            "through the proxy"
        )
    return lines


def as_json(run: Run, when: datetime) -> str:
    """One document: what was asked, the sums, and every case with its differences."""
    timed = first_event(run.outcomes)
    document: dict[str, Any] = {
        "interlock": __version__,
        "when": when.isoformat(timespec="seconds"),
        "direct": run.direct.url,
        "proxy": run.proxy.url,
        "model": run.model,
        "summary": verdicts(run) | {"classes": counted(run.outcomes)},
        "first_event_ms": None
        if timed is None
        else {"streams": timed[0], "direct": _ms(timed[1]), "proxy": _ms(timed[2])},
        "cases": [_case(outcome) for outcome in run.outcomes],
    }
    return json.dumps(document, indent=2, ensure_ascii=True)


def _case(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": outcome.ask.name,
        "api": outcome.ask.api,
        "streamed": outcome.ask.form == "stream",
        "verdict": outcome.verdict,
        "status": outcome.status,
        "pairs": outcome.pairs,
        "differences": [
            {"class": one.kind, "where": one.where, "count": one.count, "direct": one.direct, "proxy": one.through}
            for one in outcome.differences
        ],
    }
    if outcome.detail:
        found["detail"] = outcome.detail
    if (first := outcome.first) is not None:
        sides = {"direct": _bytes(first.direct), "proxy": _bytes(first.through)}
        found["first_bytes"] = {"part": first.part, "place": first.place, **sides}
    if outcome.pace is not None:
        found["first_event_ms"] = {"direct": _ms(outcome.pace[0].first), "proxy": _ms(outcome.pace[1].first)}
    return found


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
