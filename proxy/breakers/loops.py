"""Which run goes in circles.

A *repeat* is the same call with the same arguments and the same result, with nothing new in between. New is
a call with a result that this stretch of the run has not seen; a word from outside (user, system) begins a
new stretch. So polling whose results change is no loop; neither is testing again after an edit, because the
edit is new.

The state counts, since the last new thing, how often each pair of call and result was there. A turn of
parallel calls counts each of its pairs once: calls that are made together did not see one another's result.
Cycles need no rule of their own: in A B A B A B the second A comes after something new (B), the second B
does not; B repeats once per cycle, so the third repeat is the fourth time round, as with a cycle of one.

A state is a value: it hangs on a point of a history, forks go on from the same one, and reading a turn twice
(a retried request) gives the same state twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from proxy.history import Turn
from serving.settings import BreakerSettings

PAIRS_KEPT = 64
"""Pairs that a stretch or a turn remembers. A cycle of more distinct pairs than that is not seen."""


class LoopState(msgspec.Struct, frozen=True):
    """``seen``: pairs of this stretch, oldest first. ``counts``: pairs since the last new thing, with how
    often each was there, that one included."""

    seen: tuple[bytes, ...] = ()
    counts: tuple[tuple[bytes, int], ...] = ()

    @property
    def repeats(self) -> int:
        """Repeats of the pair that was repeated most."""
        return max((count - 1 for _, count in self.counts), default=0)

    @property
    def weight(self) -> int:
        """What it takes, about: the pairs themselves are shared with the state before."""
        return 8 * len(self.seen) + 88 * len(self.counts)

    def repeats_of(self, pair: bytes | None) -> int:
        return next((count - 1 for known, count in self.counts if known == pair), 0)


START = LoopState()


class Grade(StrEnum):
    NONE = "none"
    ALERT = "alert"
    TRIP = "trip"


def advance(state: LoopState, turn: Turn) -> LoopState:
    """The state after one more turn."""
    if not turn.steps:
        return START
    pairs = list(dict.fromkeys(step.pair for step in turn.steps if step.pair is not None))
    new = [pair for pair in pairs if pair not in state.seen]
    incomparable = any(step.pair is None for step in turn.steps)
    if new or incomparable:
        return LoopState((*state.seen, *new)[-PAIRS_KEPT:], tuple([(pair, 1) for pair in pairs[-PAIRS_KEPT:]]))
    counts = dict(state.counts)
    for pair in pairs:
        counts[pair] = counts.get(pair, 0) + 1
    return LoopState(state.seen, tuple(counts.items()))


def unforgiven(state: LoopState, forgiven: Mapping[bytes, int]) -> int:
    """Repeats that count after an operator released the run: ``forgiven`` says how often each pair had been
    there. A pair that is there less often than was forgiven has begun anew, and counts in full."""
    return max((_left(count, forgiven.get(pair, 1)) for pair, count in state.counts), default=0)


def _left(count: int, forgiven: int) -> int:
    return count - forgiven if count >= forgiven else count - 1


def grade(repeats: int, settings: BreakerSettings) -> Grade:
    """What a number of repeats asks for."""
    if repeats >= settings.repeat_trip:
        return Grade.TRIP
    return Grade.ALERT if repeats >= settings.repeat_alert else Grade.NONE
