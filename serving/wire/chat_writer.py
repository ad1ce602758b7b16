"""Writes changed answers of ``/v1/chat/completions``, streamed and whole, by splicing (``serving.wire.splice``).

What a refused call, or a masked span, leaves behind in logprobs and token ids is taken out as well. In a stream that
is done event by event (the gate says which events may show it); in a whole answer the tokens are cut out where the raw
model text has the call or the span, and where that cannot be told for sure, the choice loses all of them. Of a call in
which something is masked, all tokens go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from serving.wire import splice
from serving.wire.chat_stream import read_event
from serving.wire.choice_events import (
    ChoiceEventWriter,
    at,
    choice_of,
    event_like,
    finish_edits,
    value,
)
from serving.wire.masking import Masks, Surface, masked, showing_tokens, spelled_areas, touching_tokens
from serving.wire.splice import Edit, Span, locate
from serving.wire.vocabulary import Event
from serving.wire.writer import ChoiceChange, EventChange

_BREAK = "\n\n"
_OPENED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.S)
_THOUGHT = "</think>"
_SAYS: Mapping[Surface, tuple[str, ...]] = {"text": ("content",), "reasoning": ("reasoning", "reasoning_content")}
"""The members that say a surface."""


class ChatWriter(ChoiceEventWriter):
    """Both writers of chat completions. Raises :class:`Unspliceable` for bytes that are no such answer."""

    # -- streamed ----------------------------------------------------------------------------------

    def change(self, event: Event, change: EventChange) -> bytes | None:
        raw = event.raw
        choice = choice_of(raw, change.choice)
        edits: list[Edit] = []
        delta = at(raw, choice, "delta")
        calls = locate(raw, ("tool_calls",), delta)
        if calls is not None and raw[calls.start : calls.end] != b"null":
            edits += _without(raw, delta, calls, change)
        for surface, text in change.texts.items():
            edits += _said_instead(raw, delta, surface, text)
        changed = splice.apply(raw, edits + finish_edits(raw, choice, change))
        says = read_event(changed).choices[0]
        if says.text or says.reasoning or says.tools or says.finish is not None:
            return changed
        return None

    def text(self, template: Event, choice: int, text: str) -> bytes:
        return event_like(template.raw, choice, {"delta": {"content": text}}, None)

    def finish(self, template: Event, choice: int, reason: str) -> bytes:
        return event_like(template.raw, choice, {"delta": {}}, reason)

    # -- whole -------------------------------------------------------------------------------------

    def whole(self, body: bytes, changes: Sequence[ChoiceChange]) -> bytes:
        choices = splice.elements(body, at(body, splice.root(body), "choices"))
        edits: list[Edit] = []
        for change in changes:
            choice = choices[change.position]
            edits += _cut_choice(body, choice, change) if change.cut is not None else _changed(body, choice, change)
        return splice.apply(body, edits)


def _said_instead(raw: bytes, said: Span, surface: Surface, text: str) -> list[Edit]:
    """Every member of a delta or a message that says a surface says ``text``."""
    found = [splice.member(raw, said, key) for key in _SAYS[surface]]
    return [
        splice.replace(one.value, text)
        for one in found
        if one is not None and raw_of(raw, one.value) not in (b"null", b'""')
    ]


def _without(raw: bytes, delta: Span, calls: Span, change: EventChange) -> list[Edit]:
    pieces = splice.elements(raw, calls)
    indices = [value(raw, index.value) if (index := splice.member(raw, piece, "index")) else 0 for piece in pieces]
    gone = {place for place, index in enumerate(indices) if index in change.dropped}
    if len(gone) == len(pieces):
        return splice.remove_members(raw, delta, ["tool_calls"])
    edits = splice.remove_elements(raw, calls, gone)
    for place, piece in enumerate(pieces):
        if place in gone:
            continue
        if indices[place] in change.renumber:
            edits.append(splice.replace(at(raw, piece, "index"), change.renumber[indices[place]]))
        if indices[place] in change.arguments:
            function = at(raw, piece, "function")
            edits.append(splice.replace(at(raw, function, "arguments"), change.arguments[indices[place]]))
    return edits


def _changed(body: bytes, choice: Span, change: ChoiceChange) -> list[Edit]:
    message = at(body, choice, "message")
    texts = {surface: _text(body, message, surface) for surface in change.texts}
    told = {surface: masked(text, change.texts[surface]) for surface, text in texts.items()}
    edits = [
        edit for s in told if s != "text" or not change.refused for edit in _said_instead(body, message, s, told[s])
    ]
    if change.refused:
        edits += _refuse(body, choice, message, change, told.get("text"))
    calls = locate(body, ("tool_calls",), message)
    for index, arguments in change.arguments.items():
        assert calls is not None
        function = at(body, splice.elements(body, calls)[index], "function")
        edits.append(splice.replace(at(body, function, "arguments"), arguments))
    spans = {text: change.texts[surface] for surface, text in texts.items()}
    return edits + _without_tokens(body, choice, calls, {*change.refused, *change.arguments}, spans)


def _text(body: bytes, message: Span, surface: Surface) -> str:
    """What the message says on a surface."""
    for key in _SAYS[surface]:
        found = splice.member(body, message, key)
        if found is not None and (said := value(body, found.value)):
            return str(said)
    return ""


def _refuse(body: bytes, choice: Span, message: Span, change: ChoiceChange, masked_text: str | None) -> list[Edit]:
    calls = at(body, message, "tool_calls")
    left = change.calls - len(change.refused)
    if left:
        edits = splice.remove_elements(body, calls, change.refused)
    else:
        edits = splice.remove_members(body, message, ["tool_calls"])
        finish = splice.member(body, choice, "finish_reason")
        if finish is not None and value(body, finish.value) != "length":
            edits.append(splice.replace(finish.value, change.finish))
    text = _BREAK.join(change.refused[index] for index in sorted(change.refused))
    content = splice.member(body, message, "content")
    if content is not None and (said := value(body, content.value)):
        more = text if said.isspace() else _BREAK + text
        if masked_text is not None:
            edits.append(splice.replace(content.value, masked_text + more))
        else:
            edits.append(splice.append_to_string(body, content.value, more))
    else:
        edits.append(splice.set_member(body, message, "content", text))
    return edits


def _cut_choice(body: bytes, choice: Span, change: ChoiceChange) -> list[Edit]:
    message = at(body, choice, "message")
    return [
        *splice.remove_members(body, message, ["tool_calls"]),
        *splice.null(body, message, "reasoning", "reasoning_content"),
        *splice.null(body, choice, "logprobs", "token_ids"),
        splice.set_member(body, message, "content", change.cut),
        splice.set_member(body, choice, "finish_reason", change.finish),
    ]


# -- the tokens of what is refused or masked in a whole answer ------------------------------------------


def _without_tokens(
    body: bytes, choice: Span, calls: Span | None, hidden: Collection[int], texts: Mapping[str, Masks]
) -> list[Edit]:
    """``hidden``: calls whose tokens go; ``texts``: texts of which masks' tokens go."""
    logprobs, ids = splice.member(body, choice, "logprobs"), splice.member(body, choice, "token_ids")
    shown = logprobs is not None and raw_of(body, logprobs.value) != b"null"
    if logprobs is None or not shown:
        return splice.null(body, choice, "token_ids")
    content = locate(body, ("content",), logprobs.value)
    if content is None or body[content.start] != ord("["):
        return splice.null(body, choice, "logprobs", "token_ids")
    tokens = splice.elements(body, content)
    listed = value(body, calls) or [] if calls is not None else []
    gone = hidden_tokens([value(body, token) for token in tokens], listed, hidden, texts)
    if gone is None:
        return splice.null(body, choice, "logprobs", "token_ids")
    edits = splice.remove_elements(body, content, gone)
    if ids is not None and raw_of(body, ids.value) != b"null":
        if len(splice.elements(body, ids.value)) == len(tokens):
            edits += splice.remove_elements(body, ids.value, gone)
        else:
            edits += splice.null(body, choice, "token_ids")
    return edits


