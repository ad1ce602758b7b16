"""One question to the policies: what they are shown, what they decide, and that it is on record and counted.

Which questions there are, and what follows from a decision, is the judge's affair (``proxy.judge``). Policies that only
record and had no answer at once are asked again when nobody waits any more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Set
from functools import partial

from policies.facts.provenance import Facts
from policies.inputs import OF_THE_MOMENT, decision_input, only_then
from policies.model import (
    Action,
    BudgetFacts,
    CallFacts,
    CheckFact,
    Decision,
    DecisionInput,
    Mode,
    ResponseFacts,
    Signal,
    Stage,
    SurfaceFacts,
)
from policies.redaction import CHANGES
from policies.service import PolicySet
from proxy.backgrounds import Backgrounds
from proxy.coverage import Coverage
from proxy.exchange import Exchange
from proxy.masked_answers import ResponseMasking, TextMasking
from proxy.recorder import Recorder
from tracing.journal import JournalError
from tracing.metrics import Metrics

_log = logging.getLogger(__name__)

_LATER_KEPT = 64
FactsBeside = Callable[[Exchange], Awaitable[tuple[list[CheckFact], list[BudgetFacts]]]]
"""What is known beside the request: the checks' verdicts so far, and the budgets."""


class Deciding:
    """For the exchanges of agents that have one set of policies. ``facts`` are asked for if a policy reads them."""

    def __init__(
        self,
        policies: PolicySet,
        recorder: Recorder,
        metrics: Metrics,
        coverage: Coverage,
        backgrounds: Backgrounds,
        facts: FactsBeside,
    ) -> None:
        self._policies = policies
        self._recorder = recorder
        self._metrics = metrics
        self._coverage = coverage
        self._backgrounds = backgrounds
        self._facts = facts
        self._named = {
            stage: frozenset(f for f in OF_THE_MOMENT if policies.names(stage, f"call.{f}")) for stage in Stage
        }
        self._recent = frozenset(stage for stage in Stage if policies.reads_field(stage, "run.recent_calls"))

    async def decide(
        self,
        x: Exchange,
        stage: Stage,
        surface: str,
        *,
        call: CallFacts | None = None,
        known: Facts | None = None,
        response: ResponseFacts | None = None,
        text: SurfaceFacts | None = None,
        signals: list[Signal] | None = None,
        exposed: int = 0,
        masking: TextMasking | ResponseMasking | None = None,
        without: Set[str] = frozenset(),
        strict: bool = False,
    ) -> Decision:
        """The decision about one place of an exchange (``surface`` names it), on record; not yet on disk.

        ``known``: what ``call`` has from the history. ``without``: policies that are asked at another time.
        ``masking`` is told what was decided. ``strict``: something is masked already, so nothing is let by unjudged."""
        shown = self._policies.shown
        checks: list[CheckFact] = []
        budgets: list[BudgetFacts] = []
        if shown(stage, "checks") or shown(stage, "budgets"):
            checks, budgets = await self._facts(x)
        question = decision_input(
            x,
            stage,
            shown,
            run=x.sighting.run.facts,
            call=call,
            response=response,
            surface=text,
            signals=self._policies.signals(call) if call is not None else signals,
            checks=checks,
            budgets=budgets,
            orders=() if without and without == self._backgrounds.behind else await self._backgrounds.orders(x, stage),
            table=self._backgrounds.table,
        )
        later: set[str] = set()
        decision = await self._policies.decide(question, x.opened_ns, without, strict=strict, later=later)
        note, recent = known.note if known is not None else None, stage in self._recent
        then = partial(only_then, question, shown, self._named[stage], recent=recent, note=note)
        parts = masking.of(decision) if masking is not None and decision.action in CHANGES else ()
        self._put(x, surface, decision, partial(self._recorder.decided, exposed=exposed, moment=then, masked=parts))
        if later and len(x.later) < _LATER_KEPT:
            put = partial(self._recorder.decided, exposed=exposed, moment=then)
            x.later.append(partial(self._ask_later, x, question, surface, frozenset(later), put))
        elif later:
            x.coverage |= self._coverage.left_out(x, stage, later)
        return decision

    async def recorded(self, x: Exchange, stage: Stage, place: str, gives: bool) -> bool:
        """Whether the newest decision is on disk. If it is not, and ``gives`` something to the client, that is not
        given: a second record says so. What it takes away is taken away all the same."""
        try:
            await self._recorder.commit(x.decided_seq)
        except JournalError:
            _log.error("an answer was stopped%s, and the journal cannot be written", " in place of masked" * gives)
            if gives:
                self._metrics.decision(stage.value, Action.DENY.value, "interlock")
                self._recorder.unrecorded(x, stage, place)
            return False
        return True

    async def late(self, x: Exchange) -> None:
        """Nobody waits any more: ask the policies that only record and had no answer at once."""
        for ask in x.later:
            await ask()
        x.later.clear()

    def _put(self, x: Exchange, surface: str, decision: Decision, put: Callable[..., int]) -> None:
        """Puts a decision on record, and what it says where it is counted."""
        self._count(decision)
        if decision.errors:
            self._recorder.judge_failed(x, decision)
            for error in decision.errors:
                x.coverage |= self._coverage.failed(x, decision.stage, error)
        for found in decision.findings:
            x.sighting.run.add_finding(f"{found.policy}/{found.finding.id}")
        if decision.asked:
            x.decided_seq = put(x, surface, decision)

    async def _ask_later(
        self, x: Exchange, question: DecisionInput, surface: str, those: Set[str], put: Callable[..., int]
    ) -> None:
        without = self._policies.asked(question.stage).keys() - those
        self._put(x, surface, await self._policies.decide(question, x.opened_ns, without), put)

    def _count(self, decision: Decision) -> None:
        self._metrics.decision(decision.stage.value, decision.action.value, (decision.rule or "none").split("/")[0])
        for error in decision.errors:
            self._metrics.judge_error(decision.engine, error.cause)
        for found in decision.findings:
            if found.exception is not None:
                self._metrics.excepted(found.policy, found.exception)
            elif found.mode is not Mode.ENFORCE:
                action = found.finding.action.value
                self._metrics.decision(decision.stage.value, action, found.policy, found.mode.value)
