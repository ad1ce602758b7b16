"""The journal's records: what is written down of an exchange, one record per step that matters.

Whoever appends a record hands over content that may be stored: capture (redaction) has been applied to every
text field by ``tracing.capture`` before the record is written. Times are integers of nanoseconds since the
epoch, money is in USD, digests are hex.

A record has two parts. Its *facts* (who, when, which rule) are covered by the chain's hash as they stand. Its
*content* (``CONTENT``: what the traffic said) is covered by a keyed seal, so that erasing it later leaves the
chain whole and no digest to guess from (see ``tracing.chain``).
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class Record(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """What every record has: when, and which exchange (empty for operator and process records).

    ``capture_error`` names the error (its class, never its text) for which the record's content was left
    out: content that could not be redacted is not stored.
    """

    CONTENT: ClassVar[tuple[str, ...]] = ()

    time_ns: int
    exchange: str = ""
    capture_error: str | None = None


class Started(Record, frozen=True, tag="started"):
    """A worker began to write: a new epoch of the chain. ``interrupted`` is how many exchanges of earlier
    epochs were found open; as many ``settled`` records follow. ``torn_bytes`` is the length of the
    unfinished last line that a crash left and that was cut off; ``fault`` says what else was wrong with the
    last segment (it was left as it is). ``resumed``: the writing process alone was started again, and the exchanges
    that are open go on."""

    instance: str = ""
    worker: int = 0
    epoch: int = 0
    version: str = ""
    bundle: str = ""
    rollout: str = ""
    interrupted: int = 0
    torn_bytes: int = 0
    fault: str | None = None
    resumed: bool = False


class Opened(Record, frozen=True, tag="opened"):
    """A request was accepted. ``trace_id``/``span_id`` (hex) are the ids that its spans will have;
    ``parent_id`` is the caller's span. ``messages`` and ``tools`` as captured (OpenAI form); ``altered`` names what of
    them is not as it was sent, masked or cut off (``messages/3``, ``tools/0``, ``params``). ``changed_tools`` names
    those tools that were others earlier in the run. ``new_from`` is the first message that the run had not shown
    before; ``so_far`` what the run had used until then, and found (``tokens``, ``cost_usd``, ``tool_calls``,
    ``seconds``, ``findings``; what is zero is left out)."""

    CONTENT = ("params", "messages", "tools", "changed_tools")

    agent: str = ""
    owner: str | None = None
    team: str | None = None
    run: str = ""
    step: int = 0
    so_far: dict[str, Any] = {}
    method: str = ""
    path: str = ""
    api: str = "chat"
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
    new_from: int = 0
    tools: list[Any] = []
    changed_tools: list[str] = []
    altered: list[str] = []
    capture: str = "redacted"


UNRECORDED = "interlock/record"
"""The rule by which nothing is given whose record cannot be written."""


class Decided(Record, frozen=True, tag="decided"):
    """A decision: of a stage, with what fired. ``decision`` is the decision model as plain data. ``exposed``: bytes of
    what was found in a flowing text that had left for the client before it could be stopped. ``moment``: what of the
    input was known at that moment alone, part → value (``policies.inputs.only_then``), and what was found in the
    history (``policies.facts.recorded_facts``); ``altered`` names its parts that are masked or cut off. ``masked`` are
    commitments (hex) to the words that it took out of a text of the answer. With the rule :data:`UNRECORDED` it is no
    answer of policies: it stands beside one that could not be brought to disk in time, and says that the answer was
    stopped instead."""

    CONTENT = ("moment",)

    stage: str = ""
    surface: str = ""
    action: str = ""
    rule: str | None = None
    micros: int = 0
    decision: dict[str, Any] = {}
    exposed: int = 0
    moment: dict[str, Any] = {}
    altered: list[str] = []
    masked: list[str] = []


class CallOutcome(Record, frozen=True, tag="call"):
    """What became of one held tool call. ``outcome``: allowed, approved (by an operator, or by the settings at the
    deadline), masked (given with other arguments, these; ``commitment`` is to the model's), denied,
    terminated (denied, and the answer cut), malformed (denied because its arguments are not one strict JSON object),
    held_bytes (denied because they are too large to hold), unasked (no policy needed asking), unrecorded (refused
    because this record could not be brought to disk in time; it stands beside the record of what had been decided),
    unjudged (a judge was needed and failed, and the settings let it by), dropped (the answer broke off while it was
    held). ``in_text``:
    the model left it in plain text of that surface, where no server reads it as a call. ``altered`` names
    which of ``name``, ``call_id`` and ``arguments`` are not as the model made them (masked, cut off, or an excerpt)."""

    CONTENT = ("arguments",)

    choice: int = 0
    index: int = 0
    call_id: str | None = None
    name: str = ""
    complete: bool = True
    outcome: str = ""
    rule: str | None = None
    arguments: str | None = None
    altered: list[str] = []
    commitment: str | None = None
    held_micros: int = 0
    in_text: str | None = None


class Refused(Record, frozen=True, tag="refused"):
    """Refused before anything was forwarded; ``settled`` with ending ``refused`` follows."""

    status: int = 0
    code: str = ""
    reason: str = ""
    rule: str | None = None


class Checked(Record, frozen=True, tag="checked"):
    """A guardrail check's verdict; may come after ``settled``. ``trace_id`` and ``span_id`` are the
    exchange's, repeated here so that a very late verdict still finds its trace. ``tokens`` is what a model read
    and wrote for it, ``score`` (0 to 1) how sure that was that it is to be blocked."""

    check: str = ""
    surface: str = ""
    status: str = ""
    detail: str | None = None
    micros: int = 0
    trace_id: str = ""
    span_id: str = ""
    traced: bool = True
    tokens: int = 0
    score: float | None = None


class Settled(Record, frozen=True, tag="settled"):
    """The exchange is over. ``ending``: done, refused, cut, client_gone, upstream_failed, interrupted.

    ``choices``: the answer as captured, one object per choice: ``{index, finish_reason, content, reasoning,
    tool_calls: [{id, name, arguments, outcome}]}``; ``altered`` names what of it is not as it was said
    (``choices/0/content``). ``forwarded_ns``, ``first_byte_ns`` and ``answered_ns``
    are when the request left, the answer's first byte came, and its last (0: never). ``checks_pending`` is
    how many checks were still out: the span exporter waits for them up to its grace time.
    """

    CONTENT = ("choices",)

    status: int = 0
    ending: str = ""
    forwarded_ns: int = 0
    first_byte_ns: int = 0
    answered_ns: int = 0
    answer_id: str | None = None
    answer_model: str | None = None
    choices: list[Any] = []
    altered: list[str] = []
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usage_estimated: bool = False
    cost: dict[str, Any] = {}
    held_micros: int = 0
    coverage: dict[str, Any] = {}
    answer_bytes: int = 0
    checks_pending: int = 0


class Alerted(Record, frozen=True, tag="alerted"):
    """An alert fired, was acknowledged, or was resolved (made by ``tracing.alerts``)."""

    CONTENT = ("evidence",)

    fingerprint: str = ""
    state: str = "firing"
    cause: str = ""
    subject: str = ""
    agent: str = ""
    run: str = ""
    severity: str = "high"
    summary: str = ""
    evidence: dict[str, Any] = {}
    since_ns: int = 0
    spent_usd: float | None = None
    forecast: str | None = None
    release: str = ""


class Operated(Record, frozen=True, tag="operated"):
    """An operator did something: who, what, to which run or agent."""

    operator: str = ""
    action: str = ""
    target: str = ""
    reason: str = ""


class Gap(Record, frozen=True, tag="gap"):
    """The journal could not take ``refused`` records since ``since_ns``, because the disk was too slow or
    away; whoever appended them was told, and ended the exchange."""

    refused: int = 0
    since_ns: int = 0


AnyRecord = Started | Opened | Decided | CallOutcome | Refused | Checked | Settled | Alerted | Operated | Gap
