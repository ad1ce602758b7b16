"""Reads the streamed answer of ``/v1/messages``: bytes in any chunking → :class:`Event` objects.

How to think about it. The stream is one message: ``message_start``, then content blocks one after the other
(``content_block_start``, deltas, ``content_block_stop``; their ``index`` counts from 0), then ``message_delta`` with
stop reason and usage, then ``message_stop``. Everything becomes a delta of choice 0. A ``tool_use`` block is a call;
the n-th such block is the call with the index n. Its arguments are what the ``input_json_delta`` events join to, or
where there are none the ``input`` that the block began with: so Anthropic's SDK reads it.

A call is done when its block stops, but for one case: vLLM closes the block of a call that ``max_tokens`` cut off, too.
A call whose text is not yet a whole JSON value is therefore left open at its block's stop; what follows says whether it
was cut off (``stop_reason``) or is malformed.

Whatever breaks that order, names another event than its data, or says something that some client might read and this
reader does not (another kind of block, a delta for a block that is not open) has the kind "unknown". So has
everything of a block that began so.
"""

from __future__ import annotations

import re

import msgspec

from serving.wire.sse import Framer, data_of
from serving.wire.strict import is_over
from serving.wire.text_run import TextRuns
from serving.wire.vocabulary import ChoiceDelta, Event, ToolDelta, Usage

_ABSENT = msgspec.Raw()

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Anthropic's stop reasons in the words of chat completions; others stand for themselves."""


class WireUsage(msgspec.Struct, gc=False):
    """The ``usage`` object. ``input_tokens`` are those that were not read from, nor written to, a cache."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None

    def neutral(self) -> Usage:
        cached = self.cache_read_input_tokens or 0
        return Usage(
            prompt=(self.input_tokens or 0) + (self.cache_creation_input_tokens or 0) + cached,
            completion=self.output_tokens or 0,
            cached=cached,
        )


class Frame(msgspec.Struct, frozen=True, gc=False):
    """What an event does to the message's form. ``what``: "begin" (the message), "start", "sign" and "stop" (a block),
    "end" (stop reason). ``block`` is the block's type."""

    what: str
    index: int = -1
    block: str = ""


class Counts(msgspec.Struct):
    """What has come so far, for whoever must close a message early: the prompt's tokens as ``message_start`` tells
    them, and the deltas, which are about as many as the answer's tokens. ``start``: the first event's bytes."""

    prompt: int = 0
    deltas: int = 0
    start: bytes = b""


