"""What a policy is asked, and what it answers.

One decision is a pure function of one :class:`DecisionInput`: nothing else (no clock, no network, no state)
can change it, so any decision can be made again later from the record. Policies answer with
:class:`Finding` objects; how findings become one action is in ``policies.compose``.

The input has a version ``major.minor``. A minor version only adds fields; a policy declares the major that it
was written for.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

INPUT_VERSION = "1.2"


class Stage(StrEnum):
    """When a policy is asked. ``REASONING`` and ``OUTPUT`` are asked while an answer flows."""

    REQUEST = "request"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"
    OUTPUT = "output"
    RESPONSE = "response"


TEXT_STAGES = (Stage.REASONING, Stage.OUTPUT)
"""The stages that are asked about text, in the order in which a model writes it."""


class Action(StrEnum):
    """What a finding asks for, from the mildest to the strictest (see ``policies.compose.STRICTNESS``)."""

    ALLOW = "allow"
    FLAG = "flag"
    REDACT = "redact"
    QUARANTINE = "quarantine"
    APPROVE = "approve"
    DENY = "deny"
    TERMINATE = "terminate"


class Severity(StrEnum):
    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Mode(StrEnum):
    """Enforce changes what the client gets; warn alerts; shadow only records."""

    ENFORCE = "enforce"
    WARN = "warn"
    SHADOW = "shadow"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identity(_Part):
    """Who asks: the agent that the credential stands for; ``anonymous`` where none is configured."""

    agent: str
    owner: str | None = None
    team: str | None = None


class RecentCall(_Part):
    """A tool call of this run that the model made earlier. ``repeats`` counts how often the same call
    gave the same result with nothing new in between (0 = not yet repeated)."""

    name: str
    arguments: str
    result_changed: bool | None = None
    repeats: int = 0


class RunFacts(_Part):
    """What is known of the run so far: counts are of earlier exchanges, tokens and USD of settled ones."""

    id: str
    step: int = 0
    tool_calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    recent_calls: list[RecentCall] = []
    findings: list[str] = Field(default=[], description="Ids of earlier findings, `policy/id`.")


Trust = Literal["trusted", "internal", "untrusted"]
"""How far the results of a tool are believed (settings: `tools`); a tool that no setting names is untrusted."""

Sink = Literal["recipient", "url", "path", "command"]
"""What an argument decides: who gets something, where it is fetched from or sent to, which file, what is run."""


class OfferedTool(_Part):
    """``digest`` is of name, description and parameters; ``changed``: an earlier request of the run offered another
    tool under this name."""

    name: str
    description: str | None = None
    parameters: Any = None
    digest: str = ""
    changed: bool = False


class MessageView(_Part):
    """One message of the request; ``new`` if the run had not shown it before. ``index`` is its place among all messages
    of the request. A tool's result says which ``tool`` gave it and how far that is trusted (null: no result)."""

    role: str
    text: str
    name: str | None = None
    tool_call_id: str | None = None
    new: bool = True
    index: int = 0
    tool: str | None = None
    trust: Trust | None = None


class OrderPassage(_Part):
    """A passage of a tool's result that gives orders to who reads it. ``message`` is the message's index in the
    request, ``start`` and ``end`` are code points of its text, ``kinds`` say what gave it away, ``score`` (0 to 1) how
    sure that is: from 0.5 on it is one; one below is doubtful, and only there once a call may settle it (stage
    ``tool_call``). ``asked``: the user named what was fetched with this result, or the tool. Its words are not here."""

    message: int
    tool: str | None = None
    trust: Trust = "untrusted"
    start: int
    end: int
    kinds: list[str] = []
    score: float
    asked: bool = False


class RequestFacts(_Part):
    api: Literal["chat", "batch", "completions", "responses", "messages"] = "chat"
    model: str | None = None
    stream: bool = False
    n: int = 1
    tool_choice: Any = None
    tools: list[OfferedTool] = []
    messages: list[MessageView] = Field(default=[], description="New messages only; all if unknown.")
    message_count: int = 0
    sampling: dict[str, Any] = Field(default={}, description="temperature, top_p, max_tokens, seed …")
    orders: list[OrderPassage] = Field(
        default=[], description="Passages of tool results that give orders: of new ones at stage request, else of all."
    )


class Probability(_Part):
    """Least and mean probability (0 to 1) of the ``tokens`` tokens that spell something."""

    min: float
    mean: float
    tokens: int


class ArgumentProbability(Probability):
    """An argument's value; ``path`` is its JSON pointer in the arguments."""

    path: str


class UnalignedArgument(_Part):
    """An argument whose tokens are not known for sure, and why. It has no ``min``: a rule about that does not fire."""

    path: str
    unaligned: str


