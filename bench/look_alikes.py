"""What it costs to look for cards and accounts in text that is full of look-alikes: ``python -m bench.look_alikes``.

CPU time, the least of three runs, for 200 KB: searched as a whole, as a record is, and as a stream in pieces of so many
characters. No number in them has its checksum, so nothing ends the search; ``words`` is text without numbers beside it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from serving.patterns import PatternSet, shipped_set
from serving.stream_patterns import StreamPatterns

SIZE = 200_000
RUNS = 3
PIECES = (1, 5, 20, 200)
_WORDS = ("the", "report", "of", "a", "team", "was", "sent", "to", "all", "who", "had", "asked", "for", "it")


class Cost(NamedTuple):
    """CPU seconds: of the whole text, and in pieces of each size."""

    whole: float
    pieces: dict[int, float]


def _without_hits(patterns: PatternSet, text: str, chance: random.Random) -> str:
    """``text`` with a digit changed in whatever has its checksum, until nothing has."""
    while hits := patterns.scan(text):
        characters = list(text)
        for hit in hits:
            place = chance.choice([at for at in range(hit.start, hit.end) if text[at].isdigit()][2:])
            characters[place] = str((int(characters[place]) + chance.randint(1, 9)) % 10)
        text = "".join(characters)
    return text


def texts(size: int) -> dict[str, str]:
    """Texts of ``size`` characters, by what they are full of."""
    chance = random.Random(7)
    patterns = shipped_set("pii")

    def full_of(piece: Callable[[], str]) -> str:
        parts: list[str] = []
        while sum(map(len, parts)) + len(parts) <= size:
            parts += (piece() for _ in range(1000))
        return _without_hits(patterns, " ".join(parts)[:size], chance)

    def group() -> str:
        return f"{chance.randrange(10_000):04}"

    countries = ("MT", "LC", "JO", "DE", "BE", "NO", "RU")
    return {
        "words": full_of(lambda: chance.choice(_WORDS)),
        "groups of a card": full_of(lambda: f"4{chance.randrange(1000):03}"),
        "cards, apart": full_of(lambda: f"4{group()[1:]} {group()} {group()} {group()};"),
        "cards, unbroken": full_of(lambda: f"4{group()[1:]}{group()}{group()}{group()}"),
        "beginnings of accounts": full_of(lambda: f"{chance.choice(countries)}{chance.randrange(100):02}"),
        "accounts": full_of(lambda: f"DE{group()[2:]} {group()} {group()} {group()} {group()} {group()[2:]}"),
        "codes in capitals": full_of(lambda: f"AB{chance.randrange(100):02} CODE WORD MORE"),
    }


def _least(run: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        before = time.process_time()
        run()
        times.append(time.process_time() - before)
    return min(times)


def cost(text: str) -> Cost:
    """Of one text, with the set ``pii``."""
    patterns = shipped_set("pii")
    automaton = StreamPatterns([patterns])

    def stream(size: int) -> None:
        scanner = automaton.scanner()
        for at in range(0, len(text), size):
            scanner.feed(text[at : at + size])
        scanner.end()

    pieces = {size: _least(lambda size=size: stream(size)) for size in PIECES}  # type: ignore[misc]
    return Cost(_least(lambda: patterns.scan(text)), pieces)


def main() -> None:
    print(f"{'200 KB full of':24} {'whole':>8}" + "".join(f"{f'by {size}':>9}" for size in PIECES) + "   (ms of CPU)")
    for name, text in texts(SIZE).items():
        found = cost(text)
        print(f"{name:24} {found.whole * 1000:8.0f}" + "".join(f"{found.pieces[size] * 1000:9.0f}" for size in PIECES))


if __name__ == "__main__":
    main()
