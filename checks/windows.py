"""A long text in pieces that a check can take.

Pieces overlap, so that what a pattern looks for is whole in one of them as long as it is no longer than the
overlap. Their number is bounded: a text beyond the bound is *cut*, and whoever reports on it must say so.
"""

from __future__ import annotations

OVERLAP_BYTES = 1024
MOST_WINDOWS = 8


def room(size: int, most: int = MOST_WINDOWS, overlap: int = OVERLAP_BYTES) -> int:
    """How many bytes of UTF-8 are taken whole."""
    return (size - min(overlap, size // 2)) * (most - 1) + size


def windows(text: str, *, size: int, most: int, overlap: int = OVERLAP_BYTES) -> tuple[tuple[str, ...], bool]:
    """At most ``most`` pieces of at most ``size`` bytes of UTF-8, and whether something was left out.

    Neighbours share ``overlap`` bytes (at most half of ``size``). Lone surrogates become "?": no JSON
    carries them.
    """
    if len(text) <= size and text.isascii():
        return (text,), False
    step = size - min(overlap, size // 2)
    # A character is at least one byte, so that this much text fills the room; the rest is not encoded.
    encoded = text[: room(size, most, overlap) + 1].encode("utf-8", "replace")
    if len(encoded) <= size:
        return (encoded.decode("utf-8"),), False
    pieces: list[str] = []
    start = 0
    while len(pieces) < most:
        pieces.append(encoded[start : start + size].decode("utf-8", "ignore"))
        if start + size >= len(encoded):
            return tuple(pieces), False
        start += step
    return tuple(pieces), True
