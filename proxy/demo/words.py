"""Small phrases of the story: counts, times, digests, calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from tracing.exchange import Exchange


def held_ms(exchange: Exchange) -> float:
    """Milliseconds for which calls of this exchange were held."""
    return exchange.settled.held_micros / 1000 if exchange.settled is not None else 0.0


def places(arguments: int, logprobs: int) -> str:
    """Where the marker stands, and how often."""
    if not arguments and not logprobs:
        return "in neither"
    return f"{times(arguments)} in the arguments and {times(logprobs)} in the logprobs"


def ms(micros: int) -> str:
    """Microseconds for people."""
    return f"{micros / 1000:.1f} ms" if micros >= 100 else f"{micros} µs"


def short(call: Sequence[str]) -> str:
    """A call as name and values."""
    name, arguments = call
    return " ".join([name, *(str(value) for value in json.loads(arguments).values())])


def times(count: int) -> str:
    """How often something is there."""
    return {0: "nowhere", 1: "once", 2: "twice"}.get(count, f"{count} times")


def sha(data: bytes) -> str:
    """The first 16 hex digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]
