"""What a value takes in memory, so that what is remembered can be bounded by it."""

from __future__ import annotations

import sys
from typing import Any

_TRACKED = 16
"""What the garbage collector puts before each object that holds others."""


def bytes_of(value: Any) -> int:
    """Bytes of a JSON-like value with all that is in it, of any depth. What stands in several places counts in each, so
    that it may be too much, up to twice, but not too little."""
    total, rest = 0, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            total += sys.getsizeof(one) + _TRACKED
            rest.extend(one)
            rest.extend(one.values())
        elif isinstance(one, list | tuple):
            total += sys.getsizeof(one) + _TRACKED
            rest.extend(one)
        elif one is not None and not isinstance(one, bool):
            total += sys.getsizeof(one)
    return total
