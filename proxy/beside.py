"""Joins the guardrail checks, which run beside the traffic, to the exchanges and runs that they are about.

A verdict may come at any time: before the answer, after it, or after the run's next request. It is put on
record whenever it comes, and is a fact for every later decision about its run; a late ``blocked`` is also a
finding of the run.
"""

from __future__ import annotations

from checks.verdict import CheckJob, Verdict
from policies.model import CheckFact
from proxy.coverage import UNJUDGED, CoverageWatch
from proxy.desks import Desk
from proxy.exchange import Exchange
from proxy.recorder import Recorder
from serving.wire.vocabulary import ToolCall
from tracing.metrics import Metrics


class Beside:
    """``desks`` are the checks at work; they are put here once they are made (they need :meth:`verdict` themselves)."""

    def __init__(self, recorder: Recorder, metrics: Metrics, watch: CoverageWatch) -> None:
        self.desks: list[Desk] = []
        self.watch = watch
        self._recorder = recorder
        self._metrics = metrics
        self._asked: dict[str, Exchange] = {}

    def request(self, x: Exchange) -> None:
        """Ask about what the model is going to read."""
        for desk in self.desks:
            for job in desk.questions.request(x.id, x.request.messages, x.news):
                self._submit(x, desk, job)

    def answer(self, x: Exchange) -> None:
        """Ask about what the model made, given or refused."""
        if not self.desks:
            return
        for number, seen in x.seen.choices.items():
            calls = [ToolCall(number, index, *seen.call(index)) for index in sorted(seen.calls)]
            for desk in self.desks:
                for job in desk.questions.answer(x.id, seen.said, calls):
                    self._submit(x, desk, job)

    def facts(self, x: Exchange) -> list[CheckFact]:
        """What is known of the run by now."""
        return list(x.sighting.run.checks)

    def verdict(self, verdict: Verdict) -> None:
        """A check has spoken, or could not."""
        self._metrics.check(verdict.check, verdict.status, verdict.tokens)
        x = self._asked.get(verdict.ref)
        self._recorder.checked(verdict, x)
        if x is None:
            return
        x.checks_pending -= 1
        if x.checks_pending <= 0 and x.answered_ns:
            self._asked.pop(verdict.ref, None)
        self._covered(x, verdict)
        run = x.sighting.run
        run.add_check(
            CheckFact(check=verdict.check, status=verdict.status, surface=verdict.surface, detail=verdict.detail)
        )
        if verdict.status == "blocked":
            run.add_finding(f"{verdict.check}/{verdict.surface}_blocked")

    def _covered(self, x: Exchange, verdict: Verdict) -> None:
        """Whether the check looked is part of what the exchange's record says of its coverage."""
        if verdict.status in ("passed", "modified", "blocked"):
            x.coverage.setdefault("checks", f"judged: {verdict.check}")
        elif not x.coverage.get("checks", "").startswith(UNJUDGED):
            x.coverage["checks"] = f"{UNJUDGED}: {verdict.check} on {verdict.surface}: {verdict.status}"
            if x.covered:
                self._metrics.coverage("checks", UNJUDGED)
                self.watch.late(x, "checks")

    def forget(self, x: Exchange) -> None:
        """The exchange is settled; it is kept only while verdicts are still to come."""
        for desk in self.desks:
            desk.questions.forget(x.id)
        if x.checks_pending <= 0:
            self._asked.pop(x.id, None)

    def _submit(self, x: Exchange, desk: Desk, job: CheckJob) -> None:
        self._asked[x.id] = x
        x.checks_pending += 1
        desk.scheduler.submit(job)
