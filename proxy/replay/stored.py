"""An exchange as its records tell it: what was asked, what came, what was decided, and what is not known of it.

Pure: records in, one :class:`Stored` out. It is an exchange as ``policies.inputs`` takes it, so the inputs of its
stages are made by the very functions that made them when it was live. What the record does not hold, or not as it was,
is in ``unknown``: the input's field → why. Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policies.facts.seen import tools_of_results
from policies.inputs import HISTORY_FIELDS
from policies.model import RunFacts
from serving.wire.dialect import Api
from serving.wire.request import ChatRequest, SentCall, SentMessage, SentTool
from serving.wire.vocabulary import ToolCall
from tracing.chain import ERASED
from tracing.exchange import STOPPED, Exchange
from tracing.records import UNRECORDED, CallOutcome, Decided, Opened, Settled

ERASED_WHY = "erased since"
MASKED = "masked or cut off when it was recorded"
DENIED = "denied then, so only an excerpt of it was kept"
LEFT_OUT = "longer than what is kept of a request"
REPLACED = "a summary stood in for what the run had shown, and other code or settings looked at it"
UNREAD = "not recorded, because no policy in force read it"
UNFINISHED = "the answer's end is not on record"

Unknown = Mapping[str, str]

_AS_RECORDED = ("run.recent_calls",)


class StoredCall(msgspec.Struct, frozen=True):
    """A tool call, and what became of it: ``outcome`` and ``rule`` as recorded. ``in_text`` as in the record."""

    call: ToolCall
    outcome: str = "unasked"
    rule: str | None = None
    in_text: str | None = None
    unknown: Unknown = {}

    @property
    def stopped(self) -> bool:
        return self.outcome in STOPPED


class StoredChoice(msgspec.Struct, frozen=True):
    """One choice of the answer. ``calls``: those that the answer's whole record has."""

    number: int
    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    calls: tuple[ToolCall, ...] = ()
    unknown: Unknown = {}


class Stored(msgspec.Struct):
    """``judged``: it came as far as the policies, neither refused before nor a second look at an earlier answer.
    ``fetched``: it is an answer that an earlier request asked for. ``ended``: what came is known to its end."""

    id: str
    agent: str
    owner: str | None
    team: str | None
    api: Api
    request: ChatRequest
    news: tuple[SentMessage, ...]
    message_count: int
    opened_ns: int
    run: RunFacts
    unknown: dict[str, str]
    choices: list[StoredChoice] = []
    calls: list[StoredCall] = []
    decided: list[Decided] = []
    refused_by: str | None = None
    news_tools: tuple[str | None, ...] = ()
    changed_tools: frozenset[str] = frozenset()
    judged: bool = True
    fetched: bool = False
    ended: bool = True

    def said(self, number: int) -> str:
        """What a choice thought and said, all of it: models say it before they call."""
        return next((f"{one.reasoning}\n{one.text}" for one in self.choices if one.number == number), "")

    def said_is_known(self, number: int) -> bool:
        return self.ended and not any(
            part in one.unknown for one in self.choices if one.number == number for part in ("content", "reasoning")
        )


def stored(exchange: Exchange) -> Stored | None:
    """None if the record does not have the beginning of ``exchange``."""
    opened, settled = exchange.opened, exchange.settled
    if opened is None:
        return None
    messages = tuple(_message(one) for one in opened.messages)
    first = max(0, opened.new_from - opened.messages_left_out)
    unknown = _unknown(opened)
    found = Stored(
        id=exchange.id,
        agent=opened.agent,
        owner=opened.owner,
        team=opened.team,
        api=opened.api,  # type: ignore[arg-type]
        request=_request(opened, messages, unknown),
        news=messages[first:],
        news_tools=tuple(tools_of_results(messages)[first:]),
        changed_tools=frozenset(opened.changed_tools),
        message_count=opened.messages_left_out + len(messages),
        opened_ns=opened.time_ns,
        run=RunFacts(id=opened.run, step=max(opened.step, 0), **opened.so_far),
        unknown=unknown,
        decided=[one for one in exchange.decisions if one.rule != UNRECORDED],
        fetched=opened.path.startswith("/v1/responses/"),
        ended=settled is not None and settled.ending != "interrupted",
    )
    found.refused_by = _refused_by(exchange)
    found.judged = exchange.refused is None or exchange.refused.rule is None or found.refused_by is not None
    found.calls = [_call(record, opened) for record in exchange.calls]
    if settled is not None:
        found.choices = [_choice(place, one, settled, opened) for place, one in enumerate(settled.choices)]
    return found


def _refused_by(exchange: Exchange) -> str | None:
    """The rule by which policies refused the request itself."""
    if exchange.refused is None:
        return None
    for decided in exchange.decisions:
        if decided.stage == "request" and decided.rule and decided.rule == exchange.refused.rule:
            return decided.rule
    return None


