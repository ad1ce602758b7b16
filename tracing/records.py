"""The journal's records: what is written down of an exchange, one record per step that matters.

Whoever appends a record hands over content that may be stored: capture (redaction) has been applied to every
text field by ``tracing.capture`` before it gets here. Times are integers of nanoseconds since the epoch,
money is in USD, digests are hex.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Record(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """What every record has: when, and which exchange (empty for operator and process records)."""

    time_ns: int
    exchange: str = ""


class Started(Record, frozen=True, tag="started"):
    """A worker began to write: a new epoch of the chain."""

    instance: str = ""
    version: str = ""
    bundle: str = ""
    rollout: str = ""


class Opened(Record, frozen=True, tag="opened"):
    """A request was accepted. ``trace_id``/``span_id`` (hex) are the ids that its spans will have;
    ``parent_id`` is the caller's span. ``messages`` and ``tools`` as captured (OpenAI form)."""

    agent: str = ""
    run: str = ""
    step: int = 0
    method: str = ""
    path: str = ""
    model: str | None = None
    stream: bool = False
    trace_id: str = ""
    span_id: str = ""
    model_span_id: str = ""
    parent_id: str | None = None
    traced: bool = True
    request_bytes: int = 0
    params: dict[str, Any] = {}
    messages: list[Any] = []
    messages_left_out: int = 0
    tools: list[Any] = []
    capture: str = "redacted"


class Decided(Record, frozen=True, tag="decided"):
    """A decision: of a stage, with what fired. ``decision`` is the decision model as plain data."""

    stage: str = ""
    surface: str = ""
    action: str = ""
    rule: str | None = None
    micros: int = 0
    decision: dict[str, Any] = {}


class CallOutcome(Record, frozen=True, tag="call"):
    """What became of one held tool call: allowed, denied, malformed, or that nothing needed asking."""

    choice: int = 0
    index: int = 0
    call_id: str | None = None
    name: str = ""
    complete: bool = True
    outcome: str = ""
    rule: str | None = None
    arguments: str | None = None
    commitment: str | None = None
    held_micros: int = 0


class Refused(Record, frozen=True, tag="refused"):
    """Refused before anything was forwarded."""

    status: int = 0
    code: str = ""
    reason: str = ""
    rule: str | None = None


class Checked(Record, frozen=True, tag="checked"):
    """A guardrail check's verdict; may come after ``settled``."""

    check: str = ""
    surface: str = ""
    status: str = ""
    detail: str | None = None
    micros: int = 0


class Settled(Record, frozen=True, tag="settled"):
    """The exchange is over. ``ending``: done, refused, cut, client_gone, upstream_failed, interrupted."""

    status: int = 0
    ending: str = ""
    first_byte_ns: int = 0
    answer_id: str | None = None
    answer_model: str | None = None
    choices: list[Any] = []
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usage_estimated: bool = False
    cost: dict[str, Any] = {}
    held_micros: int = 0
    coverage: dict[str, Any] = {}
    answer_bytes: int = 0


class Alerted(Record, frozen=True, tag="alerted"):
    """An alert fired or was resolved."""

    fingerprint: str = ""
    state: str = "firing"
    cause: str = ""
    agent: str = ""
    run: str = ""
    severity: str = "high"
    summary: str = ""
    evidence: dict[str, Any] = {}


class Operated(Record, frozen=True, tag="operated"):
    """An operator did something: who, what, to which run or agent."""

    operator: str = ""
    action: str = ""
    target: str = ""
    reason: str = ""


AnyRecord = Started | Opened | Decided | CallOutcome | Refused | Checked | Settled | Alerted | Operated
