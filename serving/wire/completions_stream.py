"""Reads the streamed answer of ``/v1/completions``: bytes in any chunking → :class:`Event` objects.

A completion has text and no more: no reasoning, no calls; what a model writes for them stands in the text. Several
prompts give several choices. With logprobs the tokens stand in ``logprobs.tokens`` as text.
"""

from __future__ import annotations

import msgspec

from serving.wire.chat_stream import SILENT, WireUsage, given
from serving.wire.sse import Framer, data_of
from serving.wire.vocabulary import ChoiceDelta, Event

_ABSENT = msgspec.Raw()


class _Logprobs(msgspec.Struct, gc=False):
    tokens: list[str] = []


class _Choice(msgspec.Struct, gc=False):
    index: int
    text: str
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    delta: msgspec.Raw = _ABSENT
    message: msgspec.Raw = _ABSENT
    tool_calls: msgspec.Raw = _ABSENT


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    id: str | None = None
    usage: WireUsage | None = None
    error: msgspec.Raw = _ABSENT


_decode = msgspec.json.Decoder(_Chunk).decode


class CompletionsReader:
    """One streamed answer. :meth:`feed` gives the events that the bytes complete; :meth:`rest` what is left
    when the stream is over (normally nothing)."""

    __slots__ = ("_framer",)

    def __init__(self) -> None:
        self._framer = Framer()

    def feed(self, data: bytes) -> list[Event]:
        return [read_event(raw) for raw in self._framer.feed(data)]

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
    if chunk.choices is None:
        return Event(raw, "unknown")
    usage = chunk.usage.neutral() if chunk.usage is not None else None
    if not chunk.choices:
        return Event(raw, "usage", usage=usage, answer_id=chunk.id)
    for choice in chunk.choices:
        if given(choice.delta) or given(choice.message) or given(choice.tool_calls):
            return Event(raw, "unknown")  # some client may read a call where this reader does not look
    return Event(raw, "delta", tuple(map(_delta, chunk.choices)), usage, None, chunk.id)


def _delta(choice: _Choice) -> ChoiceDelta:
    tokens, shown = 0, None
    ids: tuple[int, ...] = ()
    if choice.logprobs is not None and choice.logprobs.tokens:
        tokens, shown = len(choice.logprobs.tokens), "".join(choice.logprobs.tokens)
    if choice.token_ids:
        ids = tuple(choice.token_ids)
        tokens = max(tokens, len(ids))
    return ChoiceDelta(choice.index, choice.text, None, (), choice.finish_reason, tokens, shown, ids)
