"""Turns what happens to an exchange into journal records, content only through the capture of its agent.

Facts are appended at once; content is a draft, which is redacted where it is written, beside the traffic.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from checks.verdict import Verdict
from policies.in_force import Policies
from policies.model import Action, Decision, Stage
from proxy.breakers.words import Alert
from proxy.exchange import Exchange, Outcome
from proxy.state import Alerts
from serving.wire.request import ChatRequest
from serving.wire.vocabulary import Usage
from tracing.alerts import AlertBook
from tracing.captures import CaptureModes, Captures
from tracing.drafts import CallDraft, DecidedDraft, Draft, OpenedDraft, SettledDraft, masked
from tracing.journal import Journal, JournalError, JournalOverloaded
from tracing.metrics import Metrics
from tracing.prices import Cost, PriceBook
from tracing.records import (
    UNRECORDED,
    Alerted,
    CallOutcome,
    Checked,
    Decided,
    Opened,
    Operated,
    Record,
    Refused,
    Settled,
)
from tracing.writer_link import WriterLink

_log = logging.getLogger(__name__)

NOT_TAKEN = sys.maxsize
"""In place of a record's number: the journal had no room for it. It says so itself (``gap``)."""


class Recorder:
    """``modes`` say how much of whose content is kept, ``captures`` do it to what is written here; ``clock_ns`` gives
    nanoseconds since the epoch."""

    def __init__(
        self,
        journal: Journal | WriterLink,
        *,
        modes: CaptureModes,
        captures: Captures,
        prices: PriceBook,
        metrics: Metrics,
        alerts: Alerts | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._journal = journal
        self._modes = modes
        self._captures = captures
        self._prices = prices
        self._metrics = metrics
        self._clock_ns = clock_ns
        self._alerts = alerts or AlertBook(clock=clock_ns)

    def _append(self, record: Record, draft: Draft | None = None, agent: str = "", weight: int = 0) -> int:
        journal = self._journal
        if isinstance(journal, WriterLink):
            return journal.append(record, draft, agent=agent)
        fill = partial(draft.fill, record, self._captures.of(agent)) if draft is not None else None
        return journal.append(record, fill, weight=weight)

    async def commit(self, seq: int) -> None:
        """Return when record ``seq`` is on disk. Raises ``JournalError``."""
        if seq == NOT_TAKEN:
            raise JournalOverloaded("the record was not taken")
        await self._journal.commit(seq)

    async def room(self, x: Exchange, seconds: float) -> None:
        """Wait until the journal has room for a new exchange, which is then to be opened at once. Raises
        ``JournalError`` if it has none within ``seconds``."""
        if await self._journal.room(x.request_bytes, seconds):
            self._metrics.waited()

    def opened(self, x: Exchange, method: str, path: str) -> int:
        """Raises ``JournalError`` if the journal takes no new exchange."""
        request, run = x.request, x.sighting.run
        facts = Opened(
            time_ns=x.opened_ns,
            exchange=x.id,
            agent=x.agent,
            owner=x.owner,
            team=x.team,
            run=run.id,
            step=run.step,
            so_far=run.so_far(),
            method=method,
            path=path,
            api=x.api,
            stream=request.stream,
            trace_id=x.trace.trace_id,
            span_id=x.trace.span_id,
            model_span_id=x.trace.model_span_id,
            parent_id=x.trace.parent_id,
            traced=x.trace.sampled,
            request_bytes=x.request_bytes,
            new_from=x.message_count - len(x.news),
            capture=self._modes.of(x.agent),
        )
        changed = sorted(x.sighting.changed_tools)
        draft = OpenedDraft(request.model, request.messages, request.tools, changed, _params(request))
        return self._append(facts, draft, x.agent, x.request_bytes)

    def decided(
        self,
        x: Exchange,
        surface: str,
        decision: Decision,
        exposed: int = 0,
        moment: Callable[[], dict[str, Any]] | None = None,
        masked: tuple[str, ...] = (),
    ) -> int:
        """``moment`` gives what of the input cannot be had again from the exchange's other records; ``masked`` are the
        words that the decision took out of a text of the answer. Gives the record's number, or :data:`NOT_TAKEN`."""
        facts = Decided(
            time_ns=self._clock_ns(),
            exchange=x.id,
            stage=decision.stage.value,
            surface=surface,
            action=decision.action.value,
            rule=decision.rule,
            micros=decision.duration_us,
            exposed=exposed,
        )
        known = moment() if moment is not None and self._modes.of(x.agent) in ("full", "redacted") else {}
        draft = DecidedDraft(x.sighting.run.id, decision.model_dump(mode="json", exclude_defaults=True), known, masked)
        try:
            return self._append(facts, draft, x.agent)
        except JournalError as problem:
            _log.error("a decision was not put on record: %s", problem)
            return NOT_TAKEN

    def unrecorded(self, x: Exchange, stage: Stage, surface: str) -> None:
        """What was decided last is not what happens: its record could not be written, so the answer is stopped."""
        now, action = self._clock_ns(), Action.DENY.value
        self._note(Decided(now, x.id, stage=stage.value, surface=surface, action=action, rule=UNRECORDED))

    def call(self, x: Exchange, outcome: Outcome) -> int:
        """What became of a tool call; to be committed before its first byte, or its refusal, leaves."""
        call = outcome.call
        facts = CallOutcome(
            time_ns=self._clock_ns(),
            exchange=x.id,
            choice=call.choice,
            index=call.index,
            complete=call.complete,
            outcome=outcome.outcome,
            rule=outcome.rule,
            held_micros=x.held(time.perf_counter_ns()) // 1000,
            in_text=outcome.in_text,
        )
        draft = CallDraft(x.sighting.run.id, call.id, call.name, call.arguments, outcome.given, outcome.masked)
        return self._append(facts, draft, x.agent, len(call.arguments))

    async def refused(self, x: Exchange, status: int, code: str, reason: str, rule: str | None) -> None:
        """Put a refusal on disk, and all that was recorded of the exchange before it."""
        seq = self._append(
            Refused(time_ns=self._clock_ns(), exchange=x.id, status=status, code=code, reason=reason, rule=rule)
        )
        x.status = x.status or status
        await self._journal.commit(seq)

    def checked(self, verdict: Verdict, x: Exchange | None) -> None:
        """A guardrail check's verdict, whenever it comes."""
        record = Checked(
            time_ns=self._clock_ns(),
            exchange=verdict.ref,
            check=verdict.check,
            surface=verdict.surface,
            status=verdict.status,
            detail=verdict.detail,
            micros=verdict.micros,
            trace_id=x.trace.trace_id if x else "",
            span_id=x.trace.span_id if x else "",
            traced=x.trace.sampled if x else False,
            tokens=verdict.tokens,
            score=verdict.score,
        )
        self._note(record)

    def alerted(self, alert: Alert, exchange: str = "") -> None:
        """An alert of a breaker; nothing is written of one whose cause fires already."""
        agent, subject = alert.agent or "*", f"breakers.{alert.cause}"
        if alert.cause == "released":
            for cause in ("killed", "loop_detected", "breaker_open"):
                self.resolve(cause, f"breakers.{cause}", agent)
            return
        if alert.cause == "loop_detected":  # what was suspected is certain now
            self.resolve("loop_suspected", "breakers.loop_suspected", agent)
            self._metrics.tripped(agent, alert.cause)
        self.fire(
            alert.cause,
            subject,
            agent,
            summary=alert.summary,
            severity=alert.severity,
            run=alert.run or "",
            exchange=exchange,
            evidence=masked(self._captures.of(agent), dict(alert.evidence)),
            spent_usd=alert.cost_usd or None,
            release=alert.release,
        )

    def judge_failed(self, x: Exchange, decision: Decision) -> None:
        """A policy could not be asked: denied, and somebody must know."""
        self.fire(
            "judge_unavailable",
            decision.engine,
            x.agent,
            summary="Policies cannot be asked; what they would judge is denied.",
            severity="critical",
            run=x.sighting.run.id,
            exchange=x.id,
            evidence={"rule": decision.rule or "", "causes": sorted({error.cause for error in decision.errors})},
        )

    def fire(self, cause: str, subject: str, agent: str, **what: Any) -> None:
        """Something happened that somebody must know (``tracing.alerts.AlertBook.fire``)."""
        record = self._alerts.fire(cause, subject, agent, **what)
        if record is not None:
            self._metrics.alerted(record.cause, record.severity)
            self._note(record)

    def resolve(self, cause: str, subject: str, agent: str) -> None:
        """A cause is gone."""
        if (record := self._alerts.resolve(cause, subject, agent)) is not None:
            self._note(record)

    def acknowledged(self, record: Alerted) -> None:
        """An operator looks after an alert (``tracing.alerts.AlertBook.acknowledge``)."""
        self._note(record)

    def expire_alerts(self) -> None:
        """End alerts whose cause has been quiet for long; called now and then."""
        for record in self._alerts.expire():
            self._note(record)

    def exceptions_end(self, policies: Policies) -> None:
        """Tell of exceptions that end within a week, and of those that have; called now and then."""
        now = datetime.fromtimestamp(self._clock_ns() / 1e9, UTC)
        soon = {one.name for one in policies.expiring(now)}
        for one in policies.rollout.exceptions():
            subject, written = f"exception {one.name}", one.written
            ended = written.expires <= now
            if not ended and one.name not in soon:
                continue
            if ended:
                self.resolve("exception_expires", subject, "*")
            self.fire(
                "exception_expired" if ended else "exception_expires",
                subject,
                "*",
                summary=f"An exception of policy {written.policy} {'has ended' if ended else 'ends within a week'}.",
                severity="low" if ended else "medium",
                evidence={
                    "policy": written.policy,
                    "reason": written.reason,
                    "owner": written.owner,
                    "approver": written.approver,
                    "expires": written.expires.isoformat(),
                },
                release="Take it out of the roll-out, or have a new end approved and sign the document again.",
            )

    def operated(self, operator: str, action: str, target: str, reason: str) -> int:
        return self._append(
            Operated(time_ns=self._clock_ns(), operator=operator, action=action, target=target, reason=reason)
        )

    def price(self, model: str | None) -> Callable[[Usage], float] | None:
        """What a usage of ``model`` costs in USD; None if the price book does not know the model."""
        if not self._prices.knows(model):
            return None
        return lambda usage: self._prices.cost(model, usage).total or 0.0

    def settled(self, x: Exchange, usage: Usage, *, estimated: bool) -> Cost:
        """The exchange is over; gives what it cost."""
        now = self._clock_ns()
        cost = self._prices.cost(x.request.model, usage, seconds=x.share_seconds)
        facts = Settled(
            time_ns=now,
            exchange=x.id,
            status=x.status,
            ending=x.ending,
            forwarded_ns=x.forwarded_ns,
            first_byte_ns=x.first_byte_ns,
            answered_ns=x.answered_ns,
            prompt_tokens=usage.prompt,
            completion_tokens=usage.completion,
            cached_tokens=usage.cached,
            reasoning_tokens=usage.reasoning,
            usage_estimated=estimated,
            cost=cost.record(),
            held_micros=x.held_ns // 1000,
            coverage=dict(x.coverage),
            answer_bytes=x.answer_bytes,
            checks_pending=x.checks_pending,
        )
        whole = self._modes.of(x.agent) == "full"
        choices = [_choice(x, number, whole) for number in sorted(x.seen.choices)]
        masked = tuple(
            f"choices/{at}/{part}"
            for at, number in enumerate(sorted(x.seen.choices))
            for part in _masked_parts(x, number)
        )
        draft = SettledDraft(x.sighting.run.id, x.seen.model or x.request.model, x.seen.answer_id, choices, masked)
        self._note(facts, draft, x.agent, x.seen.size)
        return cost

    def _note(self, record: Record, draft: Draft | None = None, agent: str = "", weight: int = 0) -> None:
        """Append what nobody waits for. A journal that cannot take it says so itself (``gap``)."""
        try:
            self._append(record, draft, agent, weight)
        except JournalError as problem:
            _log.error("a %s record was not taken: %s", type(record).__name__, problem)


def _params(request: ChatRequest) -> dict[str, Any]:
    """The sampling fields, and what else says how the answer is made; a tool choice that is not the usual one."""
    params = {**request.sampling, "n": request.n, "max_tokens": request.limit}
    if request.tool_choice != ("auto" if request.tools else "none"):
        params["tool_choice"] = request.tool_choice
    return params


def _choice(x: Exchange, number: int, whole: bool) -> dict[str, Any]:
    """A choice of the answer: what the model said, each call with what became of it. A denied call's
    arguments are not here, but if the ``whole`` is kept; its own record has what may be kept of them."""
    seen = x.seen.choices[number]
    calls: list[dict[str, Any]] = []
    for index in sorted(seen.calls):
        call_id, name, arguments = seen.call(index)
        outcome = x.outcomes.get((number, index))
        at = {} if index == len(calls) else {"index": index}
        call: dict[str, Any] = {
            **at,
            "id": call_id,
            "name": name,
            "outcome": outcome.outcome if outcome else "unjudged",
        }
        if outcome is None or outcome.given or whole:
            call["arguments"] = arguments if outcome is None else outcome.arguments
        else:
            call["refusal"] = outcome.refusal
        calls.append(call)
    return {
        "index": number,
        "finish_reason": seen.finish,
        "content": seen.given("text"),
        "reasoning": seen.given("reasoning"),
        "tool_calls": calls,
    }


def _masked_parts(x: Exchange, number: int) -> list[str]:
    """What of a choice is not on record as the model said it."""
    masks = x.seen.choices[number].masks
    parts = [name for name, surface in (("content", "text"), ("reasoning", "reasoning")) if surface in masks]
    calls = any(choice == number and one.masked is not None for (choice, _), one in x.outcomes.items())
    return parts + (["tool_calls"] if calls else [])