def raw_of(body: bytes, span: Span) -> bytes:
    return body[span.start : span.end]


def hidden_tokens(
    tokens: Sequence[Any], calls: Sequence[Any], hidden: Collection[int], texts: Mapping[str, Masks]
) -> set[int] | None:
    """Which tokens spell the calls whose indices are ``hidden``, or show the masked spans of ``texts``; None if that is
    not certain.

    The raw model text is what the tokens' bytes spell. Each call must be found there as one
    ``<tool_call>…</tool_call>`` that says the same name and arguments, and there must be no other; each text just once.
    """
    pieces = [bytes(token["bytes"]) if token.get("bytes") is not None else token["token"].encode() for token in tokens]
    raw = b"".join(pieces)
    areas = spelled_areas(raw, texts)
    written = _call_areas(raw, calls, hidden) if hidden else []
    if areas is None or written is None:
        return None
    return showing_tokens(pieces, areas) | touching_tokens(pieces, written)


def _call_areas(raw: bytes, calls: Sequence[Any], hidden: Collection[int]) -> list[tuple[int, int]] | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    thought = text.rfind(_THOUGHT)
    found = list(_OPENED.finditer(text, max(thought, 0)))
    if len(found) != len(calls) or text.count("<tool_call>") != len(calls):
        return None
    areas = []
    for index, (match, call) in enumerate(zip(found, calls, strict=True)):
        if not _same(match[1], call["function"]):
            return None
        if index in hidden:
            areas.append((len(text[: match.start()].encode()), len(text[: match.end()].encode())))
    return areas


def _same(written: str, function: Any) -> bool:
    try:
        said = json.loads(written)
        return bool(said["name"] == function["name"] and said["arguments"] == json.loads(function["arguments"]))
    except (ValueError, KeyError, TypeError):
        return False
