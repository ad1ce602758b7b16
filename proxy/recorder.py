"""Turns what happens to an exchange into journal records, content only through the capture of its agent.

Facts are appended at once; content is redacted later, in the journal's writing thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from checks.verdict import Verdict
from policies.in_force import Policies
from policies.model import Decision
from proxy.breakers.words import Alert
from proxy.exchange import Exchange, Outcome
from proxy.state import Alerts
from serving.text import printable
from serving.wire.request import ChatRequest, SentMessage
from serving.wire.vocabulary import Usage
from tracing.alerts import AlertBook
from tracing.capture import Capture
from tracing.journal import Journal, JournalError
from tracing.metrics import Metrics
from tracing.prices import Cost, PriceBook
from tracing.records import CallOutcome, Checked, Decided, Opened, Operated, Record, Refused, Settled

_log = logging.getLogger(__name__)

_NAME_CHARACTERS = 200


class Recorder:
    """``captures`` by agent, ``default`` for the others; ``clock_ns`` gives nanoseconds since the epoch."""

    def __init__(
        self,
        journal: Journal,
        *,
        captures: Mapping[str, Capture],
        default: Capture,
        prices: PriceBook,
        metrics: Metrics,
        alerts: Alerts | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._journal = journal
        self._captures = captures
        self._default = default
        self._prices = prices
        self._metrics = metrics
        self._clock_ns = clock_ns
        self._alerts = alerts or AlertBook(clock=clock_ns)

    def _capture(self, x: Exchange) -> Capture:
        return self._captures.get(x.agent, self._default)

    async def commit(self, seq: int) -> None:
        """Return when record ``seq`` is on disk. Raises ``JournalError``."""
        await self._journal.commit(seq)

    async def room(self, x: Exchange, seconds: float) -> None:
        """Wait until the journal has room for a new exchange, which is then to be opened at once. Raises
        ``JournalError`` if it has none within ``seconds``."""
        if await self._journal.room(x.request_bytes, seconds):
            self._metrics.waited()

    def opened(self, x: Exchange, method: str, path: str) -> int:
        """Raises ``JournalError`` if the journal takes no new exchange."""
        request, capture, run = x.request, self._capture(x), x.sighting.run.id
        facts = Opened(
            time_ns=x.opened_ns,
            exchange=x.id,
            agent=x.agent,
            owner=x.owner,
            team=x.team,
            run=run,
            step=x.sighting.run.step,
            so_far=x.sighting.run.so_far(),
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
            capture=capture.mode,
        )

        def fill() -> Record:
            sent, offered, asked = [_message(m) for m in request.messages], _tools(request), _params(request)
            messages, left_out = capture.messages(sent, run)
            tools = capture.items(offered, run)
            params = capture.value(asked, run) or {}
            model = _name(capture, request.model)
            altered = [] if model == request.model else ["model"]
            if capture.keeps_words:
                altered += [f"messages/{at}" for at, kept in enumerate(messages, left_out) if kept != sent[at]]
                altered += [
                    name for name, kept, had in (("tools", tools, offered), ("params", params, asked)) if kept != had
                ]
            return msgspec.structs.replace(
                facts,
                model=model,
                messages=messages,
                messages_left_out=left_out,
                tools=tools,
                changed_tools=capture.items(sorted(x.sighting.changed_tools), run),
                params=params,
                altered=altered,
            )

        return self._journal.append(facts, fill, weight=x.request_bytes)

    def decided(
        self,
        x: Exchange,
        surface: str,
        decision: Decision,
        exposed: int = 0,
        moment: Callable[[], dict[str, Any]] | None = None,
    ) -> int:
        """``moment`` gives what of the input cannot be had again from the exchange's other records."""
        capture, run = self._capture(x), x.sighting.run.id
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

        def fill() -> Record:
            plain = decision.model_dump(mode="json", exclude_defaults=True)
            kept = plain if capture.mode == "full" else _masked(capture, plain)
            known = moment() if moment is not None and capture.keeps_words else {}
            if not known:
                return msgspec.structs.replace(facts, decision=kept)
            captured: dict[str, Any] = capture.value(known, run)
            altered = [name for name, value in known.items() if captured.get(name) != value]
            return msgspec.structs.replace(facts, decision=kept, moment=captured, altered=altered)

        return self._journal.append(facts, fill)

    def call(self, x: Exchange, outcome: Outcome) -> int:
        """What became of a tool call; to be committed before its first byte, or its refusal, leaves."""
        call, capture, run = outcome.call, self._capture(x), x.sighting.run.id
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

        def fill() -> Record:
            arguments, commitment = capture.text(call.arguments, run), None
            if not outcome.given:
                denied = capture.denied(call.arguments, run)
                arguments, commitment = denied.excerpt, denied.commitment
            kept = {"call_id": capture.text(call.id, run), "name": capture.text(call.name, run) or ""}
            made = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
            kept["arguments"] = arguments
            return msgspec.structs.replace(
                facts,
                **kept,
                altered=[part for part in made if kept[part] != made[part]] if capture.keeps_words else [],
                commitment=commitment,
            )

        return self._journal.append(facts, fill, weight=len(call.arguments))

    async def refused(self, x: Exchange, status: int, code: str, reason: str, rule: str | None) -> None:
        """Put a refusal on disk, and all that was recorded of the exchange before it."""
        seq = self._journal.append(
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
            evidence=_masked(self._captures.get(agent, self._default), dict(alert.evidence)),
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
        return self._journal.append(
            Operated(time_ns=self._clock_ns(), operator=operator, action=action, target=target, reason=reason)
        )

    def price(self, model: str | None) -> Callable[[Usage], float] | None:
        """What a usage of ``model`` costs in USD; None if the price book does not know the model."""
        if not self._prices.knows(model):
            return None
        return lambda usage: self._prices.cost(model, usage).total or 0.0

    def settled(self, x: Exchange, usage: Usage, *, estimated: bool) -> Cost:
        """The exchange is over; gives what it cost."""
        capture, run, now = self._capture(x), x.sighting.run.id, self._clock_ns()
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

        def fill() -> Record:
            said = [_choice(x, number, capture) for number in sorted(x.seen.choices)]
            choices = capture.items(said, run)
            return msgspec.structs.replace(
                facts,
                answer_model=_name(capture, x.seen.model or x.request.model),
                answer_id=capture.text(x.seen.answer_id, run),
                choices=choices,
                altered=_altered(said, choices) if capture.keeps_words and choices != said else [],
            )

        self._note(facts, fill, weight=x.seen.size)
        return cost

    def _note(self, record: Record, fill: Callable[[], Record] | None = None, weight: int = 0) -> None:
        """Append what nobody waits for. A journal that cannot take it says so itself (``gap``)."""
        try:
            self._journal.append(record, fill, weight=weight)
        except JournalError as problem:
            _log.error("a %s record was not taken: %s", type(record).__name__, problem)


def _message(message: SentMessage) -> dict[str, Any]:
    """A message of the request in OpenAI's form."""
    plain: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.reasoning:
        plain["reasoning"] = message.reasoning
    if message.calls:
        plain["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.calls
        ]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        plain["name"] = message.name
    if message.media:
        plain["media"] = list(message.media)
    return plain


def _tools(request: ChatRequest) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in request.tools
    ]


