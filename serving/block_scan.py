"""Which of some expressions match in a text, in one pass (Hyperscan, block mode).

Nothing is learnt while it scans, so a text that nobody has seen costs what a known one does. Hyperscan works while
other threads do, and needs room of its own for each of them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import hyperscan


def _note(index: int, _start: int, _end: int, _flags: int, found: Any) -> None:
    found.append(index)


class BlockScan:
    """Use from any thread."""

    def __init__(self, expressions: Sequence[str]) -> None:
        """``expressions`` are over bytes, without regard to the case of ASCII.

        Raises :class:`hyperscan.HyperscanError` for one that Hyperscan does not take."""
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        self._database.compile(
            expressions=[expression.encode() for expression in expressions],
            ids=list(range(len(expressions))),
            flags=hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_CASELESS,
        )
        self._local = threading.local()

    def found(self, data: bytes) -> list[int]:
        """The numbers of those that match in ``data``, in any order."""
        try:
            scratch: Any = self._local.scratch
        except AttributeError:
            scratch = self._local.scratch = hyperscan.Scratch(self._database)
        numbers: list[int] = []
        self._database.scan(data, _note, context=numbers, scratch=scratch)
        return numbers
