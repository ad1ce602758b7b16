"""What a sentence has of many expressions.

One automaton of them all would ask once, but it learns a new state for nearly every sentence that it has not seen, at
50 to 200 µs each: a state says which expressions have matched so far, and there are as many of them as there are such
sets. A few automata of a few expressions each learn little, and what they know already costs them 1 µs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import re2

AUTOMATA = 5


class Features:
    """Some RE2 expressions. Use from any thread."""

    def __init__(self, expressions: Mapping[int, str], options: Any) -> None:
        """``expressions`` by their number; ``options`` are RE2's."""
        self._parts: list[tuple[Any, list[int]]] = []
        for nth in range(min(AUTOMATA, len(expressions))):
            numbers = list(expressions)[nth::AUTOMATA]
            part = re2.Set.SearchSet(options)
            for number in numbers:
                part.Add(expressions[number])
            part.Compile()
            self._parts.append((part, numbers))

    def of(self, sentence: str) -> list[int]:
        """The numbers of those that match."""
        data = sentence.encode()
        return [numbers[nth] for part, numbers in self._parts for nth in part.Match(data) or ()]
