"""Reads the streamed answer of ``/v1/responses``: bytes in any chunking → :class:`Event` objects.

Facts of vLLM's wire that shape this reader (seen on 0.32): every event has an ``event:`` line and the same word as
``type`` in its data, and counts in ``sequence_number``; the stream begins with ``response.created`` and
``response.in_progress``; each item is opened, comes in deltas, and is repeated whole at its end; the last event is
``response.completed``, whatever the status in it, and repeats all items. There is no ``[DONE]``.

Some client acts on the deltas, another one on the copies. So a copy that says something else than the deltas, and
whatever might be a call in a form that is not judged (a custom tool's, one that the model server makes itself), is
"unknown": the setting for unjudged answers decides.

All is choice 0. An event that only frames the others has an empty delta. A function call ends with its
``output_item.done``; where its arguments are no whole JSON by then, only what comes next tells whether the answer was
cut off inside it.
"""

from __future__ import annotations

import re

import msgspec

from serving.wire.chat_stream import SILENT, given
from serving.wire.responses_items import (
    ABSENT,
    CALL,
    KINDS,
    MESSAGE,
    REASONING,
    Item,
    Part,
    Said,
    Stage,
    Token,
    read_item,
    read_response,
    utf8,
)
from serving.wire.sse import Framer, data_of
from serving.wire.strict import is_over
from serving.wire.vocabulary import ChoiceDelta, Event, ToolDelta


class _Event(msgspec.Struct, gc=False):
    type: str
    sequence_number: int | None = None
    output_index: int = -1
    content_index: int = 0
    item_id: str | None = None
    delta: str | None = None
    logprobs: list[Token] | None = None
    text: str | None = None
    arguments: str | None = None
    name: str | None = None
    part: Part | None = None
    item: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    choices: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(_Event).decode
_LINE = re.compile(rb"\r\n|\n|\r")
_NOTHING = (ChoiceDelta(0),)
_OPENING = frozenset({"response.created", "response.in_progress", "response.queued"})
_FINAL = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