def _unknown(opened: Opened) -> dict[str, str]:
    unknown = dict.fromkeys(_AS_RECORDED, UNREAD)
    unknown |= {"checks": UNREAD, "budgets": UNREAD}
    fields = ("request.messages", "request.tools", "request.tool_choice", "request.sampling", "request.n")
    lost = _lost(opened.capture_error, opened.capture)
    if lost is not None:
        return unknown | dict.fromkeys((*fields, *HISTORY_FIELDS), lost)
    if opened.messages_left_out:
        unknown |= dict.fromkeys(HISTORY_FIELDS, LEFT_OUT)
    elif any(name.startswith(("messages/", "tools")) for name in opened.altered):
        unknown |= dict.fromkeys(HISTORY_FIELDS, MASKED)
    if opened.messages_left_out > opened.new_from:
        unknown["request.messages"] = LEFT_OUT
    for name in opened.altered:
        part, _, at = name.partition("/")
        if part == "params":
            unknown |= dict.fromkeys(fields[2:], MASKED)
        elif part != "messages" or int(at) >= opened.new_from:
            unknown[f"request.{part}"] = MASKED
    return unknown


def _lost(error: str | None, capture: str) -> str | None:
    """Why nothing of a record's content can be read; None if it can."""
    if error is not None:
        return ERASED_WHY if error == ERASED else f"not kept: it could not be redacted ({error})"
    return None if capture in ("full", "redacted") else f"not kept (capture: {capture})"


def _request(opened: Opened, messages: tuple[SentMessage, ...], unknown: Unknown) -> ChatRequest:
    params = dict(opened.params) if "request.n" not in unknown else {}
    n, limit = params.pop("n", 1), params.pop("max_tokens", None)
    tools = tuple(_tool(one) for one in opened.tools) if _lost(opened.capture_error, opened.capture) is None else ()
    return ChatRequest(
        model=opened.model,
        messages=messages,
        tools=tools,
        tool_choice=params.pop("tool_choice", "auto" if tools else "none"),
        stream=opened.stream,
        n=n,
        limit=limit,
        sampling=params,
    )


def _message(plain: Any) -> SentMessage:
    if not isinstance(plain, dict):
        return SentMessage("", "")
    calls = [
        SentCall(call.get("id"), _part(call, "name"), _part(call, "arguments"))
        for call in plain.get("tool_calls") or ()
        if isinstance(call, dict)
    ]
    return SentMessage(
        role=str(plain.get("role", "")),
        text=str(plain.get("content", "")),
        reasoning=plain.get("reasoning"),
        calls=tuple(calls),
        tool_call_id=plain.get("tool_call_id"),
        name=plain.get("name"),
        media=tuple(plain.get("media") or ()),
    )


def _part(call: dict[str, Any], name: str) -> str:
    function = call.get("function")
    return str(function.get(name, "")) if isinstance(function, dict) else ""


def _tool(plain: Any) -> SentTool:
    function = plain.get("function") if isinstance(plain, dict) else None
    if not isinstance(function, dict):
        return SentTool("")
    return SentTool(str(function.get("name", "")), function.get("description"), function.get("parameters"))


def _call(record: CallOutcome, opened: Opened) -> StoredCall:
    call = ToolCall(
        record.choice, record.index, record.call_id, record.name, record.arguments or "", complete=record.complete
    )
    lost = _lost(record.capture_error, opened.capture)
    if lost is None and record.arguments is None and record.commitment is not None:
        lost = DENIED
    unknown: dict[str, str] = {}
    if lost is not None:
        unknown = dict.fromkeys(("call.arguments", "call.raw", "call.name", "call.id", "call.offered"), lost)
    for part in record.altered:
        excerpt = record.outcome in STOPPED and opened.capture != "full"
        why = DENIED if part == "arguments" and excerpt else MASKED
        unknown |= dict.fromkeys(_FIELDS_OF[part], why)
    return StoredCall(call, record.outcome, record.rule, record.in_text, unknown)


_FIELDS_OF = {
    "arguments": ("call.arguments", "call.raw"),
    "name": ("call.name", "call.offered"),
    "call_id": ("call.id",),
}


def _choice(place: int, plain: Any, settled: Settled, opened: Opened) -> StoredChoice:
    lost = _lost(settled.capture_error, opened.capture)
    if lost is not None or not isinstance(plain, dict):
        return StoredChoice(place, unknown=dict.fromkeys(("content", "reasoning", "tool_calls"), lost or MASKED))
    number = plain.get("index", place)
    unknown = {name.rpartition("/")[2]: MASKED for name in settled.altered if name.startswith(f"choices/{place}/")}
    calls = [one for one in plain.get("tool_calls") or () if isinstance(one, dict)]
    if any("arguments" not in call for call in calls):
        unknown["tool_calls"] = DENIED
    return StoredChoice(
        number=number,
        text=plain.get("content") or "",
        reasoning=plain.get("reasoning") or "",
        finish=plain.get("finish_reason"),
        calls=tuple(
            ToolCall(
                number,
                call.get("index", at),
                call.get("id"),
                str(call.get("name", "")),
                str(call.get("arguments", "")),
            )
            for at, call in enumerate(calls)
        ),
        unknown=unknown,
    )
