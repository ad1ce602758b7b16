"""What verdicts add up to: per source, twins apart, and by instruction."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from proxy.efficacy.judging import Verdict
from serving.text import printable

EXAMPLES = 5


class Row(msgspec.Struct):
    """Cases of one source. ``kind``: attack (to be stopped), benign, or twin (benign, with the attack in sight)."""

    source: str
    kind: str
    cases: int = 0
    stopped: int = 0
    rules: dict[str, int] = {}

    @property
    def share(self) -> float:
        return self.stopped / self.cases if self.cases else 0.0


class Half(msgspec.Struct):
    """Attacks whose instructions fell into one half. ``whole``: instructions of which every case was stopped; ``some``:
    of which at least one was."""

    source: str
    half: str
    cases: int = 0
    stopped: int = 0
    instructions: int = 0
    whole: int = 0
    some: int = 0


class Miss(msgspec.Struct):
    """Attacks of one source that were let by for one reason (:mod:`proxy.efficacy.gaps`). ``instructions``: different
    ones among them; ``example``: the first case's id."""

    source: str
    gap: str
    cases: int
    instructions: int
    example: str


def rows(verdicts: Iterable[Verdict]) -> list[Row]:
    found: dict[tuple[str, str], Row] = {}
    for verdict in verdicts:
        case = verdict.case
        kind = "attack" if case.bad else "twin" if case.twin else "benign"
        row = found.setdefault((case.source, kind), Row(case.source, kind, rules={}))
        row.cases += 1
        row.stopped += verdict.stopped
        for rule in verdict.rules or (("error",) if verdict.error else ()):
            row.rules[rule] = row.rules.get(rule, 0) + 1
    return [found[key] for key in sorted(found)]


def halves(verdicts: Iterable[Verdict]) -> list[Half]:
    """Attacks by instruction: each instruction, with all its cases, is in one of two halves, by its digest."""
    groups: dict[tuple[str, str, str], Counter[bool]] = {}
    for verdict in verdicts:
        if verdict.case.bad:
            group = verdict.case.group
            half = "A" if hashlib.sha256(group.encode()).digest()[0] < 128 else "B"
            groups.setdefault((verdict.case.source, half, group), Counter())[verdict.stopped] += 1
    found: dict[tuple[str, str], Half] = {}
    for (source, half, _), counts in groups.items():
        one = found.setdefault((source, half), Half(source, half))
        one.cases += counts.total()
        one.stopped += counts[True]
        one.instructions += 1
        one.whole += not counts[False]
        one.some += bool(counts[True])
    return [found[key] for key in sorted(found)]


def misses(verdicts: Iterable[Verdict]) -> list[Miss]:
    """By source, the most frequent reason first."""
    found: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.case.bad and not verdict.stopped:
            found.setdefault((verdict.case.source, verdict.gap), []).append(verdict)
    counted = [
        Miss(source, gap, len(group), len({one.case.group for one in group}), group[0].case.id)
        for (source, gap), group in found.items()
    ]
    return sorted(counted, key=lambda miss: (miss.source, -miss.cases, miss.gap))


def errors(verdicts: Sequence[Verdict], most: int = EXAMPLES) -> dict[str, list[dict[str, Any]]]:
    """Examples of each kind of error: ``missed`` and ``stopped`` (though benign), by source; each call once."""
    found: dict[str, list[dict[str, Any]]] = {}
    seen: set[tuple[str, str]] = set()
    for verdict in verdicts:
        case = verdict.case
        if verdict.right or (case.source, case.group) in seen:
            continue
        what = f"{'missed' if case.bad else 'stopped'}: {case.source}{' (twin)' if case.twin else ''}"
        examples = found.setdefault(what, [])
        if len(examples) < most:
            seen.add((case.source, case.group))
            examples.append(
                {
                    "id": case.id,
                    "call": "" if case.call is None else printable(f"{case.call.name} {case.call.arguments}", 200),
                    "rules": list(verdict.rules),
                    "error": verdict.error,
                    "named": verdict.named,
                    "orders": [f"{printable(text, 160)} ({', '.join(kinds)})" for text, kinds in verdict.orders[:3]],
                }
            )
    return found


def as_json(verdicts: Sequence[Verdict], policies: Sequence[str]) -> dict[str, Any]:
    seconds = sorted(verdict.seconds for verdict in verdicts)
    return {
        "policies": list(policies),
        "cases": len(verdicts),
        "rows": [{**msgspec.to_builtins(row), "share": round(row.share, 4)} for row in rows(verdicts)],
        "by_instruction": msgspec.to_builtins(halves(verdicts)),
        "errors": errors(verdicts),
        "misses": msgspec.to_builtins(misses(verdicts)),
        "milliseconds": {
            "median": round(1e3 * seconds[len(seconds) // 2], 2) if seconds else 0.0,
            "most": round(1e3 * seconds[-1], 2) if seconds else 0.0,
        },
    }
