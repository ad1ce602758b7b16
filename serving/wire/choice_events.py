"""What the answers of chat completions and completions have in common: a list of ``choices`` with an ``index`` each,
in a stream one event after the other, closed by ``[DONE]``. Their writers splice with these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from serving.wire import splice
from serving.wire.splice import Edit, Span, Unspliceable
from serving.wire.vocabulary import Event, Usage
from serving.wire.writer import EventChange


def document(event: bytes) -> Span:
    """The value that an event's data is."""
    where = splice.data_span(event)
    if where is None:
        raise Unspliceable("an event without data")
    return splice.root(event, where)


def at(raw: bytes, span: Span, key: str) -> Span:
    """The member ``key``, which must be there."""
    found = splice.member(raw, span, key)
    if found is None:
        raise Unspliceable(f"no {key}")
    return found.value


def choice_of(raw: bytes, number: int) -> Span:
    """The choice with the index ``number``."""
    for choice in splice.elements(raw, at(raw, document(raw), "choices")):
        if value(raw, at(raw, choice, "index")) == number:
            return choice
    raise Unspliceable(f"no choice {number}")


def value(raw: bytes, span: Span) -> Any:
    """What stands at ``span``."""
    return json.loads(raw[span.start : span.end])


def event_like(template: bytes, number: int, says: Mapping[str, Any], finish: str | None) -> bytes:
    """An event with one choice, ``number``, with ``says`` for its members, and everything beside the choices as in
    ``template``."""
    top = document(template)
    listed = at(template, top, "choices")
    pieces = splice.elements(template, listed)
    if not pieces:
        raise Unspliceable("a template without choices")
    edits = splice.remove_elements(template, listed, range(1, len(pieces)))
    choice = pieces[0]
    edits += splice.null(template, choice, "logprobs", "token_ids", "stop_reason")
    edits += splice.null(template, top, "prompt_token_ids", "prompt_text")
    edits.append(splice.set_member(template, choice, "index", number))
    edits += [splice.set_member(template, choice, key, said) for key, said in says.items()]
    edits.append(splice.set_member(template, choice, "finish_reason", finish))
    return splice.apply(template, edits)


class ChoiceEventWriter:
    """What the stream writers of both have in common. Raises :class:`Unspliceable` for bytes that are no such event."""

    tracks = False
    alive = b": waiting\n\n"

    def passed(self, event: Event) -> bytes:
        return event.raw

    def usage(self, template: Event, usage: Usage) -> bytes:
        raw = template.raw
        counts = {
            "prompt_tokens": usage.prompt,
            "total_tokens": usage.prompt + usage.completion,
            "completion_tokens": usage.completion,
        }
        empty = splice.apply(raw, [splice.set_member(raw, document(raw), "choices", [])])
        return splice.apply(empty, [splice.set_member(empty, document(empty), "usage", counts)])

    def error(self, status: int, code: str | None, message: str) -> bytes:
        kind = "InternalServerError" if status >= 500 else "PermissionDeniedError"
        body = {"error": {"message": message, "type": kind, "param": None, "code": code or status}}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    def ending(self) -> bytes:
        return b"data: [DONE]\n\n"

    def split(self, event: Event) -> list[bytes]:
        raw, number = event.raw, len(event.choices)
        parts = []
        for position in range(number):
            listed = at(raw, document(raw), "choices")
            others = [i for i in range(number) if i != position]
            parts.append(splice.apply(raw, splice.remove_elements(raw, listed, others)))
        return parts


def finish_edits(raw: bytes, choice: Span, change: EventChange) -> list[Edit]:
    """What ``change`` says of the tokens and the finish reason of ``choice``."""
    edits = splice.null(raw, choice, "logprobs", "token_ids") if change.hide_tokens else []
    if change.open_end:
        edits += splice.null(raw, choice, "finish_reason", "stop_reason")
    elif change.finish is not None:
        edits.append(splice.set_member(raw, choice, "finish_reason", change.finish))
    return edits
