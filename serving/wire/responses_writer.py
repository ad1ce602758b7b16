"""Writes changed answers of ``/v1/responses``, streamed and whole, by splicing (``serving.wire.splice``).

How to think about it. A refused function call becomes an assistant message *in its place*: the same ``output_index``,
so that no other item moves. In a stream the message comes as six events where the call's first one stood;
``sequence_number`` goes on without a gap, so every later event is renumbered. Every later copy
(``response.completed``, a stored answer) shows the same message, under the same id.

A cut closes what is open, adds its text as a message of its own and ends with a ``response.completed`` whose output is
what the client was given. It is made from the answer's first event, which says all the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from serving.wire import splice
from serving.wire.responses_items import (
    CALL,
    KINDS,
    MESSAGE,
    Item,
    Said,
    Stage,
    encode,
    message_item,
    reasoning_item,
    refusal_id,
    text_part,
    utf8,
)
from serving.wire.responses_masks import given_instead, item_instead, masked_texts, whole_masked, without_tokens
from serving.wire.responses_stream import ResponsesReader
from serving.wire.splice import Edit, Span, Unspliceable
from serving.wire.vocabulary import Event, Usage
from serving.wire.writer import ChoiceChange, EventChange

_BREAK = "\n\n"
_FRAME = Said(Stage.FRAME)


class ResponsesWriter:
    """The writer of one streamed answer. ``after``: the client has had the events up to this sequence number before,
    and is given what follows only. Raises :class:`Unspliceable` for bytes that are no such answer."""

    tracks = True
    alive = b": waiting\n\n"

    def __init__(self, reader: ResponsesReader, after: int | None = None) -> None:
        self._reader = reader
        self._after = -1 if after is None else after
        self._shift = 0  # what is added to the model server's sequence numbers
        self._last = -1  # the sequence number that the client saw last
        self._opening: bytes | None = None
        self._items: list[Item] = []  # as the client has them
        self._made: dict[int, bytes] = {}  # output index → an item of ours in its place
        self._dropping: Item | None = None

    # -- what passes -------------------------------------------------------------------------------

    def passed(self, event: Event) -> bytes:
        own = event.own or _FRAME
        raw = event.raw
        item = own.item
        if item is not None:
            if item.given is not None or item.hidden:
                raw = self._as_given(raw, own, item)
            item.stage, item.upto = own.stage, own.upto
            if own.stage == Stage.ADDED:
                self._items.append(item)
        elif own.stage == Stage.FINAL:
            raw = self._with_changed_items(raw)
        elif self._opening is None and own.kind:
            self._opening = raw
        if not self._shift and self._after < 0:
            if own.sequence is not None:
                self._last = own.sequence
            return raw
        return self._renumbered(raw, own)

    @staticmethod
    def _as_given(raw: bytes, own: Said, item: Item) -> bytes:
        """An event about an item of which something was masked: copies say what the client was given."""
        if own.stage == Stage.DELTA and item.given is not None:
            item.given += item.said[item.upto : own.upto]
        if own.stage == Stage.DELTA:
            return raw
        top = _document(raw)
        hidden = item.given is None
        edits = _without_tokens(raw, top, own) if hidden else given_instead(raw, top, own.stage, item)
        raw = splice.apply(raw, edits)
        if own.stage == Stage.DONE:
            where = _at(raw, _document(raw), "item")
            item.shown = raw[where.start : where.end]
        return raw

    def _renumbered(self, raw: bytes, own: Said) -> bytes:
        if own.sequence is None:
            return raw
        self._last = own.sequence + self._shift
        if self._last <= self._after:
            return b""
        if not self._shift:
            return raw
        number = splice.member(raw, _document(raw), "sequence_number")
        if number is None:
            raise Unspliceable("no sequence number")
        return splice.apply(raw, [splice.replace(number.value, self._last)])

    # -- what changes ------------------------------------------------------------------------------

    def change(self, event: Event, change: EventChange) -> bytes | None:
        own: Said = event.own or _FRAME
        item = own.item
        if item is not None and item.number in change.dropped:
            if own.sequence is not None:
                self._shift -= 1
            if own.stage == Stage.ADDED:
                self._dropping = item
            return None
        raw, edits = event.raw, list[Edit]()
        top = _document(raw)
        masked = item is not None and (item.given is not None or item.hidden)
        if change.hide_tokens and (not masked or own.stage == Stage.DELTA):
            edits += _without_tokens(raw, top, own)
            if item is not None:
                item.hidden = True
        for told in (*change.texts.values(), *change.arguments.values()):
            if item is None or own.stage != Stage.DELTA:
                raise Unspliceable("no piece of an item")
            edits.append(splice.replace(_at(raw, top, "delta"), told))
            given = item.said[: item.upto] if item.given is None else item.given
            item.given, item.upto = given + utf8(told), own.upto
        if change.finish == "content_filter" and own.stage == Stage.FINAL:
            edits += _filtered(raw, _at(raw, top, "response"))
        changed = splice.apply(raw, edits) if edits else raw
        if change.hide_tokens and item is not None and not masked and own.stage == Stage.DONE:
            where = _at(changed, _document(changed), "item")
            item.shown = changed[where.start : where.end]
        return self.passed(Event(changed, event.kind, event.choices, event.usage, own=own))

    def _with_changed_items(self, raw: bytes) -> bytes:
        """The last event, whose copies are those of the items that the client was given."""
        shown = {item.id: item.shown for item in self._items if item.shown is not None}
        shown |= {self._reader.items[index].id: made for index, made in self._made.items()}
        masked = {one.id: one for one in self._items if one.shown is None and (one.given is not None or one.hidden)}
        if not shown and not masked:
            return raw
        response = _at(raw, _document(raw), "response")
        edits = splice.null(raw, response, "output_messages")
        for copy in splice.elements(raw, _at(raw, response, "output")):
            item_id = splice.member(raw, copy, "id")
            name = splice.text(raw, item_id.value) if item_id is not None else ""
            if (instead := shown.get(name)) is not None:
                edits.append(Edit(copy, instead))
            elif name in masked:
                edits += item_instead(raw, copy, masked[name])
        return splice.apply(raw, edits)

    # -- what is added -----------------------------------------------------------------------------

    def text(self, template: Event, choice: int, text: str) -> bytes:
        dropped, self._dropping = self._dropping, None
        own = template.own
        if dropped is not None and isinstance(own, Said) and own.item is dropped:
            item_id = refusal_id(dropped.call_id or dropped.id)
            self._made[dropped.index] = encode(message_item(item_id, text))
            return self._message(dropped.index, item_id, text)
        closed = self._closed()
        index = max([-1, *self._made, *(item.index for item in self._items)]) + 1
        item_id = refusal_id(self._answer_id() or "")
        self._made[index] = encode(message_item(item_id, text))
        return closed + self._message(index, item_id, text)

    def finish(self, template: Event, choice: int, reason: str) -> bytes:
        if self._opening is None:
            return b""
        raw = self._opening
        top = _document(raw)
        response = _at(raw, top, "response")
        given: dict[int, bytes] = {item.index: item.shown or item.raw or b"" for item in self._items} | self._made
        output = b"[" + b",".join(given[index] for index in sorted(given) if given[index]) + b"]"
        edits = [
            splice.set_member(raw, top, "type", "response.completed"),
            Edit(_at(raw, response, "output"), output),
            splice.set_member(raw, response, "status", "completed"),
        ]
        if reason in ("length", "content_filter"):
            why = "max_output_tokens" if reason == "length" else "content_filter"
            edits[-1] = splice.set_member(raw, response, "status", "incomplete")
            edits.append(splice.set_member(raw, response, "incomplete_details", {"reason": why}))
        changed = splice.apply(raw, edits)
        kind = json.loads(raw[(where := _at(raw, top, "type")).start : where.end])
        changed = changed.replace(b"event: " + kind.encode(), b"event: response.completed", 1)
        return self._added(changed)

    def usage(self, template: Event, usage: Usage) -> bytes:
        return b""

    def error(self, status: int, code: str | None, message: str) -> bytes:
        kind = "InternalServerError" if status >= 500 else "PermissionDeniedError"
        named = code or str(status)
        return self._event(
            {
                "type": "error",
                "code": named,
                "message": message,
                "param": None,
                "error": {"message": message, "type": kind, "param": None, "code": named},
            }
        )

    def ending(self) -> bytes:
        return b""

    def split(self, event: Event) -> list[bytes]:
        raise Unspliceable("an answer of one choice")

    # -- events of our own -------------------------------------------------------------------------

    def _message(self, index: int, item_id: str, text: str) -> bytes:
        where = {"item_id": item_id, "output_index": index, "content_index": 0}
        added = {"type": "response.output_item.added", "output_index": index}
        open_part = {**text_part(""), "logprobs": []}
        return b"".join(
            [
                self._event({**added, "item": message_item(item_id, None, "in_progress")}),
                self._event({"type": "response.content_part.added", **where, "part": open_part}),
                self._event({"type": "response.output_text.delta", **where, "delta": text, "logprobs": []}),
                self._event({"type": "response.output_text.done", **where, "text": text, "logprobs": []}),
                self._event({"type": "response.content_part.done", **where, "part": text_part(text)}),
                self._event(
                    {
                        "type": "response.output_item.done",
                        "output_index": index,
                        "item": message_item(item_id, text),
                    }
                ),
            ]
        )

    def _closed(self) -> bytes:
        """Ends the item that is open, with what the client has of it."""
        item = self._items[-1] if self._items else None
        if item is None or item.stage == Stage.DONE or item.type not in KINDS:
            return b""
        came = item.said[: item.upto] if item.given is None else item.given
        said = bytes(came).decode("utf-8", "surrogatepass")
        events = []
        if item.type == CALL:
            item.shown = encode(_broken_call(item, said))
        else:
            text = said if item.stage >= Stage.PART else None
            where = {"item_id": item.id, "output_index": item.index, "content_index": 0}
            part = text_part(said) if item.type == MESSAGE else {"text": said, "type": "reasoning_text"}
            if Stage.PART <= item.stage < Stage.TEXT_DONE:
                kind = "output_text" if item.type == MESSAGE else "reasoning_text"
                shows = {"logprobs": list[Any]()} if item.type == MESSAGE else {}
                events.append(self._event({"type": f"response.{kind}.done", **where, "text": said, **shows}))
            if Stage.PART <= item.stage < Stage.PART_DONE:
                events.append(self._event({"type": "response.content_part.done", **where, "part": part}))
            whole = message_item(item.id, text) if item.type == MESSAGE else reasoning_item(item.id, text)
            item.shown = encode(whole)
        item.stage = Stage.DONE
        done = {"type": "response.output_item.done", "output_index": item.index, "item": json.loads(item.shown)}
        events.append(self._event(done))
        return b"".join(events)

    def _event(self, value: dict[str, Any]) -> bytes:
        """An event of our own, with the next sequence number."""
        kind = value["type"]
        data = encode({**value, "sequence_number": 0})
        return self._added(b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n")

    def _added(self, raw: bytes) -> bytes:
        self._last += 1
        self._shift += 1
        if self._last <= self._after:
            return b""
        number = splice.member(raw, _document(raw), "sequence_number")
        if number is None:
            return raw
        return splice.apply(raw, [splice.replace(number.value, self._last)])

    def _answer_id(self) -> str | None:
        if self._opening is None:
            return None
        response = _at(self._opening, _document(self._opening), "response")
        found = splice.member(self._opening, response, "id")
        return splice.text(self._opening, found.value) if found is not None else None


def _without_tokens(raw: bytes, top: Span, own: Said) -> list[Edit]:
    if own.stage in (Stage.DELTA, Stage.TEXT_DONE):
        listed = splice.member(raw, top, "logprobs")
        return [splice.replace(listed.value, [])] if listed is not None else []
    if own.stage == Stage.PART_DONE:
        return splice.null(raw, _at(raw, top, "part"), "logprobs")
    if own.stage == Stage.DONE:
        return _without_logprobs(raw, _at(raw, top, "item"))
    return []


class WholeResponses:
    """The writer of a whole answer: made at once, stored, or cancelled."""

    def whole(self, body: bytes, changes: Sequence[ChoiceChange]) -> bytes:
        for change in changes:
            top = splice.root(body)
            edits = splice.null(body, top, "output_messages")
            if change.cut is not None:
                edits += _cut(body, top, change)
            else:
                edits += _refused(body, top, change)
            body = splice.apply(body, edits)
        return body


def _refused(body: bytes, top: Span, change: ChoiceChange) -> list[Edit]:
    items = splice.elements(body, _at(body, top, "output"))
    values = [json.loads(body[item.start : item.end]) for item in items]
    calls = [value for value in values if value.get("type") == CALL]
    edits = whole_masked(body, items, values, change.texts)
    texts = masked_texts(values, change.texts)
    hidden = {*change.refused, *change.arguments}
    number, said = -1, False
    for where, value in zip(items, values, strict=True):
        if value.get("type") == CALL:
            number += 1
            if number in change.refused:
                text = _BREAK + change.refused[number] if said else change.refused[number]
                said = True
                item_id = refusal_id(value.get("call_id") or value.get("id") or "")
                edits.append(Edit(where, encode(message_item(item_id, text))))
            elif number in change.arguments:
                edits.append(splice.replace(_at(body, where, "arguments"), change.arguments[number]))
        elif value.get("type") == MESSAGE:
            said = said or any(not (part.get("text") or "").isspace() for part in _texts(value))
            edits += without_tokens(body, where, calls, hidden, texts)
    if change.refused and number + 1 == len(change.refused) and change.finish == "content_filter":
        edits += _filtered(body, top)
    return edits


def _texts(value: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    return [part for part in value.get("content") or () if part.get("text")]


def _cut(body: bytes, top: Span, change: ChoiceChange) -> list[Edit]:
    """All that was said gives way to the text. The reasoning is left out with it."""
    said = splice.member(body, top, "id")
    item_id = refusal_id(splice.text(body, said.value) if said is not None else "")
    edits = [splice.replace(_at(body, top, "output"), [message_item(item_id, change.cut)])]
    return edits + (_filtered(body, top) if change.finish == "content_filter" else [])


def _filtered(raw: bytes, response: Span) -> list[Edit]:
    return [
        splice.set_member(raw, response, "status", "incomplete"),
        splice.set_member(raw, response, "incomplete_details", {"reason": "content_filter"}),
    ]


def _broken_call(item: Item, arguments: str) -> dict[str, Any]:
    """A call that was given in part, and is no call to be made."""
    return {
        "arguments": arguments,
        "call_id": item.call_id,
        "name": item.name,
        "type": CALL,
        "id": item.id,
        "namespace": item.namespace,
        "status": "incomplete",
    }


def _document(event: bytes) -> Span:
    where = splice.data_span(event)
    if where is None:
        raise Unspliceable("an event without data")
    return splice.root(event, where)


def _at(raw: bytes, span: Span, key: str) -> Span:
    found = splice.member(raw, span, key)
    if found is None:
        raise Unspliceable(f"no {key}")
    return found.value


def _without_logprobs(raw: bytes, item: Span) -> list[Edit]:
    content = _at(raw, item, "content")
    if raw[content.start : content.start + 1] != b"[":
        return []
    return [edit for part in splice.elements(raw, content) for edit in splice.null(raw, part, "logprobs")]
