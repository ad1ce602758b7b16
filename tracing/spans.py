"""The OpenTelemetry spans of one exchange. Pure: records in, finished spans out.

One tree per exchange: the root is the agent's step as Interlock served it; below it the model call (vLLM's own
span becomes its child, because the request went on with its id), every policy decision, every check, and
every tool call that was handed to the client or kept from it. Names and attributes are those of the GenAI
semantic conventions where they have one, ``interlock.*`` else.

The ids of root and model call were chosen when the exchange was opened; all others are made from the root's, so
that a span that is sent twice is the same span.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from tracing.exchange import STOPPED, Exchange
from tracing.genai import input_messages, output_messages, parsed, tool_definitions
from tracing.records import CallOutcome, Checked, Decided, Opened, Settled

_SCOPE = InstrumentationScope("interlock", "1")
_PARAMS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "reasoning_effort": "gen_ai.request.reasoning.level",
}
_FAILED = ("upstream_failed", "interrupted")

Attributes = dict[str, AttributeValue | None]


def resource(instance: str, version: str) -> Resource:
    """Who reports the spans."""
    return Resource({"service.name": "interlock", "service.version": version, "service.instance.id": instance})


def spans_of(exchange: Exchange, source: Resource, *, mlflow: bool = False) -> list[ReadableSpan]:
    """The span tree, root first; [] if the caller wanted no trace, or the record has no beginning or end.

    ``mlflow`` adds what MLflow reads and others do not: the messages on the root (its previews), tags, cost.
    """
    opened, settled = exchange.opened, exchange.settled
    if opened is None or settled is None or not opened.traced or not opened.trace_id:
        return []
    tree = _Tree(opened, settled, source)
    root = tree.span(
        f"invoke_agent {opened.agent}",
        opened.span_id,
        opened.parent_id,
        opened.time_ns,
        settled.time_ns,
        _root_attributes(exchange, opened, settled, mlflow=mlflow),
        kind=SpanKind.SERVER,
        status=_status(settled),
    )
    spans = [root]
    if exchange.refused is None and settled.forwarded_ns:
        spans.append(
            tree.span(
                f"chat {opened.model or settled.answer_model or 'unknown'}",
                opened.model_span_id,
                opened.span_id,
                settled.forwarded_ns,
                settled.answered_ns or settled.time_ns,
                _model_attributes(exchange, opened, settled, mlflow=mlflow),
                kind=SpanKind.CLIENT,
                status=_status(settled),
            )
        )
    more: Attributes = {"mlflow.spanType": "GUARDRAIL"} if mlflow else {}
    spans += [_decision_span(tree, number, record, more) for number, record in enumerate(exchange.decisions)]
    spans += [_check_span(tree, record, more) for record in exchange.checks]
    spans += [_call_span(tree, call) for call in _calls(exchange, settled)]
    return spans


def late_check_span(check: Checked, source: Resource) -> ReadableSpan | None:
    """The span of a check whose exchange has been sent; None if it belongs to no trace."""
    if not check.trace_id or not check.traced:
        return None
    tree = _Tree(
        Opened(time_ns=check.time_ns, exchange=check.exchange, trace_id=check.trace_id, span_id=check.span_id),
        Settled(time_ns=check.time_ns),
        source,
    )
    return _check_span(tree, check, {})


class _Tree:
    """Makes the spans of one trace."""

    def __init__(self, opened: Opened, settled: Settled, source: Resource) -> None:
        self.root_id = opened.span_id
        self.exchange = opened.exchange
        self._trace_id = int(opened.trace_id, 16)
        self._source = source
        self.end_ns = settled.time_ns

    def child_id(self, *parts: object) -> str:
        """The same for the same parts of the same exchange."""
        text = "\n".join((self.root_id, *map(str, parts)))
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]

    def span(
        self,
        name: str,
        span_id: str,
        parent_id: str | None,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status | None = None,
    ) -> ReadableSpan:
        kept = {key: value for key, value in attributes.items() if value is not None}
        return ReadableSpan(
            name=name,
            context=self._context(span_id, remote=False),
            parent=self._context(parent_id, remote=kind is SpanKind.SERVER) if parent_id else None,
            resource=self._source,
            attributes=kept,
            kind=kind,
            status=status or Status(StatusCode.UNSET),
            start_time=min(start_ns, end_ns),
            end_time=end_ns,
            instrumentation_scope=_SCOPE,
        )

    def child(
        self,
        name: str,
        span_id: str,
        end_ns: int,
        micros: int,
        attributes: Attributes,
        status: Status | None = None,
    ) -> ReadableSpan:
        attributes["interlock.exchange"] = self.exchange
        return self.span(name, span_id, self.root_id, end_ns - micros * 1000, end_ns, attributes, status=status)

    def _context(self, span_id: str, *, remote: bool) -> SpanContext:
        return SpanContext(self._trace_id, int(span_id, 16), remote, TraceFlags(TraceFlags.SAMPLED))


def _root_attributes(exchange: Exchange, opened: Opened, settled: Settled, *, mlflow: bool) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": opened.agent,
        "gen_ai.conversation.id": opened.run or None,
        "http.request.method": opened.method or None,
        "url.path": opened.path or None,
        "http.response.status_code": settled.status or None,
        "interlock.exchange": exchange.id,
        "interlock.run": opened.run or None,
        "interlock.step": opened.step,
        "interlock.ending": settled.ending,
        "interlock.denied": exchange.denied,
        "interlock.rule": exchange.rule,
        "interlock.capture": opened.capture,
        "interlock.held_ms": settled.held_micros / 1000,
        "interlock.coverage": _json(settled.coverage) if settled.coverage else None,
        "interlock.messages_left_out": opened.messages_left_out or None,
    }
    if exchange.refused is not None:
        attributes["error.type"] = exchange.refused.code
    elif settled.ending in _FAILED:
        attributes["error.type"] = settled.ending
    if mlflow:
        attributes |= _messages(opened, settled)
        tags = {
            "interlock.exchange": exchange.id,
            "interlock.agent": opened.agent,
            "interlock.run": opened.run,
            "interlock.ending": settled.ending,
            "interlock.outcome": "denied" if exchange.denied else "allowed",
            "interlock.rule": exchange.rule,
        }
        attributes |= {f"mlflow.traceTag.{name}": value for name, value in tags.items() if value}
    return attributes


def _model_attributes(exchange: Exchange, opened: Opened, settled: Settled, *, mlflow: bool) -> Attributes:
    reasons = [str(choice.get("finish_reason")) for choice in settled.choices if isinstance(choice, dict)]
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.agent.name": opened.agent,
        "gen_ai.conversation.id": opened.run or None,
        "gen_ai.request.model": opened.model,
        "gen_ai.request.stream": opened.stream,
        "gen_ai.response.id": settled.answer_id,
        "gen_ai.response.model": settled.answer_model or opened.model,
        "gen_ai.response.finish_reasons": reasons or None,
        "gen_ai.usage.input_tokens": settled.prompt_tokens,
        "gen_ai.usage.output_tokens": settled.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": settled.cached_tokens or None,
        "gen_ai.usage.reasoning.output_tokens": settled.reasoning_tokens or None,
        "interlock.usage_estimated": settled.usage_estimated or None,
        "interlock.exchange": exchange.id,
        **_params(opened.params),
        **_messages(opened, settled),
    }
    if opened.tools:
        attributes["gen_ai.tool.definitions"] = _json(tool_definitions(opened.tools))
    if settled.first_byte_ns and settled.forwarded_ns:
        elapsed = (settled.first_byte_ns - settled.forwarded_ns) / 1e9
        attributes["gen_ai.response.time_to_first_chunk"] = elapsed
    total = exchange.cost
    if total is not None:
        attributes["interlock.cost.usd"] = total
        attributes["interlock.cost.book"] = str(settled.cost.get("book", ""))
        if mlflow:
            attributes["mlflow.llm.cost"] = _json(_mlflow_cost(settled.cost, total))
    return attributes


def _params(params: Mapping[str, Any]) -> Attributes:
    found: Attributes = {}
    for name, attribute in _PARAMS.items():
        value = params.get(name)
        if isinstance(value, bool | int | float | str):
            found[attribute] = value
    stop = params.get("stop")
    if stop:
        found["gen_ai.request.stop_sequences"] = [stop] if isinstance(stop, str) else [str(one) for one in stop]
    return found


def _messages(opened: Opened, settled: Settled) -> Attributes:
    return {
        "gen_ai.input.messages": _json(input_messages(opened.messages)) if opened.messages else None,
        "gen_ai.output.messages": _json(output_messages(settled.choices)) if settled.choices else None,
    }


def _mlflow_cost(cost: Mapping[str, Any], total: float) -> dict[str, float]:
    """MLflow's three costs; a cost by time counts as output."""
    given = [cost.get(name) for name in ("input", "cached", "output", "reasoning")]
    parts = [float(part) if isinstance(part, int | float) else 0.0 for part in given]
    spent_in = round(parts[0] + parts[1], 12)
    return {"input_cost": spent_in, "output_cost": round(total - spent_in, 12), "total_cost": total}


