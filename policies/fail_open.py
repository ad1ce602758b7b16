"""Fail-open with a budget: how many decisions may pass unjudged while an engine is away.

How to think about it. Off unless the settings say ``on_error: allow``. Then a policy that could not be asked lets by
only what the budget has room for: at most ``share`` of that agent's decisions by that policy within the window, once
there are ``least`` of them, so that a burst at the start, when nothing is known yet, is denied. Never for a policy of
severity high or critical, nor for one that says none, and never for a failure that an input can bring about
(``EngineError.excusable``).

The window is kept in ten slices, so it is exact to a tenth of its length, and counting costs the same however many
decisions there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from policies.model import Severity
from serving.settings import FailOpenSettings

SLICES = 10
_MAY_PASS = frozenset({Severity.INFO, Severity.LOW, Severity.MEDIUM})


class FailOpen:
    """Counts per agent and policy. ``clock`` gives seconds, monotonic."""

    def __init__(self, settings: FailOpenSettings, clock: Callable[[], float]) -> None:
        self._share = settings.share
        self._least = settings.least
        self._slice = settings.window_seconds / SLICES
        self._clock = clock
        self._counts: dict[tuple[str, str], Window] = {}

    def asked(self, agent: str, policies: Iterable[str]) -> None:
        """A decision was wanted of these policies."""
        now = int(self._clock() / self._slice)
        for policy in policies:
            self._window(agent, policy).add(now, 1, 0)

    def passes(self, agent: str, policy: str, severity: Severity | None) -> bool:
        """Whether one more decision that could not be had may pass; if so, it is counted."""
        if severity not in _MAY_PASS:
            return False
        window = self._window(agent, policy)
        now = int(self._clock() / self._slice)
        asked, passed = window.sums(now)
        if asked < self._least or passed + 1 > self._share * asked:
            return False
        window.add(now, 0, 1)
        return True

    def _window(self, agent: str, policy: str) -> Window:
        known = self._counts.get((agent, policy))
        if known is None:
            known = self._counts[(agent, policy)] = Window()
        return known


class Window:
    """Slices of (number, asked, passed), the newest last, with their sums."""

    __slots__ = ("_asked", "_passed", "_slices")

    def __init__(self) -> None:
        self._slices: deque[list[int]] = deque()
        self._asked = 0
        self._passed = 0

    def add(self, now: int, asked: int, passed: int) -> None:
        if not self._slices or self._slices[-1][0] != now:
            self._slices.append([now, 0, 0])
        newest = self._slices[-1]
        newest[1] += asked
        newest[2] += passed
        self._asked += asked
        self._passed += passed
        self._drop(now)

    def sums(self, now: int) -> tuple[int, int]:
        self._drop(now)
        return self._asked, self._passed

    def _drop(self, now: int) -> None:
        while self._slices and self._slices[0][0] <= now - SLICES:
            _, asked, passed = self._slices.popleft()
            self._asked -= asked
            self._passed -= passed
