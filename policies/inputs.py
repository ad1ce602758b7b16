"""Decision inputs from plain data: the one place where they are made, for the judge of live traffic and for replay.

A stage's input is a function of three things: the exchange as it was asked (:class:`Asked`), the surface at hand (a
call, a text, a whole choice), and what only that moment knew (the run so far, budgets, verdicts of checks, how sure
the model was). The first two can be had again from the record of an exchange; the third is put on record with the
decision (:func:`only_then`), as far as a policy in force was shown it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, Protocol

from policies.facts.argument_faults import argument_faults
from policies.facts.provenance import Facts
from policies.facts.seen import NO_SETTINGS, ToolTable, is_result
from policies.facts.tool_digests import digest_of
from policies.model import (
    BudgetFacts,
    CallFacts,
    CallLogprobs,
    CheckFact,
    DecisionInput,
    Identity,
    MessageView,
    OfferedTool,
    OrderPassage,
    RequestFacts,
    ResponseFacts,
    RunFacts,
    Signal,
    Stage,
    SurfaceFacts,
)
from serving.wire.dialect import Api
from serving.wire.request import ChatRequest, SentMessage, SentTool
from serving.wire.strict import NotStrict, read_arguments
from serving.wire.vocabulary import ToolCall

NO_RUN, NO_REQUEST = RunFacts(id=""), RequestFacts()
"""What stands in the input where no policy is shown them."""

FROM_THE_WIRE = frozenset({"id", "name", "index", "choice", "arguments", "raw", "complete", "offered", "faults"})
"""The fields of a call that follow from what was sent."""

FROM_THE_HISTORY = ("provenance", "unplaced", "named")
"""Those that :class:`policies.facts.provenance.Background` makes again from the messages, the tools and the call."""

HISTORY_FIELDS = (*(f"call.{name}" for name in FROM_THE_HISTORY), "request.orders")
"""What an input says that follows from all messages of the request, as dotted fields."""

_AS_SENT = dict.fromkeys((*FROM_THE_WIRE, *FROM_THE_HISTORY), True)
OF_THE_MOMENT = tuple(name for name in CallFacts.model_fields if name not in _AS_SENT)
"""The others."""


class Asked(Protocol):
    """An exchange as far as every stage sees it alike. ``news`` are the messages that the run had not shown before, of
    ``message_count`` in all, and ``news_tools`` the tools whose results they are; ``changed_tools`` the offered tools
    that were others under their name earlier in the run; ``opened_ns`` is in nanoseconds since the epoch."""

    @property
    def id(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def owner(self) -> str | None: ...
    @property
    def team(self) -> str | None: ...
    @property
    def api(self) -> Api: ...
    @property
    def request(self) -> ChatRequest: ...
    @property
    def news(self) -> Sequence[SentMessage]: ...
    @property
    def message_count(self) -> int: ...
    @property
    def news_tools(self) -> Sequence[str | None]: ...
    @property
    def changed_tools(self) -> frozenset[str]: ...
    @property
    def opened_ns(self) -> int: ...


def decision_input(
    x: Asked,
    stage: Stage,
    shown: Callable[[Stage, str], bool],
    *,
    run: Callable[[], RunFacts],
    call: CallFacts | None = None,
    response: ResponseFacts | None = None,
    surface: SurfaceFacts | None = None,
    signals: list[Signal] | None = None,
    checks: list[CheckFact] | None = None,
    budgets: list[BudgetFacts] | None = None,
    orders: Sequence[OrderPassage] = (),
    table: ToolTable = NO_SETTINGS,
) -> DecisionInput:
    """The input of a stage. ``shown(stage, part)``: whether a policy is shown anything of that part; what none is
    shown is not made. ``orders``: the passages that give orders, as far as the stage is shown them; ``table``: what the
    settings say of tools."""
    return DecisionInput(
        stage=stage,
        time=datetime.fromtimestamp(x.opened_ns / 1e9, UTC).isoformat() if shown(stage, "time") else "",
        exchange=x.id,
        identity=Identity(agent=x.agent, owner=x.owner, team=x.team),
        run=run() if shown(stage, "run") else NO_RUN,
        request=request_facts(x, orders, table, partial(shown, stage)) if shown(stage, "request") else NO_REQUEST,
        call=call,
        response=response,
        surface=surface,
        signals=signals or [],
        checks=checks or [],
        budgets=budgets or [],
    )


def request_facts(
    x: Asked, orders: Sequence[OrderPassage], table: ToolTable, shown: Callable[[str], bool]
) -> RequestFacts:
    """The request as policies see it: the messages that the run had not shown before. Messages and tools are not there
    if no policy is shown them."""
    request = x.request
    messages = zip(x.news, x.news_tools or [None] * len(x.news), strict=True) if shown("request.messages") else ()
    first = x.message_count - len(x.news)
    return RequestFacts(
        api=x.api,
        model=request.model,
        stream=request.stream,
        n=request.n,
        tool_choice=request.tool_choice,
        tools=[
            OfferedTool(
                name=t.name,
                description=t.description,
                parameters=t.parameters,
                digest=digest_of(t),
                changed=t.name in x.changed_tools,
            )
            for t in (request.tools if shown("request.tools") else ())
        ],
        messages=[
            MessageView(
                role=m.role,
                text=m.text,
                name=m.name,
                tool_call_id=m.tool_call_id,
                index=at,
                tool=tool,
                trust=table.trust(tool) if is_result(m) else None,
            )
            for at, (m, tool) in enumerate(messages, first)
        ],
        message_count=x.message_count,
        sampling=request.sampling if request.limit is None else {**request.sampling, "max_tokens": request.limit},
        orders=list(orders),
    )


def call_facts(
    call: ToolCall,
    arguments: dict[str, Any] | None,
    tools: Iterable[SentTool],
    logprobs: CallLogprobs | None = None,
    facts: Facts | None = None,
    changed: bool = False,
    *,
    compared: bool = True,
) -> CallFacts:
    """A call as policies see it. ``arguments``: as :func:`object_of` reads them; ``tools``: what the request offers,
    with their schemas; ``compared``: a policy reads what does not fit them; ``facts``: where its values are from
    (``policies.facts.provenance``), if a policy reads that."""
    tool = next((tool for tool in tools if tool.name == call.name), None)
    return CallFacts(
        id=call.id,
        name=call.name,
        index=call.index,
        choice=call.choice,
        arguments=arguments,
        raw=call.arguments,
        complete=call.complete,
        offered=tool is not None,
        logprobs=logprobs,
        provenance=None if facts is None else facts.provenance,
        unplaced=[] if facts is None else facts.unplaced,
        named=None if facts is None else facts.named,
        mismatch=None if facts is None else facts.mismatch,
        faults=[] if not compared or tool is None or arguments is None else argument_faults(arguments, tool.parameters),
        changed=changed,
    )


def text_facts(
    name: Literal["output", "reasoning"], choice: int, said: bytes | bytearray | None, size: int, *, complete: bool
) -> SurfaceFacts:
    """A text of which ``size`` bytes have come. ``said``: its bytes, of which only those are shown; None: no policy
    reads them."""
    text = "" if said is None else bytes(said[:size]).decode("utf-8", "surrogatepass")
    return SurfaceFacts(choice=choice, name=name, bytes=size, text=text, complete=complete)


def object_of(arguments: str, depth: int) -> dict[str, Any] | None:
    """Arguments that are exactly one JSON object under the strict reading; None if they are not."""
    try:
        return read_arguments(arguments, depth=depth)
    except NotStrict:
        return None


def only_then(
    question: DecisionInput,
    shown: Callable[[Stage, str], bool],
    named: Set[str] = frozenset(),
    *,
    recent: bool = True,
    note: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What of an input cannot be had again from the exchange's own record, as plain data: part → value. Parts that no
    policy was shown are not there; those that are known to be empty are. ``named``: the fields of a call that a policy
    asks for by name, which are there also where there is nothing to say. ``recent``: a policy reads the run's recent
    calls. ``note``: what was found in the history (``policies.facts.recorded_facts``), which can be had again, at a
    price."""
    kept: dict[str, Any] = {}
    stage = question.stage
    if question.run is not NO_RUN:
        run = question.run.model_dump(mode="json", exclude_defaults=True, exclude=None if recent else {"recent_calls"})
        kept["run"] = {**run, "recent_calls": run.get("recent_calls", [])} if recent else run
    for part, facts in (("checks", question.checks), ("budgets", question.budgets)):
        if facts or shown(stage, part):
            kept[part] = [fact.model_dump(mode="json") for fact in facts]
    if question.signals:
        kept["signals"] = [signal.model_dump(mode="json", exclude_defaults=True) for signal in question.signals]
    if question.call is not None and (more := _of_the_moment(question.call, named)):
        kept["call"] = more
    if question.response is not None:
        calls = {str(call.index): more for call in question.response.calls if (more := _of_the_moment(call, named))}
        if calls:
            kept["calls"] = calls
    if question.surface is not None:
        kept["surface"] = {"bytes": question.surface.bytes, "complete": question.surface.complete}
    if note is not None:
        kept["history"] = note
    return kept


def _of_the_moment(call: CallFacts, named: Set[str]) -> dict[str, Any]:
    if not named and not any(getattr(call, name) for name in OF_THE_MOMENT):
        return {}
    said = call.model_dump(mode="json", exclude=_AS_SENT, exclude_defaults=True)
    return {**dict.fromkeys(sorted(named)), **said}