def _decision_span(tree: _Tree, number: int, record: Decided, more: Attributes) -> ReadableSpan:
    decision = record.decision
    findings = decision.get("findings")
    attributes: Attributes = {
        "interlock.policy.stage": record.stage,
        "interlock.policy.surface": record.surface or None,
        "interlock.policy.action": record.action,
        "interlock.policy.rule": record.rule,
        "interlock.policy.asked": _strings(decision.get("asked")),
        "interlock.policy.findings": [_finding(one) for one in findings] if isinstance(findings, list) else None,
        "interlock.policy.engine": _string(decision.get("engine")),
        "interlock.policy.bundle": _string(decision.get("bundle")),
        "interlock.policy.rollout": _string(decision.get("rollout")),
        "interlock.policy.errors": len(decision["errors"]) if decision.get("errors") else None,
        **more,
    }
    span_id = tree.child_id("policy", record.stage, record.surface, number)
    return tree.child(f"policy {record.stage}", span_id, record.time_ns, record.micros, attributes)


def _finding(finding: Any) -> str:
    """``policy/finding mode action`` of one finding that fired."""
    if not isinstance(finding, dict):
        return str(finding)
    inner = finding.get("finding")
    inner = inner if isinstance(inner, dict) else {}
    return f"{finding.get('policy')}/{inner.get('id')} {finding.get('mode')} {inner.get('action')}"


