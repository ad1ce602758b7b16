"""When to stop asking a check that keeps failing.

Three states. *Closed*: ask. After ``failures`` failures in a row it is *open*: do not ask until
``cool_down_seconds`` have passed. Then it is *half open*: exactly one question goes out as a probe, all
others are refused until it is answered; its success closes the circuit, its failure opens it again.
The clock is passed in (monotonic seconds); nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal


class Circuit:
    def __init__(self, *, failures: int, cool_down_seconds: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._cool_down = cool_down_seconds
        self._clock = clock
        self._failed = 0
        self._open_until: float | None = None
        self._probing = False

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        if self._open_until is None:
            return "closed"
        return "half_open" if self._probing or self._clock() >= self._open_until else "open"

    def ask(self) -> bool:
        """May a question go out now? Yes must be followed by one of ``succeeded``, ``failed``, ``abandoned``."""
        if self._open_until is None:
            return True
        if self._probing or self._clock() < self._open_until:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        self._failed = 0
        self._open_until = None
        self._probing = False

    def failed(self) -> None:
        self._failed += 1
        self._probing = False
        if self._failed >= self._limit:
            self._open_until = self._clock() + self._cool_down

    def abandoned(self) -> None:
        """The question was taken back: it says nothing, and another may be the probe."""
        self._probing = False
