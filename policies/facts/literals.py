"""Many literal texts looked for in one long text, in one pass over it.

A few in a short text are looked for one by one; many, or in a long one, by Hyperscan. A literal that stands at more
than :data:`MOST_HITS` places is given up there, so that no text can make the search slow by repeating one word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import hyperscan

MOST_HITS = 20_000
"""Places that are collected before those literals that stand everywhere are given up."""
FEW = 1_500_000
"""Characters times literals up to which they are looked for one by one."""
LONG = 256
"""Bytes from which a literal is looked for alone."""


class Hits(NamedTuple):
    """``places``: (number of the literal, where it starts), in any order; ``given_up``: literals that have more."""

    places: list[tuple[int, int]]
    given_up: set[int]


def find_all(text: bytes, literals: Sequence[bytes]) -> Hits:
    """Every place of every literal, overlapping ones too. Literals are not empty."""
    hits = Hits([], set())
    short = [number for number, literal in enumerate(literals) if len(literal) < LONG]
    if len(text) * len(short) <= FEW:
        alone = [*range(len(literals))]
    else:
        alone = [number for number, literal in enumerate(literals) if len(literal) >= LONG]
        _together(text, literals, short, hits)
    for number in alone:
        literal = literals[number]
        at, most = text.find(literal), MOST_HITS
        while at >= 0:
            hits.places.append((number, at))
            most -= 1
            if not most:
                hits.given_up.add(number)
                break
            at = text.find(literal, at + 1)
    return hits


def _together(text: bytes, literals: Sequence[bytes], numbers: list[int], hits: Hits) -> None:
    at = 0
    while numbers:
        found: list[tuple[int, int]] = []

        def note(
            number: int, _start: int, end: int, _flags: int, _: object, ends: list[tuple[int, int]] = found
        ) -> bool | None:
            ends.append((number, end))
            return True if len(ends) >= MOST_HITS else None

        database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        database.compile(
            expressions=[literals[number] for number in numbers], ids=numbers, flags=[0] * len(numbers), literal=True
        )
        stopped = False
        try:
            database.scan(text[at:] if at else text, match_event_handler=note)
        except hyperscan.ScanTerminated:
            stopped = True
        hits.places.extend((number, at + end - len(literals[number])) for number, end in found)
        if not stopped:
            return
        counts = Counter(number for number, _ in found)
        most = max(counts.values())
        everywhere = {number for number, count in counts.items() if count * 4 >= most}
        hits.given_up.update(everywhere)
        numbers = [number for number in numbers if number not in everywhere]
        at = max(0, at + found[-1][1] - LONG)