def _check_span(tree: _Tree, record: Checked, more: Attributes) -> ReadableSpan:
    failed = record.status in ("error", "timeout", "dropped")
    attributes: Attributes = {
        "interlock.check.name": record.check,
        "interlock.check.surface": record.surface,
        "interlock.check.status": record.status,
        "interlock.check.detail": record.detail,
        "interlock.check.tokens": record.tokens or None,
        "interlock.check.score": record.score,
        "error.type": record.status if failed else None,
        **more,
    }
    span_id = tree.child_id("check", record.check, record.surface, record.time_ns)
    status = Status(StatusCode.ERROR, record.status) if failed else None
    return tree.child(f"check {record.check}", span_id, record.time_ns, record.micros, attributes, status)


def _calls(exchange: Exchange, settled: Settled) -> list[CallOutcome]:
    """Every call of the answer: those that were held have records of their own, others only stand in it."""
    recorded = {call.call_id for call in exchange.calls if call.call_id}
    places = {(call.choice, call.index) for call in exchange.calls}
    found = list(exchange.calls)
    for choice in settled.choices:
        calls = choice.get("tool_calls") if isinstance(choice, dict) else None
        for index, call in enumerate(calls if isinstance(calls, list) else ()):
            number = choice.get("index") or 0
            if not isinstance(call, dict) or call.get("id") in recorded or (number, index) in places:
                continue
            found.append(
                CallOutcome(
                    time_ns=settled.answered_ns or settled.time_ns,
                    exchange=exchange.id,
                    choice=number,
                    index=index,
                    call_id=call.get("id"),
                    name=str(call.get("name") or ""),
                    outcome=str(call.get("outcome") or "unjudged"),
                    arguments=call.get("arguments"),
                )
            )
    return found


def _call_span(tree: _Tree, call: CallOutcome) -> ReadableSpan:
    stopped = call.outcome in STOPPED
    attributes: Attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.name,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": call.call_id,
        "gen_ai.tool.call.arguments": _json(parsed(call.arguments)) if call.arguments else None,
        "interlock.call.outcome": call.outcome,
        "interlock.call.blocked": stopped,
        "interlock.call.rule": call.rule,
        "interlock.call.complete": call.complete,
        "interlock.call.commitment": call.commitment,
        "interlock.call.choice": call.choice,
        "interlock.call.index": call.index,
        "error.type": call.outcome if stopped else None,
    }
    status = Status(StatusCode.ERROR, f"{call.outcome}: {call.rule or 'no rule'}") if stopped else None
    span_id = tree.child_id("call", call.choice, call.index)
    return tree.child(f"execute_tool {call.name}", span_id, call.time_ns, call.held_micros, attributes, status)


def _status(settled: Settled) -> Status:
    if settled.ending in _FAILED or settled.status >= 500:
        return Status(StatusCode.ERROR, settled.ending)
    return Status(StatusCode.OK)


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _string(value: Any) -> str | None:
    return str(value) if value else None


def _strings(value: Any) -> Sequence[str] | None:
    return [str(one) for one in value] if isinstance(value, list) else None
