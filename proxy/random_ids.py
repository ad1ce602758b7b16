"""Random ids in hex, from bytes of the system's generator that are fetched a page at a time.

Each exchange has four, and a system call for each costs more than all the rest of making it.
"""

from __future__ import annotations

import os
import secrets

_PAGE = 4096


class RandomHex:
    """``RandomHex()(n)`` is what ``secrets.token_hex(n)`` is. Not for several threads. No digit is given out twice, in
    a forked child neither."""

    def __init__(self) -> None:
        self._drop()
        os.register_at_fork(after_in_child=self._drop)

    def _drop(self) -> None:
        self._digits = ""
        self._at = 0

    def __call__(self, size: int) -> str:
        begin, end = self._at, self._at + 2 * size
        if end > len(self._digits):
            self._digits = secrets.token_hex(max(_PAGE, size))
            begin, end = 0, 2 * size
        self._at = end
        return self._digits[begin:end]


random_hex = RandomHex()
"""For the event loop's thread."""
