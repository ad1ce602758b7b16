"""Reads the streamed answer of ``/v1/chat/completions``: bytes in any chunking → :class:`Event` objects.

Facts of vLLM's wire that shape this reader (seen on 0.32): reasoning comes as ``reasoning``, older servers
say ``reasoning_content``; a tool call's first delta has id and name and no arguments; with logprobs or token
ids on, tokens without visible text come as events with an empty delta; with a stream interval one event may
carry reasoning, text, the end of one call and the beginning of the next; usage may stand in every event; a
failure in mid-stream is an event with an ``error`` object followed by ``[DONE]``.
"""

from __future__ import annotations

import re

import msgspec

from serving.wire.sse import Framer, data_of
from serving.wire.text_run import Frame, TextRuns
from serving.wire.vocabulary import ChoiceDelta, Event, TokensShown, ToolDelta, Usage

_ABSENT = msgspec.Raw()
LEAST_LOGPROB = -9999.0
"""What vLLM writes for a token without any probability."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Tool(msgspec.Struct, gc=False):
    index: int = 0
    id: str | None = None
    function: _Function | None = None
    custom: msgspec.Raw = _ABSENT


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Tool] | None = None
    function_call: msgspec.Raw = _ABSENT


class _Token(msgspec.Struct, gc=False):
    token: str = ""
    bytes: list[int] | None = None
    logprob: float | None = None


class WireLogprobs(msgspec.Struct, gc=False):
    """The ``logprobs`` object of a choice, streamed or not."""

    content: list[_Token] | None = None

    def neutral(self) -> TokensShown | None:
        """What it shows. A token's ``bytes`` are authoritative: partial tokens of a multi-byte character have none, and
        the last one has them all."""
        if not self.content:
            return None
        pieces = [
            bytes(token.bytes) if token.bytes is not None else token.token.encode("utf-8", "surrogatepass")
            for token in self.content
        ]
        logprobs = tuple([LEAST_LOGPROB if token.logprob is None else token.logprob for token in self.content])
        return TokensShown(b"".join(pieces), tuple(map(len, pieces)), logprobs)


class _Choice(msgspec.Struct, gc=False):
    index: int
    delta: _Delta
    logprobs: WireLogprobs | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    message: msgspec.Raw = _ABSENT
    tool_calls: msgspec.Raw = _ABSENT


class PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct, gc=False):
    """The ``usage`` object of chat completions, streamed or not."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    def neutral(self) -> Usage:
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            prompt=self.prompt_tokens,
            completion=self.completion_tokens or 0,
            cached=(prompt.cached_tokens or 0) if prompt else 0,
            reasoning=(completion.reasoning_tokens or 0) if completion else 0,
        )


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    id: str | None = None
    usage: WireUsage | None = None
    error: msgspec.Raw = _ABSENT


_decode = msgspec.json.Decoder(_Chunk).decode
SILENT = re.compile(rb"(?:(?::|(?:event|id|retry)(?=[:\r\n]|\Z))[^\r\n]*|[\r\n])*")
"""An event without data, of lines that clients pass over: comments and the other fields."""


def given(value: msgspec.Raw) -> bool:
    """A field that was not looked into is there and not null."""
    return value is not _ABSENT and bytes(value) not in (b"", b"null")


class ChatStreamReader:
    """One streamed answer. :meth:`feed` gives the events that the bytes complete; :meth:`rest` what is left
    when the stream is over (normally nothing). With ``runs``, plain events that come together may come as one."""

    __slots__ = ("_framer", "_runs", "runs")

    def __init__(self) -> None:
        self._framer = Framer()
        self._runs = TextRuns(read_event)
        self.runs = False

    def feed(self, data: bytes) -> list[Event]:
        if not self.runs:
            return [read_event(raw) for raw in self._framer.feed(data)]
        events: list[Event] = []
        while data:
            run = None if self._framer.pending else self._runs.take(data)
            if run is not None:
                events.append(run)
                data = data[len(run.raw) :]
                continue
            end = self._runs.first(data, self._framer.pending)
            read = [read_event(raw) for raw in self._framer.feed(data[:end])]
            if read:
                self._runs.learn(read[-1])
                events += read
            data = data[end:]
        return events

    def frame(self) -> Frame | None:
        return None if self._framer.pending else self._runs.frame

    @property
    def pending(self) -> int:
        return self._framer.pending

    def rest(self) -> bytes:
        return self._framer.rest()

    def harmless(self, rest: bytes) -> bool:
        return read_event(rest).kind in ("comment", "done")


def read_event(raw: bytes) -> Event:
    """What one whole event says. Never raises: what is not understood has the kind "unknown"."""
    data = data_of(raw)
    if data is None:
        return Event(raw, "comment" if SILENT.fullmatch(raw) else "unknown")
    if data == b"[DONE]":
        return Event(raw, "done")
    try:
        chunk = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Event(raw, "unknown")
    if chunk.error is not _ABSENT and given(chunk.error):
        return Event(raw, "unknown" if chunk.choices else "error", error=bytes(chunk.error))
    choices = chunk.choices
    if choices is None:
        return Event(raw, "unknown")
    usage = chunk.usage.neutral() if chunk.usage is not None else None
    if not choices:
        return Event(raw, "usage", usage=usage, answer_id=chunk.id)
    for choice in choices:
        if _says_more(choice):
            return Event(raw, "unknown")
    deltas = (_choice_delta(choices[0]),) if len(choices) == 1 else tuple(map(_choice_delta, choices))
    return Event(raw, "delta", deltas, usage, None, chunk.id)


def _says_more(choice: _Choice) -> bool:
    """Some client may read a call, or another reasoning, where this reader does not look."""
    return bool(
        (choice.delta.reasoning_content and choice.delta.reasoning not in (None, choice.delta.reasoning_content))
        or given(choice.delta.function_call)
        or given(choice.message)
        or given(choice.tool_calls)
        or (choice.delta.tool_calls is not None and any(given(tool.custom) for tool in choice.delta.tool_calls))
    )


def _choice_delta(choice: _Choice) -> ChoiceDelta:
    delta = choice.delta
    reasoning = delta.reasoning if delta.reasoning is not None else delta.reasoning_content
    if delta.tool_calls is None and choice.logprobs is None and choice.token_ids is None:  # most events
        return ChoiceDelta(choice.index, delta.content, reasoning, (), choice.finish_reason)
    tools: tuple[ToolDelta, ...] = ()
    if delta.tool_calls:
        tools = tuple([_tool_delta(tool) for tool in delta.tool_calls])
    tokens = 0
    text: str | None = None
    ids: tuple[int, ...] = ()
    shown = choice.logprobs.neutral() if choice.logprobs is not None else None
    if shown is not None:
        tokens = len(shown.lengths)
        text = shown.spelled.decode("utf-8", "replace")
    if choice.token_ids:
        ids = tuple(choice.token_ids)
        tokens = max(tokens, len(ids))
    return ChoiceDelta(choice.index, delta.content, reasoning, tools, choice.finish_reason, tokens, text, ids, shown)


def _tool_delta(tool: _Tool) -> ToolDelta:
    function = tool.function
    if function is None:
        return ToolDelta(tool.index, tool.id)
    return ToolDelta(tool.index, tool.id, function.name, function.arguments or "")
