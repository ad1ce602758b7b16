"""What agents and operators are told when a breaker or a budget speaks.

A refusal is read by an agent: it says which rule, what was not executed and what to do instead. Nothing of
the traffic is ever in it; numbers and our own ids are. An alert is read by a person: what, who, since when,
what it has spent, on what evidence, and how to release it. What comes from traffic in an alert is a tool's
name, and only if it looks like one.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from proxy.breakers.breaker import Circuit, Evidence
from proxy.breakers.budgets import Exhausted
from proxy.run import Run

Severity = Literal["low", "medium", "high", "critical"]
TOOL_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
NOT_EXECUTED = "This request was not sent to the model and nothing was executed."


class Alert(msgspec.Struct, frozen=True):
    """``cause`` is ``loop_suspected``, ``loop_detected``, ``budget_exhausted``, ``killed``, ``released`` or a
    detector's own. ``run`` is None where the scope is wider. Times are the breaker's clock's seconds."""

    cause: str
    agent: str | None
    run: str | None
    severity: Severity
    summary: str
    evidence: Evidence
    since: float
    tokens: int = 0
    cost_usd: float = 0.0
    release: str = ""


def plain_name(name: str) -> str:
    """A tool's name, fit for every sink; one that does not look like a name is withheld."""
    return name if TOOL_NAME.fullmatch(name) else "(withheld)"


def loop_refusal(run: str) -> str:
    return (
        "Interlock stopped this run (rule: loop_detected): the same tool calls were made with the same "
        f"arguments and gave the same results, with nothing new in between. {NOT_EXECUTED} Do not send it "
        "again and do not repeat the call. Tell the user what you tried and what came back; the run goes on "
        f"when an operator releases it (run {run})."
    )


def open_refusal(scope: str) -> str:
    return (
        f"Interlock has stopped {whose(scope)} for now (rule: breaker_open): its breaker was tripped. "
        f"{NOT_EXECUTED} Do not send it again before the time that Retry-After gives. Tell the user that an "
        "operator can release it."
    )


def killed_refusal(scope: str) -> str:
    return (
        f"An operator stopped {whose(scope)} (rule: run_killed). {NOT_EXECUTED} Do not send it again and do "
        "not begin anew: end the task and tell the user that an operator stopped it."
    )


def whose(scope: str) -> str:
    return {"run": "this run", "agent": "this agent"}.get(scope.partition(":")[0], "all agents")


def budget_refusal(short: Exhausted) -> str:
    budget = f"the {short.unit} budget of this {short.scope}"
    if short.why == "unbounded":
        return (
            f"Interlock refused this request (rule: budget_exhausted): {budget} binds it, and an answer that "
            f"is not streamed and states no limit cannot be bounded. {NOT_EXECUTED} Send it with max_tokens, "
            "or with stream set to true."
        )
    if short.why == "no_price":
        return (
            f"Interlock refused this request (rule: budget_exhausted): {budget} binds it, and this model has "
            f"no known price. {NOT_EXECUTED} Use a model with a price, or tell the user that an operator "
            "must add one to the price book."
        )
    count = ".6g" if short.unit == "usd" else ".0f"
    return (
        f"Interlock refused this request (rule: budget_exhausted): {budget} is {short.limit:{count}}; "
        f"{short.used:{count}} are used or held for exchanges under way, and this request needs "
        f"{short.wanted:{count}}. {NOT_EXECUTED} Finish with what you have, or send a smaller request with a "
        "lower max_tokens; do not send this one again before the time that Retry-After gives."
    )


def budget_alert(short: Exhausted, run: Run, now: float) -> Alert:
    return Alert(
        cause="budget_exhausted",
        agent=run.agent,
        run=run.id if short.scope == "run" else None,
        severity="high",
        summary=f"The {short.unit} budget of the {short.scope} does not allow another exchange ({short.why}).",
        evidence={
            "scope": short.scope,
            "unit": short.unit,
            "limit": short.limit,
            "used": short.used,
            "wanted": short.wanted,
        },
        since=now,
        tokens=run.tokens,
        cost_usd=run.cost,
        release="Raise the budget in the settings, or wait: rolling budgets free up by themselves.",
    )


def loop_alert(cause: str, run: Run, evidence: Evidence, now: float) -> Alert:
    tripped = cause == "loop_detected"
    return Alert(
        cause=cause,
        agent=run.agent,
        run=run.id,
        severity="high" if tripped else "medium",
        summary=(
            "The run repeats the same tool call with the same result; it is stopped."
            if tripped
            else "The run repeats the same tool call with the same result; it is slowed down."
        ),
        evidence=evidence,
        since=now,
        tokens=run.tokens,
        cost_usd=run.cost,
        release=f"Release run:{run.id}, or give it something new to do." if tripped else "",
    )


def circuit_alert(scope: str, circuit: Circuit, severity: Severity) -> Alert:
    kind, _, name = scope.partition(":")
    return Alert(
        cause=circuit.cause,
        agent=name if kind == "agent" else None,
        run=name if kind == "run" else None,
        severity=severity,
        summary=circuit.reason,
        evidence={**circuit.evidence, "scope": scope, "state": circuit.state.value, "by": circuit.by},
        since=circuit.since,
        release="" if circuit.cause == "released" else f"Release {scope}.",
    )
