"""The records that the proxy appends for one exchange, as tests of what is made from them need them."""

from __future__ import annotations

import hashlib
from typing import Any

from tracing.records import AnyRecord, CallOutcome, Checked, Decided, Opened, Refused, Settled

BEGIN = 1_795_000_000_000_000_000
MS = 1_000_000

MESSAGES: list[Any] = [
    {"role": "system", "content": "You fix repositories."},
    {"role": "user", "content": [{"type": "text", "text": "Clean the build folder."}]},
    {
        "role": "assistant",
        "reasoning": "I should look first.",
        "content": None,
        "tool_calls": [{"id": "call-0", "type": "function", "function": {"name": "ls", "arguments": '{"path": "."}'}}],
    },
    {"role": "tool", "tool_call_id": "call-0", "content": "build src"},
]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "shell", "description": "Runs a command.", "parameters": {"type": "object"}},
    }
]


def trace_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def span_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[32:48]


def opened(name: str, begin: int = BEGIN, **facts: Any) -> Opened:
    given: dict[str, Any] = {
        "agent": "coder",
        "run": "run-1",
        "step": 2,
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "tiny",
        "stream": True,
        "trace_id": trace_id(name),
        "span_id": span_id(name),
        "model_span_id": span_id(name + "model"),
        "params": {"temperature": 0.0, "max_tokens": 256, "seed": 7, "stop": ["END"]},
        "messages": MESSAGES,
        "tools": TOOLS,
    }
    return Opened(time_ns=begin, exchange=name, **{**given, **facts})


def settled(name: str, begin: int = BEGIN, **facts: Any) -> Settled:
    given: dict[str, Any] = {
        "status": 200,
        "ending": "done",
        "forwarded_ns": begin + 2 * MS,
        "first_byte_ns": begin + 12 * MS,
        "answered_ns": begin + 90 * MS,
        "answer_id": f"chatcmpl-{name}",
        "answer_model": "tiny",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "content": "Cleaning up.",
                "reasoning": "The build folder can go; src must stay.",
                "tool_calls": [
                    {"id": "call-1", "name": "shell", "arguments": '{"cmd": "make clean"}', "outcome": "allowed"},
                    {"id": "call-2", "name": "shell", "arguments": '{"cm*": "rm *"}', "outcome": "denied"},
                ],
            }
        ],
        "prompt_tokens": 347,
        "completion_tokens": 45,
        "cached_tokens": 16,
        "reasoning_tokens": 12,
        "cost": {
            "known": True,
            "book": "test-1",
            "total": 0.0005,
            "input": 0.0002,
            "cached": 0.0001,
            "output": 0.00015,
            "reasoning": 0.00005,
        },
        "held_micros": 1500,
        "coverage": {"tool_call": "judged", "text": "unjudged"},
        "answer_bytes": 4000,
    }
    return Settled(time_ns=begin + 100 * MS, exchange=name, **{**given, **facts})


def decided(name: str, begin: int = BEGIN, **facts: Any) -> Decided:
    given: dict[str, Any] = {
        "stage": "tool_call",
        "surface": "call 0/1",
        "action": "deny",
        "rule": "interlock.shell/destructive",
        "micros": 180,
        "decision": {
            "action": "deny",
            "asked": ["interlock.shell", "interlock.secrets"],
            "findings": [
                {
                    "policy": "interlock.shell",
                    "mode": "enforce",
                    "finding": {"id": "destructive", "severity": "high", "message": "No.", "action": "deny"},
                }
            ],
            "engine": "embedded",
            "bundle": "b" * 64,
            "rollout": "r" * 64,
        },
    }
    return Decided(time_ns=begin + 80 * MS, exchange=name, **{**given, **facts})


def call(name: str, index: int, outcome: str, begin: int = BEGIN, **facts: Any) -> CallOutcome:
    given: dict[str, Any] = {
        "index": index,
        "call_id": f"call-{index + 1}",
        "name": "shell",
        "outcome": outcome,
        "arguments": '{"cmd": "make clean"}' if outcome == "allowed" else '{"cm*": "rm *"}',
        "held_micros": 700,
    }
    return CallOutcome(time_ns=begin + 81 * MS, exchange=name, **{**given, **facts})


def checked(name: str, begin: int = BEGIN, **facts: Any) -> Checked:
    given: dict[str, Any] = {
        "check": "nemo",
        "surface": "output",
        "status": "passed",
        "micros": 3000,
        "trace_id": trace_id(name),
        "span_id": span_id(name),
    }
    return Checked(time_ns=begin + 95 * MS, exchange=name, **{**given, **facts})


def whole(name: str, begin: int = BEGIN, **facts: Any) -> list[AnyRecord]:
    """An exchange in which one call was allowed and one denied."""
    return [
        opened(name, begin, **facts),
        decided(
            name, begin, stage="request", surface="", action="allow", rule=None, decision={"asked": ["interlock.tools"]}
        ),
        call(name, 0, "allowed", begin),
        decided(name, begin),
        call(name, 1, "denied", begin, rule="interlock.shell/destructive", commitment="c" * 64),
        checked(name, begin),
        settled(name, begin),
    ]


def refused(name: str, begin: int = BEGIN) -> list[AnyRecord]:
    """An exchange that was refused before it was forwarded."""
    return [
        opened(name, begin),
        Refused(
            time_ns=begin + MS,
            exchange=name,
            status=403,
            code="policy_denied",
            reason="no",
            rule="interlock.tools/not_allowed",
        ),
        Settled(time_ns=begin + MS, exchange=name, status=403, ending="refused"),
    ]
