"""One exchange as it is known so far: who asked, what was asked, what came and what was given.

Plain data with accumulators; adding an event is O(1) in the length of the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from proxy.breakers.admission import Admitted
from proxy.gated_choice import Answer, Question, TextQuestion
from proxy.gated_text import TextRule
from proxy.runs import Sighting
from proxy.spool import KeptHistory
from proxy.trace_context import TraceContext
from serving.wire.dialect import Api, Dialect, WholeAnswer
from serving.wire.injection import Uninjector
from serving.wire.masking import Mask, Masks, Surface, join_in, masked
from serving.wire.message_texts import TextChange
from serving.wire.request import ChatRequest, SentMessage, SentTool
from serving.wire.token_alignment import TokenTrail
from serving.wire.vocabulary import Event, ToolCall, Usage


@dataclass(slots=True)
class CallSeen:
    """A tool call: id and name as first said, arguments as they grow. ``after``: bytes of the choice's text and of its
    reasoning that stood before it."""

    id: str | None
    name: str
    arguments: bytearray
    after: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class ChoiceSeen:
    """What the model server sent for one choice. Texts grow as UTF-8, a byte or so a character, whatever the
    number of pieces in which they came."""

    text: bytearray = field(default_factory=bytearray)
    reasoning: bytearray = field(default_factory=bytearray)
    calls: dict[int, CallSeen] = field(default_factory=dict)
    finish: str | None = None
    tokens: int = 0
    written: int = 0  # calls that were found in its texts
    trail: TokenTrail | None = None
    masks: dict[Surface, list[Mask]] = field(default_factory=dict)
    responded: bool = False  # policies were asked about all of it, before it was given

    def mask(self, surface: Surface, masks: Masks) -> None:
        """The client does not get this of its text, or of its reasoning."""
        if masks:
            join_in(self.masks.setdefault(surface, []), masks)

    def given(self, surface: Surface) -> str:
        """Its text, or its reasoning, as the client gets it."""
        said = self.said if surface == "text" else self.thought
        return masked(said, self.masks.get(surface, ()))

    @property
    def said(self) -> str:
        """Its text."""
        return self.text.decode("utf-8", "surrogatepass")

    @property
    def thought(self) -> str:
        """Its reasoning."""
        return self.reasoning.decode("utf-8", "surrogatepass")

    def call(self, index: int) -> tuple[str | None, str, str]:
        """Id, name and arguments of a call."""
        call = self.calls[index]
        return call.id, call.name, call.arguments.decode("utf-8", "surrogatepass")


class Seen:
    """What the model server sent, all choices."""

    __slots__ = ("_trails_of", "answer_id", "choices", "events", "finished", "model", "pending", "usage")

    def __init__(self) -> None:
        self.choices: dict[int, ChoiceSeen] = {}
        self.usage: Usage | None = None
        self.answer_id: str | None = None
        self.model: str | None = None
        self.events = 0
        self.finished = 0  # choices that have said why they end
        self.pending = False
        self._trails_of: frozenset[str] | None = None

    def choice(self, number: int) -> ChoiceSeen:
        seen = self.choices.get(number)
        if seen is None:
            seen = self.choices[number] = ChoiceSeen()
            if self._trails_of is not None:
                seen.trail = TokenTrail(self._trails_of)
        return seen

    def keep_tokens(self, offered: frozenset[str]) -> None:
        """From now on tokens that are shown with logprobs are kept, to say how sure a call is."""
        self._trails_of = offered

    def add(self, event: Event) -> None:
        self.events += event.count
        if event.usage is not None:
            self.usage = event.usage
        for delta in event.choices:
            seen = self.choices.get(delta.choice)
            if seen is None:
                seen = self.choice(delta.choice)
                self.answer_id = event.answer_id
            if delta.text:
                seen.text += _utf8(delta.text)
            if delta.reasoning:
                seen.reasoning += _utf8(delta.reasoning)
            for tool in delta.tools:
                call = seen.calls.get(tool.index)
                if call is None:
                    before = (len(seen.text), len(seen.reasoning))
                    call = seen.calls[tool.index] = CallSeen(tool.id, tool.name or "", bytearray(), before)
                elif tool.name and not call.name:
                    call.name = tool.name
                call.arguments += _utf8(tool.arguments)
            if delta.finish is not None:
                self.finished += 1
                seen.finish = delta.finish
            seen.tokens += delta.tokens or event.count
            if delta.shown is not None and seen.trail is not None:
                seen.trail.add(delta.shown)

    def whole(self, answer: WholeAnswer) -> None:
        self.usage, self.answer_id, self.model = answer.usage, answer.answer_id, answer.model
        self.pending = answer.pending
        for choice in answer.choices:
            seen = self.choice(choice.number)
            seen.text += _utf8(choice.text)
            seen.reasoning += _utf8(choice.reasoning)
            seen.finish = choice.finish
            if choice.shown is not None and seen.trail is not None:
                seen.trail.add(choice.shown)
            for call in choice.calls:
                arguments, before = bytearray(_utf8(call.arguments)), (len(seen.text), len(seen.reasoning))
                seen.calls[call.index] = CallSeen(call.id, call.name, arguments, before)

    def said_before(self, choice: int, call: int) -> str:
        """What a choice had thought and said when its call began."""
        seen = self.choices.get(choice)
        if seen is None:
            return ""
        known = seen.calls.get(call)
        text, reasoning = known.after if known is not None else (len(seen.text), len(seen.reasoning))
        return (seen.reasoning[:reasoning] + b"\n" + seen.text[:text]).decode("utf-8", "replace")

    @property
    def size(self) -> int:
        """Bytes of what is kept of it."""
        return sum(
            len(choice.text) + len(choice.reasoning) + sum(len(call.arguments) for call in choice.calls.values())
            for choice in self.choices.values()
        )

    @property
    def tokens(self) -> int:
        """Tokens counted by events: exact only at a stream interval of 1."""
        return sum(choice.tokens for choice in self.choices.values())


@dataclass(slots=True)
class Outcome:
    """What became of one call: ``outcome`` is allowed, approved, masked, denied, malformed, held_bytes, or unasked.
    ``in_text``: the surface of plain text in which it stood; ``masked``: its arguments, if the client gets others."""

    call: ToolCall
    outcome: str
    rule: str | None = None
    refusal: str | None = None
    in_text: str | None = None
    masked: str | None = None

    @property
    def given(self) -> bool:
        return self.refusal is None

    @property
    def arguments(self) -> str:
        """As the client gets them."""
        return self.call.arguments if self.masked is None else self.masked


@dataclass(slots=True, eq=False)
class Kept:
    """An answer that the model server may keep under ``id``: ``request`` as it was asked, with all that came before,
    what the client was ``given`` (None: not seen whole, or cut), and what became of its calls, by their index.
    ``asked_bytes``: what the request takes in memory, once that was counted."""

    id: str
    agent: str
    request: ChatRequest
    sighting: Sighting
    given: SentMessage | None = None
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    booked: Usage = field(default_factory=lambda: Usage(0, 0))
    asked_bytes: int = 0

    def owed(self, used: Usage) -> Usage:
        """What of ``used`` is not on any budget yet. It is from now on."""
        booked = self.booked
        self.booked = Usage(max(used.prompt, booked.prompt), max(used.completion, booked.completion))
        return Usage(
            prompt=self.booked.prompt - booked.prompt,
            completion=self.booked.completion - booked.completion,
            cached=used.cached if not booked.prompt else 0,
            reasoning=used.reasoning if not booked.completion else 0,
        )


class Judging(Protocol):
    """What judges an exchange (``proxy.judge``): the policies that were in force for its agent when it began."""

    @property
    def closing(self) -> str: ...
    @property
    def holds_calls(self) -> bool: ...
    @property
    def wants_logprobs(self) -> bool: ...
    @property
    def texts(self) -> dict[Surface, TextRule]: ...
    def covered(self, x: Exchange) -> dict[str, str]: ...
    async def request(self, x: Exchange) -> Mapping[int, TextChange]: ...
    def forget(self, x: Exchange) -> None: ...
    async def ask(self, x: Exchange, question: Question | TextQuestion) -> Answer: ...
    async def call(self, x: Exchange, question: Question) -> Answer: ...
    def answer(self, outcome: Outcome) -> Answer: ...
    async def whole(self, x: Exchange, number: int) -> Answer: ...
    async def response(self, x: Exchange) -> None: ...
    async def late(self, x: Exchange) -> None: ...
    def over(self, x: Exchange) -> None: ...


@dataclass(slots=True)
class Exchange:
    """One exchange. ``judge`` asks the policies that are in force for its agent. ``*_ns`` are nanoseconds since the
    epoch, but ``held_ns``, which is how long something was held by now; ``held_since`` is when the hold that lasts now
    began, by ``time.perf_counter_ns`` (0: nothing is held).
    ``undo`` takes what was asked for besides the client's request out of the answer; ``ahead`` are bytes of the answer
    that were read to see whether that was taken. ``decided_seq`` is the journal's
    number of the newest decision. ``waiting`` is the task that waits for something before the answer begins, which a
    kill ends. ``kept`` is its answer, if the model server may keep that; ``fetched``: it is not made now but
    fetched, ``again`` if it was seen whole before. ``news`` are the messages that the run had not shown before, of
    ``message_count`` in all. ``approval_seconds`` is how long operators were waited for; ``history`` is what of the
    request is kept for facts about calls, and ``behind`` the calls, each with its place in the record, that are looked
    at with it when the answer is over."""

    id: str
    agent: str
    owner: str | None
    team: str | None
    judge: Judging
    dialect: Dialect
    request: ChatRequest
    sighting: Sighting
    trace: TraceContext
    opened_ns: int
    request_bytes: int
    seen: Seen = field(default_factory=Seen)
    outcomes: dict[tuple[int, int], Outcome] = field(default_factory=dict)
    admitted: Admitted | None = None
    prompt_estimate: int = 0
    share_mark: float | None = None
    share_seconds: float | None = None
    status: int = 0
    ending: str = ""
    forwarded_ns: int = 0
    first_byte_ns: int = 0
    answered_ns: int = 0
    held_ns: int = 0
    held_since: int = 0
    answer_bytes: int = 0
    coverage: dict[str, str] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    cut_text: str | None = None
    checks_pending: int = 0
    killed: bool = False
    decided_seq: int = 0
    waiting: asyncio.Task[Any] | None = None
    undo: Uninjector | None = None
    ahead: bytes = b""
    kept: Kept | None = None
    fetched: bool = False
    rewritten: bool = False
    again: bool = False
    history: KeptHistory | None = None
    covered: bool = False
    approval_seconds: float = 0.0
    behind: list[tuple[ToolCall, str]] = field(default_factory=list)
    later: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    news_tools: tuple[str | None, ...] = ()
    news: tuple[SentMessage, ...] = field(init=False)
    message_count: int = field(init=False)

    def __post_init__(self) -> None:
        messages = self.request.messages
        self.news, self.message_count = messages[self.sighting.new_from :], len(messages)

    @property
    def api(self) -> Api:
        return self.dialect.api

    @property
    def changed_tools(self) -> frozenset[str]:
        """The offered tools that were others under their name earlier in the run."""
        return self.sighting.changed_tools

    def say_instead(self, request: ChatRequest) -> None:
        """The request as it goes on, in place of the one that came: the same messages with other words."""
        if self.news:
            self.news = request.messages[len(request.messages) - len(self.news) :]
        self.request = request
        self.rewritten = True

    def forget(self, *, messages: bool, tools: bool) -> None:
        """The request was judged: what nobody reads any more need not wait for the answer's end. ``messages``: those
        that were new too; ``tools``: all of them but their names. What the model server may keep is kept here too."""
        if messages:
            self.news = self.news_tools = ()
        self.sighting = msgspec.structs.replace(self.sighting, steps=())
        if self.request.stored or self.fetched:
            return
        offered = tuple([SentTool(tool.name) for tool in self.request.tools]) if tools else self.request.tools
        self.request = msgspec.structs.replace(self.request, messages=(), tools=offered)

    def held(self, now: int) -> int:
        """How long something was held, the hold that lasts at ``now`` (``perf_counter_ns``) included."""
        return self.held_ns + (now - self.held_since if self.held_since else 0)

    def given_text(self, number: int) -> str:
        """The text of a choice as the client has it: what came, and the refusals in place of its calls."""
        seen = self.seen.choices.get(number)
        text = seen.given("text") if seen else ""
        parts = [o.refusal for (choice, _), o in sorted(self.outcomes.items()) if choice == number and o.refusal]
        if self.cut_text is not None:
            parts = [self.cut_text]
        return "\n\n".join([text, *parts] if text.strip() else parts) if parts else text


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
