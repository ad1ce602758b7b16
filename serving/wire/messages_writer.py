"""Writes changed answers of ``/v1/messages``, streamed and whole, by splicing (``serving.wire.splice``).

A refused call becomes a text block in its place, under the same index, so no other block has to be renumbered. A
message that is cut is closed as vLLM would close it: the open block stops, and stop reason, usage and
``message_stop`` follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.wire import splice
from serving.wire.errors import anthropic_type
from serving.wire.masking import Surface, each_masked
from serving.wire.messages_stream import FINISH, Counts, Frame
from serving.wire.splice import Edit, Span, Unspliceable
from serving.wire.vocabulary import Event, Usage
from serving.wire.writer import ChoiceChange, EventChange

_BREAK = "\n\n"
_SAYS: dict[Surface, str] = {"text": "text", "reasoning": "thinking"}
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class MessagesStreamWriter:
    """One streamed answer. ``counts`` are its reader's."""

    tracks = True
    alive = b'event: ping\ndata: {"type": "ping"}\n\n'

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._begun = False
        self._failed = False
        self._open: Frame | None = None  # the block that the client sees open
        self._signed = False  # its signature has left
        self._next = 0  # index of the next block that the client will see

    def passed(self, event: Event) -> bytes:
        frame = event.own
        if frame is not None:
            self._see(frame)
        return event.raw

    def change(self, event: Event, change: EventChange) -> bytes | None:
        tools = event.choices[0].tools
        if tools and tools[0].index in change.dropped:
            return None
        raw = self.passed(event)
        if change.texts or change.arguments:
            return _masked_event(raw, change)
        if change.finish is None:
            return raw
        delta = _member(raw, _document(raw), "delta")
        edits = [splice.set_member(raw, delta, "stop_reason", _REASONS.get(change.finish, change.finish))]
        sequence = splice.member(raw, delta, "stop_sequence")
        if sequence is not None:
            edits.append(splice.replace(sequence.value, None))
        return splice.apply(raw, edits)

    def text(self, template: Event, choice: int, text: str) -> bytes:
        begun = self._begin()
        if self._open is not None and self._open.block == "text":
            return begun + _text(self._open.index, text)
        closed, index = self._close(), self._next
        self._next += 1
        return begun + closed + _start(index) + _text(index, text) + _stop(index)

    def finish(self, template: Event, choice: int, reason: str) -> bytes:
        begun, closed = self._begin(), self._close()
        delta = {"stop_reason": _REASONS.get(reason, reason), "stop_sequence": None}
        usage = {"input_tokens": self._counts.prompt, "output_tokens": self._counts.deltas}
        return begun + closed + _event({"type": "message_delta", "delta": delta, "usage": usage})

    def usage(self, template: Event, usage: Usage) -> bytes:
        return b""

    def error(self, status: int, code: str | None, message: str) -> bytes:
        self._failed = True
        error = {"type": "internal_error" if code is None else anthropic_type(status), "message": message}
        return _event({"type": "error", "error": error if code is None else {**error, "code": code}})

    def ending(self) -> bytes:
        if self._failed:
            return b""
        if not self._begun:  # there is no message that could be closed
            return self.error(403, "run_killed", "Interlock ended this answer before it began.")
        return _event({"type": "message_stop"})

    def split(self, event: Event) -> list[bytes]:
        return [event.raw]

    def _see(self, frame: Frame) -> None:
        if frame.what == "start":
            self._open, self._next, self._signed = frame, frame.index + 1, False
        elif frame.what == "stop":
            self._open = None
        elif frame.what == "sign":
            self._signed = True
        elif frame.what == "begin":
            self._begun = True

    def _begin(self) -> bytes:
        """The message's start, if it has not left."""
        if self._begun:
            return b""
        self._begun = True
        return self._counts.start

    def _close(self) -> bytes:
        """The end of the open block, if there is one."""
        block, self._open = self._open, None
        if block is None:
            return b""
        unsigned = block.block == "thinking" and not self._signed
        return (_signature(block.index) if unsigned else b"") + _stop(block.index)