class ResponsesReader:
    """One streamed answer. What :meth:`feed` gives and :meth:`rest`, joined, is what it was fed."""

    __slots__ = ("_calls", "_foreign", "_framer", "_last", "items")

    def __init__(self) -> None:
        self._framer = Framer()
        self.items: dict[int, Item] = {}
        self._foreign: set[str | None] = set()  # ids of items that are not judged
        self._calls = 0
        self._last = -1

    def feed(self, data: bytes) -> list[Event]:
        return [self.read(raw) for raw in self._framer.feed(data)]

    @property
    def pending(self) -> int:
        return self._framer.pending

    def rest(self) -> bytes:
        return self._framer.rest()

    def harmless(self, rest: bytes) -> bool:
        return data_of(rest) is None and SILENT.fullmatch(rest) is not None

    def read(self, raw: bytes) -> Event:
        """What one whole event says. Never raises: what is not understood has the kind "unknown"."""
        name, data = _lines(raw)
        if data is None:
            return Event(raw, "comment") if SILENT.fullmatch(raw) else Event(raw, "unknown", _NOTHING)
        try:
            said = _decode(data)
            if name is not None and name != said.type.encode("utf-8", "replace"):
                return Event(raw, "unknown", _NOTHING)  # clients go by the one or by the other
            event = self._read(raw, said)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Event(raw, "unknown", _NOTHING)
        if event is None:  # where it may pass, it keeps its place
            return Event(raw, "unknown", _NOTHING, own=Said(Stage.FRAME, said.sequence_number))
        return event

    def _read(self, raw: bytes, said: _Event) -> Event | None:
        kind = said.type
        if kind == "response.output_text.delta" or kind == "response.reasoning_text.delta":
            return self._text(raw, said, MESSAGE if kind == "response.output_text.delta" else REASONING)
        if kind == "response.function_call_arguments.delta":
            item = self._item(said, CALL)
            if item is None or said.delta is None:
                return None
            item.said += utf8(said.delta)
            return _event(raw, said, Stage.DELTA, item, tools=(ToolDelta(item.number, arguments=said.delta),))
        if kind == "error" or given(said.error):
            return Event(raw, "error", error=bytes(said.error), own=Said(Stage.FRAME, said.sequence_number))
        if given(said.choices):
            return None
        if kind == "response.output_item.added":
            return self._added(raw, said)
        if kind == "response.output_item.done":
            return self._done(raw, said)
        if kind in _OPENING or kind in _FINAL:
            return self._whole(raw, said)
        return self._framing(raw, said)

    def _item(self, said: _Event, *types: str) -> Item | None:
        """The item that an event is about, if it is there, of one of these types, and still open."""
        item = self.items.get(said.output_index)
        if item is None or item.type not in types or item.id != (said.item_id or "") or item.raw is not None:
            return None
        return item if said.content_index == 0 else None

    def _text(self, raw: bytes, said: _Event, kind: str) -> Event | None:
        item = self._item(said, kind)
        if item is None or said.delta is None:
            return None
        item.said += utf8(said.delta)
        own = Said(Stage.DELTA, said.sequence_number, item, len(item.said), said.type)
        if kind == REASONING:
            return Event(raw, "delta", (ChoiceDelta(0, None, said.delta),), own=own)
        if not said.logprobs:
            return Event(raw, "delta", (ChoiceDelta(0, said.delta),), own=own)
        shown = ChoiceDelta(0, said.delta, tokens=len(said.logprobs), logprob_text=_spelt(said.logprobs))
        return Event(raw, "delta", (shown,), own=own)

    def _added(self, raw: bytes, said: _Event) -> Event | None:
        sent = read_item(said.item)
        if said.output_index <= self._last:
            return None
        if sent.type not in KINDS:
            self._foreign.add(sent.id)
            self._last = said.output_index
            item = self.items[said.output_index] = Item(said.output_index, sent, -1)
            return Event(raw, "unknown", _NOTHING, own=Said(Stage.ADDED, said.sequence_number, item))
        if sent.said() != "" or sent.shown:
            return None
        self._last = said.output_index
        is_call = sent.type == CALL
        item = self.items[said.output_index] = Item(said.output_index, sent, self._calls if is_call else -1)
        if not is_call:
            return _event(raw, said, Stage.ADDED, item)
        self._calls += 1
        return _event(raw, said, Stage.ADDED, item, tools=(ToolDelta(item.number, sent.call_id, sent.full_name),))

    def _done(self, raw: bytes, said: _Event) -> Event | None:
        sent = read_item(said.item)
        item = self.items.get(said.output_index)
        if item is not None and item.type not in KINDS:
            item.raw = bytes(said.item)
            return Event(raw, "unknown", _NOTHING, own=Said(Stage.DONE, said.sequence_number, item))
        if item is None or item.raw is not None or not item.is_same(sent):
            return None
        item.raw = bytes(said.item)
        if item.type == CALL:
            return _event(
                raw, said, Stage.DONE, item, tools=(ToolDelta(item.number, done=is_over(sent.arguments or "")),)
            )
        return _event(raw, said, Stage.DONE, item, tokens=1 if sent.shown else 0)

    def _framing(self, raw: bytes, said: _Event) -> Event | None:
        match said.type:
            case "response.content_part.added":
                item = self._item(said, MESSAGE, REASONING)
                if item is None or not _is_part(said.part, item, b"") or item.said:
                    return None
                return _event(raw, said, Stage.PART, item)
            case "response.content_part.done":
                item = self._item(said, MESSAGE, REASONING)
                if item is None or not _is_part(said.part, item, item.said):
                    return None
                shown = said.part is not None and bool(said.part.logprobs)
                return _event(raw, said, Stage.PART_DONE, item, tokens=1 if shown else 0)
            case "response.output_text.done" | "response.reasoning_text.done":
                item = self._item(said, MESSAGE if said.type == "response.output_text.done" else REASONING)
                if item is None or said.text is None or utf8(said.text) != item.said:
                    return None
                return _event(raw, said, Stage.TEXT_DONE, item, tokens=1 if said.logprobs else 0)
            case "response.function_call_arguments.done":
                item = self._item(said, CALL)
                if item is None or said.arguments is None or utf8(said.arguments) != item.said:
                    return None
                if said.name not in (None, item.name):
                    return None
                return _event(raw, said, Stage.TEXT_DONE, item, tools=(ToolDelta(item.number),))
        return None

    def _whole(self, raw: bytes, said: _Event) -> Event | None:
        """An event with the answer as an object: what it repeats must be what came."""
        response = read_response(said.response)
        if given(response.choices):
            return None
        copies = response.output or []
        if said.type in _OPENING:
            own = Said(Stage.FRAME, said.sequence_number, kind=said.type)
            return None if copies else Event(raw, "delta", _NOTHING, answer_id=response.id, own=own)
        if not self._repeats(copies):
            return None
        finish = response.finish(self._calls > 0) or "stop"
        return Event(
            raw,
            "delta",
            (ChoiceDelta(0, finish=finish),),
            response.neutral_usage(),
            answer_id=response.id,
            own=Said(Stage.FINAL, said.sequence_number, kind=said.type),
        )

    def _repeats(self, copies: list[msgspec.Raw]) -> bool:
        """Whether these are copies of the items that came, each at most once and in their order; what a client has no
        use for may be missing on either side."""
        came, at = list(self.items.values()), 0
        for raw in copies:
            if at < len(came) and came[at].raw == bytes(raw):
                at += 1
                continue
            copy = read_item(raw)
            if copy.type not in KINDS:
                if copy.id not in self._foreign:
                    return False
                continue
            place = next((i for i in range(at, len(came)) if came[i].is_same(copy)), None)
            if place is not None:
                at = place + 1
            elif copy.type == CALL or copy.said() != "":
                return False
        return True


def _event(
    raw: bytes, said: _Event, stage: Stage, item: Item, *, tools: tuple[ToolDelta, ...] = (), tokens: int = 0
) -> Event:
    delta = (ChoiceDelta(0, tools=tools, tokens=tokens),) if tools or tokens else _NOTHING
    return Event(raw, "delta", delta, own=Said(stage, said.sequence_number, item, len(item.said), said.type))


def _lines(raw: bytes) -> tuple[bytes | None, bytes | None]:
    """What the event's ``event:`` line and its data say, None where there is none. Two names are one that no event
    has."""
    end = raw.find(b"\n")
    if raw.startswith(b"event: ") and raw.startswith(b"data: ", end + 1):
        last = raw.find(b"\n", end + 1)
        if last == len(raw) - 2 and raw[-1] == 10 and raw.find(b"\r") < 0:  # as vLLM writes it
            return raw[7:end], raw[end + 7 : last]
    names = {line[6:].removeprefix(b" ") for line in _LINE.split(raw) if line.startswith(b"event:")}
    return (names.pop() if len(names) == 1 else b"" if names else None), data_of(raw)


def _is_part(part: Part | None, item: Item, said: bytes | bytearray) -> bool:
    wanted = "output_text" if item.type == MESSAGE else "reasoning_text"
    return (
        part is not None
        and part.type == wanted
        and part.text is not None
        and not given(part.refusal)
        and utf8(part.text) == said
    )


def _spelt(tokens: list[Token]) -> str:
    raw = bytearray()
    for token in tokens:
        raw += bytes(token.bytes) if token.bytes is not None else utf8(token.token)
    return raw.decode("utf-8", "replace")