def _params(request: ChatRequest) -> dict[str, Any]:
    """The sampling fields, and what else says how the answer is made; a tool choice that is not the usual one."""
    params = {**request.sampling, "n": request.n, "max_tokens": request.limit}
    if request.tool_choice != ("auto" if request.tools else "none"):
        params["tool_choice"] = request.tool_choice
    return params


def _altered(said: list[dict[str, Any]], kept: list[Any]) -> list[str]:
    """Which parts of which choices are not kept as they were said."""
    return [
        f"choices/{at}/{part}"
        for at, choice in enumerate(said)
        for part, value in choice.items()
        if at >= len(kept) or kept[at].get(part) != value
    ]


def _choice(x: Exchange, number: int, capture: Capture) -> dict[str, Any]:
    """A choice of the answer: what the model said, each call with what became of it. A denied call's
    arguments are not here; its own record has what may be kept of them."""
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
        if outcome is None or outcome.given or capture.mode == "full":
            call["arguments"] = arguments
        else:
            call["refusal"] = outcome.refusal
        calls.append(call)
    return {
        "index": number,
        "finish_reason": seen.finish,
        "content": seen.said,
        "reasoning": seen.thought,
        "tool_calls": calls,
    }


def _name(capture: Capture, name: str | None) -> str | None:
    """A model's name, which is whatever the caller or the model server says: kept in every mode, one bounded
    line, never a secret."""
    return None if name is None else printable(capture.mask_word(printable(name, 4096)), _NAME_CHARACTERS)


def _masked(capture: Capture, value: Any) -> Any:
    """Our own words (constants of policies, names, numbers), which are kept in every mode, but never with a
    secret."""
    if isinstance(value, str):
        return capture.mask_word(value)
    if isinstance(value, dict):
        return {key: _masked(capture, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(capture, inner) for inner in value]
    return value
