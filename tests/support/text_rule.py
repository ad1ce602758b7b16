"""A text rule for the gate that looks for one word."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from proxy.gated_text import Matcher, Scanner

SECRET = "SECRET-4711"


class Searches:
    """Finds ``SECRET`` as it grows, in the simplest way."""

    def __init__(self) -> None:
        self.text = ""
        self.found = 0

    def feed(self, text: str) -> list[tuple[int, int]]:
        self.text += text
        hits = [match.span() for match in re.finditer(SECRET, self.text)]
        new, self.found = hits[self.found :], len(hits)
        return new

    def end(self) -> list[tuple[int, int]]:
        return []

    def pause(self) -> list[tuple[int, int]]:
        return []

    def free(self, hold: int) -> int:
        return max(0, len(self.text.encode()) - hold)


@dataclass(frozen=True)
class Rule:
    hold: int | None = 0
    scanner: Callable[[], Scanner] | None = Searches
    at_end: bool = False
    matches: Callable[[int | None], Matcher] | None = None
