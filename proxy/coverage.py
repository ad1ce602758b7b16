"""What of an exchange was judged by whom, and what was not and why; and an alert when too much was not.

How to think about it. Every policy in force for a surface looks at all that comes there, so what is judged by whom is
the same for each exchange of an agent: it is said once, in ready words. An exchange adds which of the surfaces it had,
and what went otherwise (``Exchange.coverage``). Each surface's words begin with a state:

- ``judged``: by policies that are enforced (those that only record stand behind them);
- ``recorded``: by policies in shadow or warn mode alone;
- ``not_needed``: no policy in force reads it, or nothing of it was given;
- ``pending``: checks that had not answered when the exchange was over; their own records say what they found;
- ``unseen``: a policy that only records could not see it;
- ``unjudged``: a policy that is enforced, or a check, could not look at it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from policies.fail_open import SLICES, Window
from policies.model import Mode, PolicyError, Stage
from policies.service import PolicySet
from policies.text_rules import names_field
from proxy.exchange import Exchange
from proxy.recorder import Recorder
from serving.settings import AlertSettings

UNJUDGED, UNSEEN = "unjudged", "unseen"
STATES = frozenset({"judged", "recorded", "not_needed", "pending", UNSEEN, UNJUDGED})
SURFACE_OF = {
    Stage.REQUEST: "request",
    Stage.REASONING: "reasoning",
    Stage.OUTPUT: "text",
    Stage.TOOL_CALL: "tool_call",
    Stage.RESPONSE: "response",
}
_BROKE_OFF = "not_needed: it was not given, because the answer broke off"
_LEAST = 20


def state_of(said: str) -> str:
    """The state with which a surface's words begin."""
    state = said.partition(":")[0]
    return state if state in STATES else UNJUDGED


class Coverage:
    """The words of one policy set. ``holds_calls``: calls are held, so those left in plain text are looked for."""

    def __init__(self, policies: PolicySet, *, holds_calls: bool) -> None:
        self._modes = policies.modes
        self._words = {SURFACE_OF[stage]: self._said(policies.asked(stage)) for stage in Stage}
        self._responds = policies.in_force(Stage.RESPONSE)
        calls = policies.asked(Stage.TOOL_CALL)
        self._written = ""
        if calls and not holds_calls:
            self._written = f"unseen: {', '.join(sorted(calls))} only record, and are not shown calls left in text"
        readers = sorted(name for name, reads in calls.items() if names_field(reads, "call.logprobs"))
        self._logprobs = ""
        if readers and not policies.wants(Stage.TOOL_CALL, "call.logprobs"):
            self._logprobs = f"unseen: the client asked for none, and {', '.join(readers)} only record"
        self._ready: dict[tuple[bool, ...], dict[str, str]] = {}

    def of(self, x: Exchange) -> dict[str, str]:
        """Surface → words, for an exchange that is over."""
        text = reasoning = calls = False
        for seen in x.seen.choices.values():
            text |= bool(seen.text)
            reasoning |= bool(seen.reasoning)
            calls |= bool(seen.calls) or bool(seen.written)
        asked = x.admitted is not None and not x.fetched
        key = (asked, text, reasoning, calls, x.request.logprobs)
        ready = self._ready.get(key)
        if ready is None:
            ready = self._ready[key] = self._made(*key)
        covered = {**ready, **x.coverage}
        if calls and x.ending not in ("done", "cut") and self._not_given(x):
            covered["tool_call"] = _BROKE_OFF
        return covered

    def failed(self, x: Exchange, stage: Stage, error: PolicyError) -> dict[str, str]:
        """What is to be said of a policy that could not be asked; of several of a surface, the first enforced one."""
        surface = SURFACE_OF[stage]
        if x.coverage.get(surface, "").startswith(UNJUDGED):
            return {}
        state = UNJUDGED if error.mode is Mode.ENFORCE else UNSEEN
        return {surface: f"{state}: {error.policy} could not be asked ({error.cause})"}

    def left_out(self, x: Exchange, stage: Stage, policies: Iterable[str]) -> dict[str, str]:
        """What is to be said of policies that only record, and were not asked because too many were to be."""
        surface = SURFACE_OF[stage]
        if x.coverage.get(surface, "").startswith(UNJUDGED):
            return {}
        return {surface: f"{UNSEEN}: {', '.join(sorted(policies))} took too long too often to be asked again"}

    def _made(self, asked: bool, text: bool, reasoning: bool, calls: bool, logprobs: bool) -> dict[str, str]:
        had = {"request": asked, "text": text, "reasoning": reasoning, "tool_call": calls}
        had["response"] = self._responds and (text or reasoning or calls)
        words = {surface: self._words[surface] for surface, present in had.items() if present}
        if self._written and (text or reasoning):
            words["written_calls"] = self._written
        if self._logprobs and calls and not logprobs:
            words["logprobs"] = self._logprobs
        return words

    @staticmethod
    def _not_given(x: Exchange) -> bool:
        return any((n, index) not in x.outcomes for n, seen in x.seen.choices.items() for index in seen.calls)

    def _said(self, asked: Mapping[str, object]) -> str:
        enforced = sorted(name for name in asked if self._modes[name] is Mode.ENFORCE)
        others = sorted(name for name in asked if self._modes[name] is not Mode.ENFORCE)
        parts = [f"{state}: {', '.join(n)}" for state, n in (("judged", enforced), ("recorded", others)) if n]
        return "; ".join(parts) or "not_needed: no policy in force reads it"


class CoverageWatch:
    """Fires ``coverage_falls`` while more than ``coverage_share`` of the exchanges of late, of 20 at least, had
    something unjudged. ``clock`` gives seconds, monotonic."""

    def __init__(
        self, settings: AlertSettings, recorder: Recorder, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._share = settings.coverage_share
        self._slice = settings.coverage_seconds / SLICES
        self._recorder = recorder
        self._clock = clock
        self._window = Window()

    def settled(self, x: Exchange, covered: Mapping[str, str]) -> None:
        """An exchange is over; ``covered`` is what its record says."""
        x.covered = True
        unjudged = [surface for surface, said in covered.items() if said.startswith(UNJUDGED)]
        self._window.add(int(self._clock() / self._slice), 1, bool(unjudged))
        if unjudged:
            self._tell(x, covered, unjudged)

    def late(self, x: Exchange, surface: str) -> None:
        """Something of an exchange that is over turns out to be unjudged; no more than once is it counted."""
        unjudged = [name for name, said in x.coverage.items() if said.startswith(UNJUDGED)]
        if unjudged == [surface]:
            self._window.add(int(self._clock() / self._slice), 0, 1)
            self._tell(x, x.coverage, unjudged)

    def _tell(self, x: Exchange, covered: Mapping[str, str], unjudged: list[str]) -> None:
        total, short = self._window.sums(int(self._clock() / self._slice))
        if total < _LEAST or short <= self._share * total:
            return
        self._recorder.fire(
            "coverage_falls",
            "coverage",
            "*",
            summary=f"{short} of the last {total} exchanges had something that was to be judged and was not.",
            severity="high",
            run=x.sighting.run.id,
            exchange=x.id,
            evidence={"exchanges": total, "unjudged": short, **{name: covered[name] for name in unjudged}},
            release="Look at the evidence: engine, checks, or requests that hide what policies read.",
        )
