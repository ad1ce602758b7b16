"""What happens when an exchange is over: budgets booked, stage ``response`` asked, the record completed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from proxy.beside import Beside
from proxy.breakers.admission import Admission
from proxy.coverage import state_of
from proxy.exchange import Exchange
from proxy.live import Live
from proxy.recorder import Recorder
from proxy.refusals import Refuse
from proxy.server_time import ShareMeter
from proxy.state import Runs
from serving.wire.vocabulary import Usage
from tracing.journal import JournalError
from tracing.metrics import Metrics

_log = logging.getLogger(__name__)


class Settling:
    """Settles exchanges. ``clock_ns`` gives nanoseconds since the epoch."""

    def __init__(
        self,
        *,
        admission: Admission,
        runs: Runs,
        recorder: Recorder,
        beside: Beside,
        metrics: Metrics,
        share: ShareMeter,
        live: Live,
        clock_ns: Callable[[], int],
    ) -> None:
        self._admission = admission
        self._runs = runs
        self._recorder = recorder
        self._beside = beside
        self._metrics = metrics
        self._share = share
        self._live = live
        self._clock_ns = clock_ns

    async def refused(self, x: Exchange, refusal: Refuse) -> None:
        """Put a refusal on record, before it leaves."""
        try:
            await self._recorder.refused(x, refusal.status, refusal.code, str(refusal), refusal.rule)
        except JournalError:
            _log.warning("a refusal (%s) could not be put on record", refusal.code)

    def begin(self, x: Exchange) -> None:
        """The exchange is over for the client; the rest is done in a task that no disconnect cancels."""
        x.answered_ns = self._clock_ns()
        if not x.again and not x.seen.pending:
            self._beside.answer(x)
        self._live.later(self._finish(x))

    async def _finish(self, x: Exchange) -> None:
        self._live.over(x)
        tokens, cost = 0, 0.0
        try:
            tokens, cost = await self._book(x)
        finally:
            x.judge.over(x)
            self._runs.settled(x.sighting.run, tokens, cost)
        self._beside.forget(x)
        self._metrics.settled(x.agent, x.ending)
        if x.held_ns:
            self._metrics.held(x.held_ns / 1e9)
        for surface, said in x.coverage.items():
            self._metrics.coverage(surface, state_of(said))
        self._beside.watch.settled(x, x.coverage)
        if x.admitted is not None and x.admitted.lease.binding:
            for budget in await self._admission.budgets(x.agent, x.sighting.run.id):
                if budget.scope != "run":
                    self._metrics.budget(x.agent, budget.scope, budget.unit, budget.used, budget.limit)

    async def _book(self, x: Exchange) -> tuple[int, float]:
        """Puts what it used on its budgets and on record; gives tokens and USD."""
        if x.share_mark is not None:
            x.share_seconds = self._share.end(x.share_mark)
        usage = x.seen.usage
        counted = usage or Usage(x.prompt_estimate if x.seen.choices else 0, 0 if x.fetched else x.seen.tokens)
        if x.kept is not None:
            counted = x.kept.owed(counted)
        if x.admitted is not None:
            if x.seen.choices:
                await self._admission.settle(x.admitted, counted)
            else:
                await self._admission.abandon(x.admitted)
        if x.seen.choices and not x.again and not x.seen.pending:
            await x.judge.response(x)
        await x.judge.late(x)
        x.coverage = x.judge.covered(x)
        if x.checks_pending:
            x.coverage.setdefault("checks", f"pending: {x.checks_pending}")
        cost = self._recorder.settled(x, counted, estimated=usage is None and bool(x.seen.choices))
        self._metrics.tokens(
            x.agent,
            prompt=counted.prompt,
            completion=counted.completion,
            cached=counted.cached,
            reasoning=counted.reasoning,
        )
        self._metrics.cost(x.agent, cost)
        return counted.prompt + counted.completion, cost.total or 0.0