class _Delta(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    signature: str | None = None
    stop_reason: str | None = None


class _Block(msgspec.Struct, gc=False):
    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = _ABSENT


class _Message(msgspec.Struct, gc=False):
    content: list[msgspec.Raw]
    id: str | None = None
    usage: WireUsage | None = None


class _Wire(msgspec.Struct, gc=False):
    type: str
    index: int | None = None
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: WireUsage | None = None
    error: msgspec.Raw = _ABSENT


_decode = msgspec.json.Decoder(_Wire).decode
_LINE = re.compile(rb"\r\n|\n|\r")
_SILENT = re.compile(rb"(?:(?::|(?:id|retry)(?=[:\r\n]|\Z))[^\r\n]*|[\r\n])*")
"""Lines that every client passes over."""

_HARMLESS = ((b"message_stop", b'{"type":"message_stop"}'), (b"message_stop", None), (b"ping", None))
_PLAIN = (ChoiceDelta(0),)


class MessagesStreamReader:
    """One streamed answer. :meth:`feed` gives the events that the bytes complete; :meth:`rest` what is left
    when the stream is over (normally nothing). With ``runs``, deltas of a text that come together may come as one."""

    __slots__ = (
        *("_arguments", "_begun", "_block", "_calls", "_ended", "_framer", "_index", "_next", "_runs"),
        *("counts", "runs"),
    )

    def __init__(self) -> None:
        self._framer = Framer()
        self._begun = False
        self._ended = False
        self._index = -1  # of the open block; -1: none is open
        self._block = ""  # its type; "" if it is not understood
        self._next = 0  # index of the next block
        self._calls = 0
        self._arguments: list[str] = []  # of the open call
        self._runs = TextRuns(self.read, (b'"text":"', b'"thinking":"'))
        self.counts = Counts()
        self.runs = False

    @property
    def pending(self) -> int:
        return self._framer.pending

    def feed(self, data: bytes) -> list[Event]:
        if not self.runs:
            return [self.read(raw) for raw in self._framer.feed(data)]
        run = None if self._framer.pending else self._runs.take(data)
        if run is not None:
            self.counts.deltas += run.count
            if len(run.raw) == len(data):
                return [run]
            data = data[len(run.raw) :]
        events = [self.read(raw) for raw in self._framer.feed(data)]
        if run is not None:
            return [run, *events]
        if events and self._index >= 0:
            deltas = self.counts.deltas
            self._runs.learn(events[-1])
            self.counts.deltas = deltas  # what is tried in learning has not come
        return events

    def rest(self) -> bytes:
        return self._framer.rest()

    def harmless(self, rest: bytes) -> bool:
        return MessagesStreamReader().read(rest).kind == "comment" or _parts(rest) in _HARMLESS

    def read(self, raw: bytes) -> Event:
        """The next event, whole. Never raises: what is not understood has the kind "unknown"."""
        name, data = _parts(raw)
        if data is None:
            return Event(raw, "comment") if name is None and _SILENT.fullmatch(raw) else _unknown(raw)
        try:
            wire = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _unknown(raw)
        kind = wire.type
        if name is None or name != kind.encode():
            return _unknown(raw)
        if kind == "content_block_delta":
            return self._delta(raw, wire)
        if kind == "content_block_start":
            return self._start(raw, wire)
        if kind == "content_block_stop":
            return self._stop(raw, wire)
        if kind == "message_start":
            return self._message_start(raw, wire)
        if kind == "message_delta":
            return self._message_delta(raw, wire)
        if kind == "message_stop":
            return Event(raw, "done") if self._begun and self._index < 0 else _unknown(raw)
        if kind == "error":
            return Event(raw, "error", error=bytes(wire.error))
        if kind == "ping":
            return Event(raw, "delta", _PLAIN)
        return _unknown(raw)

    # -- the message -------------------------------------------------------------------------------

    def _message_start(self, raw: bytes, wire: _Wire) -> Event:
        message = wire.message
        if self._begun or message is None or message.content:
            return _unknown(raw)
        self._begun = True
        self.counts.start = raw
        if message.usage is not None:
            self.counts.prompt = message.usage.neutral().prompt
        return Event(raw, "delta", _PLAIN, answer_id=message.id, own=Frame("begin"))

    def _message_delta(self, raw: bytes, wire: _Wire) -> Event:
        delta = wire.delta
        if not self._begun or self._index >= 0 or delta is None or _says(delta):
            return _unknown(raw)
        reason = delta.stop_reason
        self._ended = True
        finish = None if reason is None else FINISH.get(reason, reason)
        usage = wire.usage.neutral() if wire.usage is not None else None
        return Event(raw, "delta", (ChoiceDelta(0, finish=finish),), usage, own=Frame("end"))

    # -- blocks ------------------------------------------------------------------------------------

    def _start(self, raw: bytes, wire: _Wire) -> Event:
        block, index = wire.content_block, wire.index
        if block is None or index is None or not self._begun or self._ended or self._index >= 0 or index != self._next:
            return _unknown(raw)
        self._index, self._next = index, index + 1
        frame = Frame("start", index, block.type)
        delta = self._began(block)
        self._block = block.type if delta is not None else ""
        return _unknown(raw, frame) if delta is None else Event(raw, "delta", (delta,), own=frame)

    def _began(self, block: _Block) -> ChoiceDelta | None:
        """What a block says with its start; None if it is not understood."""
        is_call = block.type == "tool_use"
        if is_call is not (block.name is not None) or (not is_call and given(block.input)):
            return None
        if is_call:
            self._arguments = []
            begun = bytes(block.input) if given(block.input) else b"{}"
            try:
                arguments = "" if begun.translate(None, b" \t\r\n") == b"{}" else begun.decode()
            except UnicodeDecodeError:
                return None
            if arguments:
                self._arguments.append(arguments)
            return ChoiceDelta(0, tools=(ToolDelta(self._calls, block.id, block.name, arguments),))
        if block.type == "text":
            return ChoiceDelta(0, text=block.text or None) if not block.thinking else None
        if block.type == "thinking":
            return ChoiceDelta(0, reasoning=block.thinking or None) if not block.text else None
        return ChoiceDelta(0) if block.type == "redacted_thinking" and not (block.text or block.thinking) else None

    def _delta(self, raw: bytes, wire: _Wire) -> Event:
        delta, block = wire.delta, self._block
        if delta is None or wire.index != self._index or not block:
            return _unknown(raw)
        says, text, thought, piece = delta.type, delta.text, delta.thinking, delta.partial_json
        if says == "text_delta" and text is not None:
            if block == "text" and thought is None and piece is None:
                self.counts.deltas += 1
                return Event(raw, "delta", (ChoiceDelta(0, text),))
        elif says == "thinking_delta" and thought is not None:
            if block == "thinking" and text is None and piece is None:
                self.counts.deltas += 1
                return Event(raw, "delta", (ChoiceDelta(0, None, thought),))
        elif says == "input_json_delta" and piece is not None:
            if block == "tool_use" and text is None and thought is None:
                self.counts.deltas += 1
                self._arguments.append(piece)
                return Event(raw, "delta", (ChoiceDelta(0, tools=(ToolDelta(self._calls, arguments=piece),)),))
        elif says == "signature_delta" and block == "thinking" and text is thought is piece is None:
            return Event(raw, "delta", _PLAIN, own=Frame("sign", self._index, block))
        return _unknown(raw)

    def _stop(self, raw: bytes, wire: _Wire) -> Event:
        if self._index < 0 or wire.index != self._index:
            return _unknown(raw)
        self._runs.forget()
        frame, block = Frame("stop", self._index, self._block), self._block
        self._index, self._block = -1, ""
        if not block:
            return _unknown(raw, frame)
        if block != "tool_use":
            return Event(raw, "delta", _PLAIN, own=frame)
        text = "".join(self._arguments)
        tool = ToolDelta(self._calls, arguments="" if text else "{}", done=not text or is_over(text))
        self._calls, self._arguments = self._calls + 1, []
        return Event(raw, "delta", (ChoiceDelta(0, tools=(tool,)),), own=frame)


def _unknown(raw: bytes, frame: Frame | None = None) -> Event:
    """Should it pass all the same, then in its place: blocks must not overtake one another."""
    return Event(raw, "unknown", _PLAIN, own=frame)


def given(value: msgspec.Raw) -> bool:
    """A member that was not looked into is there and not null."""
    return value is not _ABSENT and bytes(value) not in (b"", b"null")


def _says(delta: _Delta) -> bool:
    return not (delta.type is delta.text is delta.thinking is delta.partial_json is None)


def _parts(raw: bytes) -> tuple[bytes | None, bytes | None]:
    """The event's name and its data, each None if no line says it. Two names are one that no event has."""
    end = raw.find(b"\n")
    if raw.startswith(b"event: ") and raw.startswith(b"data: ", end + 1) and b"\r" not in raw:
        last = raw.find(b"\n", end + 1)
        if last == len(raw) - 2 and raw[-1] == 10:
            return raw[7:end], raw[end + 7 : last]
    names = {line[6:].removeprefix(b" ") for line in _LINE.split(raw) if line.startswith(b"event:")}
    return (names.pop() if len(names) == 1 else b"" if names else None), data_of(raw)
