"""How much of the model server's time each exchange used, when many share it.

A running total grows by ``dt / n`` while ``n`` exchanges are with the model server; what it grew by between an
exchange's start and end is that exchange's fair share, in seconds. All shares together are the busy time.
"""

from __future__ import annotations

from collections.abc import Callable


class ShareMeter:
    """``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._active = 0
        self._others = 0
        self._total = 0.0
        self._at = clock()

    def begin(self) -> float:
        """An exchange goes to the model server; hand the mark to :meth:`end`."""
        self._advance()
        self._active += 1
        return self._total

    def end(self, mark: float) -> float:
        """The exchange is over: its share in seconds."""
        self._advance()
        self._active -= 1
        return self._total - mark

    def others(self, exchanges: int) -> None:
        """So many exchanges of other workers are with the model server now."""
        self._advance()
        self._others = exchanges

    def _advance(self) -> None:
        now = self._clock()
        if self._active:
            self._total += (now - self._at) / (self._active + self._others)
        self._at = now
