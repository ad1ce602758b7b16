"""Signals of a surface: which patterns matched where, never the matched text itself.

Rego does no heavy text matching. The pattern sets (``serving.patterns``) are run over every string of a tool
call's arguments, decoded, and over the text as the model wrote it, so that what only shows in one of the two
is found too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from policies.model import CallFacts, Severity, Signal
from serving.patterns import PatternSet

RAW_PATH = ""
"""The path of a hit in the text as the model wrote it: the whole surface, as a JSON pointer says it."""


def strings_in(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in ``value`` with its JSON pointer (RFC 6901), the keys of objects too."""
    pending: list[tuple[str, Any]] = [(path, value)]
    while pending:
        where, item = pending.pop()
        if isinstance(item, str):
            yield where, item
        elif isinstance(item, dict):
            for key, part in item.items():
                below = f"{where}/{key.replace('~', '~0').replace('/', '~1')}"
                yield below, key
                pending.append((below, part))
        elif isinstance(item, list):
            pending += ((f"{where}/{index}", part) for index, part in enumerate(item))


def signals_of_call(call: CallFacts, patterns: Sequence[PatternSet]) -> list[Signal]:
    """Signals of one call, one per pattern and place. Only the raw text of an incomplete call is looked at,
    because it has no arguments yet."""
    signals: list[Signal] = []
    for patterns_of_kind in patterns:
        found: Counter[tuple[str, str, str]] = Counter()
        places = [*strings_in(call.arguments)] if call.arguments is not None else []
        seen: set[str] = set()
        for path, text in places:
            for hit in patterns_of_kind.scan(text):
                found[(hit.id, path, hit.severity)] += 1
                seen.add(hit.id)
        for hit in patterns_of_kind.scan(call.raw):
            if hit.id not in seen:
                found[(hit.id, RAW_PATH, hit.severity)] += 1
        for (pattern, path, severity), count in sorted(found.items()):
            signals.append(
                Signal(set=patterns_of_kind.name, id=pattern, severity=Severity(severity), path=path, count=count)
            )
    return signals