class CallLogprobs(_Part):
    """How sure the model was of a call: of the answer as far as it had come, of the tool's name (null: not known) and
    of each argument. ``unaligned``: why nothing is known of the arguments."""

    answer: Probability
    name: Probability | None = None
    arguments: list[ArgumentProbability | UnalignedArgument] = []
    unaligned: str | None = None


class Origin(_Part):
    """Where a value stands in what the model had seen. ``source`` is the role of that message, or `reasoning` or
    `call` (an earlier call's arguments) within an assistant's; ``tool`` and ``trust`` are of a tool's result.
    ``relation``: the value is the `whole` message or field there, a `part` of it, the `host` of a URL there, stands
    there `decoded` (percent, Base64, JSON escapes) or `normalised` (case, white space, punctuation, number or date
    format). ``order`` is the index in `request.orders` of the passage in which it stands there; ``orders``: that one
    is not doubtful."""

    source: Literal["system", "user", "assistant", "reasoning", "call", "tool"]
    tool: str | None = None
    message: int
    trust: Trust | None = None
    relation: Literal["whole", "part", "host", "decoded", "normalised"]
    orders: bool = False
    order: int | None = None


class ValueProvenance(_Part):
    """All origins of a value of the arguments, or of the span of it between ``start`` and ``end`` (code points; both
    null: all of it). ``path`` is its JSON pointer. No origins: it stands nowhere in what the model had seen.
    ``by_user``: it stands in a user's or the system's message; ``by_plan``: in what the assistant wrote before the
    first passage that gives orders came."""

    path: str
    start: int | None = None
    end: int | None = None
    origins: list[Origin] = []
    sink: Sink | None = None
    by_user: bool = False
    by_plan: bool = False


class UnplacedValue(_Part):
    """A value of which not all origins are listed, and why: it is too ``short`` (under 3 letters or digits) and was not
    looked for; nor was it, because the call has ``many_values``; only some of its spans were (``many_parts``); it
    stands in more places than are listed (``many_places``)."""

    path: str
    reason: Literal["short", "many_values", "many_parts", "many_places"]


class OrderedBy(_Part):
    """A passage that names what the call does: its index in `request.orders`, and how sure (0 to 1) it is that it is an
    order for this call. Of a doubtful passage the call itself makes it surer: that it is called so, and takes values
    that stand there and were named by nobody else."""

    order: int
    sure: float


class CallNamed(_Part):
    """Who named what the call does, by the tool's name or what it is described to do: the user, the system's message,
    an assistant's plan from before the first passage that gives orders, or such passages. ``delegated``: the user hands
    a task over to what a tool will return ("do what the ticket says")."""

    by_user: bool = False
    delegated: bool = False
    by_system: bool = False
    by_plan: bool = False
    by_orders: list[OrderedBy] = []


class CallMismatch(_Part):
    """What the model thinks against what it does: ``refuses``, its reasoning or text says that it will not do this;
    ``conceals``, that it hides it from somebody; ``ordered_only``, a passage of a tool's result asks for this call, and
    neither the user nor an earlier plan does."""

    refuses: bool = False
    conceals: bool = False
    ordered_only: bool = False


class ArgumentFault(_Part):
    """What is wrong with an argument by the JSON schema of the offered tool: ``path`` is a JSON pointer in the
    arguments. Of another `type`; a `value` that is not listed or beyond its bounds; `missing` though required;
    `unknown`, which the schema forbids; `unlisted`, of which it says nothing; `unjudged`: too much to compare."""

    path: str
    kind: Literal["type", "value", "missing", "unknown", "unlisted", "unjudged"]


class CallFacts(_Part):
    """A tool call of the answer. ``arguments`` is the parsed object of a complete call, else null;
    ``raw`` is its text as the model wrote it. ``offered``: the request offered a tool of just this name.
    ``logprobs``: null if the answer has none, or no policy in force reads them. ``provenance``, ``named`` and
    ``mismatch``: null if no policy in force reads them, or (coverage says so) what the model had seen is not known.
    ``unplaced``: the values of which not all origins are in ``provenance``. ``faults``: where the arguments do not fit
    the schema of the offered tool. ``changed``: an earlier request of the run offered another tool under this name.
    ``faults`` and ``changed`` are empty and false if no policy in force reads them."""

    id: str | None = None
    name: str
    index: int = 0
    choice: int = 0
    arguments: dict[str, Any] | None = None
    raw: str = ""
    complete: bool = True
    offered: bool = True
    logprobs: CallLogprobs | None = None
    provenance: list[ValueProvenance] | None = None
    unplaced: list[UnplacedValue] = []
    named: CallNamed | None = None
    mismatch: CallMismatch | None = None
    faults: list[ArgumentFault] = []
    changed: bool = False