def _masked_event(raw: bytes, change: EventChange) -> bytes:
    """A block's start or a piece of it, which says something else."""
    top = _document(raw)
    piece = splice.member(raw, top, "delta") or splice.member(raw, top, "content_block")
    if piece is None:
        raise Unspliceable("no piece of a block")
    for arguments in change.arguments.values():
        partial = splice.member(raw, piece.value, "partial_json")
        if partial is not None:
            return splice.apply(raw, [splice.replace(partial.value, arguments)])
        return splice.apply(raw, [Edit(_member(raw, piece.value, "input"), arguments.encode())])
    edits = [splice.replace(_member(raw, piece.value, _SAYS[surface]), text) for surface, text in change.texts.items()]
    return splice.apply(raw, edits)


class MessagesWholeWriter:
    """Writes a changed whole answer. Raises :class:`Unspliceable` for bytes that are no such answer."""

    def whole(self, body: bytes, changes: Sequence[ChoiceChange]) -> bytes:
        message = splice.root(body)
        edits: list[Edit] = []
        for change in changes:
            if change.cut is not None:
                edits += _cut(body, message, change)
            else:
                edits += _refuse(body, message, change) + _masked(body, message, change)
        return splice.apply(body, edits)


def _masked(body: bytes, message: Span, change: ChoiceChange) -> list[Edit]:
    """The blocks' texts and the calls' arguments, masked."""
    edits: list[Edit] = []
    blocks = splice.elements(body, _member(body, message, "content"))
    kinds = [splice.text(body, _member(body, block, "type")) for block in blocks]
    for surface, key in _SAYS.items():
        members = [splice.member(body, block, key) for block in blocks]
        found = [one.value for one in members if one is not None and body[one.value.start : one.value.end] != b"null"]
        texts = [splice.text(body, where) for where in found]
        told = each_masked(texts, change.texts.get(surface, ()))
        edits += [splice.replace(w, new) for w, old, new in zip(found, texts, told, strict=True) if new != old]
    calls = [block for block, kind in zip(blocks, kinds, strict=True) if kind == "tool_use"]
    return edits + [
        Edit(_member(body, calls[index], "input"), arguments.encode()) for index, arguments in change.arguments.items()
    ]


def _refuse(body: bytes, message: Span, change: ChoiceChange) -> list[Edit]:
    edits: list[Edit] = []
    said, call = False, 0
    for block in splice.elements(body, _member(body, message, "content")):
        kind = splice.text(body, _member(body, block, "type"))
        if kind == "text":
            said = said or bool(splice.text(body, _member(body, block, "text")).strip())
        elif kind == "tool_use":
            if call in change.refused:
                text = change.refused[call]
                edits.append(splice.replace(block, {"type": "text", "text": _BREAK + text if said else text}))
                said = True
            call += 1
    if change.refused and change.calls == len(change.refused):
        reason = splice.member(body, message, "stop_reason")
        stopped = None if reason is None else FINISH.get(_text_of(body, reason.value) or "")
        if stopped is not None and stopped not in ("length", change.finish):
            edits += _reason(body, message, change.finish)
    return edits


def _cut(body: bytes, message: Span, change: ChoiceChange) -> list[Edit]:
    content = [{"type": "text", "text": change.cut}]
    return [
        splice.replace(_member(body, message, "content"), content),
        *_reason(body, message, change.finish),
    ]


def _reason(body: bytes, message: Span, finish: str) -> list[Edit]:
    return [
        splice.set_member(body, message, "stop_reason", _REASONS.get(finish, finish)),
        *splice.remove_members(body, message, ["stop_sequence"]),
    ]


def _text_of(body: bytes, span: Span) -> str | None:
    return None if body[span.start : span.end] == b"null" else splice.text(body, span)


# -- events ----------------------------------------------------------------------------------------


def _event(data: dict[str, Any]) -> bytes:
    name: str = data["type"]
    return b"event: " + name.encode() + b"\ndata: " + splice.encode(data) + b"\n\n"


def _start(index: int) -> bytes:
    return _event({"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": index})


def _text(index: int, text: str) -> bytes:
    return _event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}, "index": index})


def _signature(index: int) -> bytes:
    delta = {"type": "signature_delta", "signature": ""}
    return _event({"type": "content_block_delta", "delta": delta, "index": index})


def _stop(index: int) -> bytes:
    return _event({"type": "content_block_stop", "index": index})


def _document(event: bytes) -> Span:
    where = splice.data_span(event)
    if where is None:
        raise Unspliceable("an event without data")
    return splice.root(event, where)


def _member(raw: bytes, span: Span, key: str) -> Span:
    found = splice.member(raw, span, key)
    if found is None:
        raise Unspliceable(f"no {key}")
    return found.value