class ResponseFacts(_Part):
    choice: int = 0
    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    calls: list[CallFacts] = []


class SurfaceFacts(_Part):
    """A text of the answer, as far as it is written: ``complete`` once no more of it comes. ``text`` is only there if a
    policy in force reads it."""

    choice: int = 0
    name: Literal["reasoning", "output"]
    bytes: int = Field(default=0, description="Length so far, UTF-8.")
    text: str = ""
    complete: bool = False


class Signal(_Part):
    """A cheap finding on a surface: pattern ``id`` of pattern set ``set`` matched at ``path``
    (a JSON pointer into the surface's value, or "" for a text). Never the matched text itself.
    ``start`` and ``end`` say where in a text that is still being written, in UTF-8 bytes; in a message of the request
    (``path`` is ``/messages/N/text``), and where it is the only one in a value of a call's arguments, in code points;
    else null. Path, start and end are always as a redaction takes them."""

    set: str
    id: str
    severity: Severity = Severity.MEDIUM
    path: str = ""
    count: int = 1
    start: int | None = None
    end: int | None = None


class CheckFact(_Part):
    """A guardrail check's verdict on an earlier or this exchange, as far as it has come."""

    check: str
    status: Literal["passed", "modified", "blocked", "error", "timeout", "dropped"]
    surface: str
    detail: str | None = None


class BudgetFacts(_Part):
    scope: Literal["run", "agent", "team", "total"]
    unit: Literal["tokens", "usd", "requests", "tool_calls", "seconds"]
    limit: float
    used: float


class DecisionInput(_Part):
    """All that a policy can see. Fields of other stages are null (``call`` outside ``tool_call``, …)."""

    version: str = INPUT_VERSION
    stage: Stage
    time: str = Field(description="RFC 3339, UTC, when the exchange was opened.")
    exchange: str
    identity: Identity
    run: RunFacts
    request: RequestFacts
    call: CallFacts | None = None
    surface: SurfaceFacts | None = None
    response: ResponseFacts | None = None
    signals: list[Signal] = []
    checks: list[CheckFact] = []
    budgets: list[BudgetFacts] = []


class Redaction(_Part):
    """What to mask; null ``start`` and ``end``: all of it. In a request ``path`` is ``/messages/N/text`` (the Nth of
    ``input.request.messages``), in a call a JSON pointer to a string of the arguments; they are code points. In a text
    of the answer it is ``""``, and they are UTF-8 bytes as in its signals, or ``/text``, and they are code points."""

    path: str
    start: int | None = None
    end: int | None = None
    replacement: str = "[redacted]"


class Finding(_Part):
    """One element of a policy's stage set, as Rego returns it. ``message`` is what the agent is told: a
    constant of the policy, never text from the traffic."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,64}$")]
    severity: Severity
    message: Annotated[str, Field(min_length=1, max_length=500)]
    action: Action
    tags: list[str] = []
    redactions: list[Redaction] = []


class PolicyFinding(_Part):
    """A finding with where it came from and how far it counts. ``exception``: the roll-out's exception (`layer/id`)
    that covers it; then it changes nothing."""

    policy: str = Field(description="`owner.name`, the package below `interlock.policies`.")
    mode: Mode
    finding: Finding
    exception: str | None = None


class PolicyError(_Part):
    """A policy that did not answer. ``cause`` says whose fault: the engine's, or this input's."""

    policy: str
    mode: Mode
    cause: Literal["engine", "input", "policy"]
    message: str
    passed: bool = Field(default=False, description="It let by all the same: `on_error: allow`, within its budget.")


class Decision(_Part):
    """What all policies in force say together at one stage.

    ``action`` is the strictest *enforced* action; shadow and warn findings are listed and change nothing.
    ``refusal`` is set iff :attr:`refuses`: the policy's constant text for the agent, with ``code`` beside it.
    """

    stage: Stage
    action: Action
    findings: list[PolicyFinding] = []
    errors: list[PolicyError] = []
    rule: str | None = Field(default=None, description="`policy/finding id` that decided the action.")
    refusal: str | None = None
    code: str = Field(default="policy_denied", description="`policy_denied` or `judge_unavailable`.")
    engine: str = "none"
    bundle: str = Field(default="", description="Bundle digest (sources and data).")
    rollout: str = Field(default="", description="Roll-out digest.")
    asked: list[str] = Field(default=[], description="Policies that were asked.")
    duration_us: int = 0

    @property
    def refuses(self) -> bool:
        """True if what was asked about must not pass: approve (nobody has approved), deny, terminate."""
        return self.action in (Action.APPROVE, Action.DENY, Action.TERMINATE)
