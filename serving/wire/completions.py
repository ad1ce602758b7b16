"""The dialect of ``/v1/completions``: text in, text out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import msgspec

from serving.wire import splice, strict
from serving.wire.chat_stream import WireUsage, given
from serving.wire.choice_events import (
    ChoiceEventWriter,
    at,
    choice_of,
    event_like,
    finish_edits,
    value,
)
from serving.wire.completions_request import FIELDS, read_completions_request
from serving.wire.completions_stream import CompletionsReader, read_event
from serving.wire.dialect import AnswerChoice, Api, Coerced, StreamReader, UpstreamRefuses, WholeAnswer
from serving.wire.masking import Masks, masked, shift_of, showing_tokens, spelled_areas, utf8
from serving.wire.request import ChatRequest
from serving.wire.splice import Edit, Span, locate
from serving.wire.vocabulary import Event
from serving.wire.writer import ChoiceChange, EventChange, StreamWriter, WholeWriter


class _Choice(msgspec.Struct):
    text: str
    index: int
    finish_reason: str | None = None
    delta: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    tool_calls: msgspec.Raw = msgspec.Raw()


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    id: str | None = None
    model: str | None = None
    usage: WireUsage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class Completions:
    api: Api = "completions"
    fields = FIELDS

    def request(self, value: Any) -> ChatRequest | Coerced | UpstreamRefuses:
        return read_completions_request(value)

    def stream(self, request: ChatRequest) -> tuple[StreamReader, StreamWriter]:
        return CompletionsReader(), CompletionsWriter()

    def answer(self, body: bytes) -> WholeAnswer | None:
        try:
            strict.read(body)
            answer = _decode(body)
        except (strict.NotStrict, msgspec.DecodeError, RecursionError):
            return None
        if any(given(raw) for c in answer.choices for raw in (c.delta, c.message, c.tool_calls)):
            return None
        choices = tuple(
            AnswerChoice(position, choice.index, choice.text, "", (), choice.finish_reason)
            for position, choice in enumerate(answer.choices)
        )
        return WholeAnswer(choices, answer.usage.neutral() if answer.usage else None, answer.id, answer.model)

    def whole(self, request: ChatRequest) -> WholeWriter:
        return CompletionsWriter()


class CompletionsWriter(ChoiceEventWriter):
    """Both writers of completions. Raises :class:`Unspliceable` for bytes that are no such answer.

    Tokens are shown with their places in the text, so what stands behind a mask is shown where it then is."""

    tracks = True

    def __init__(self) -> None:
        self._shifts: dict[int, int] = {}  # choice → code points by which its text has grown

    def passed(self, event: Event) -> bytes:
        raw = event.raw
        if self._shifts:
            edits = [
                edit
                for delta in event.choices
                if delta.choice in self._shifts
                for edit in _shifted(raw, choice_of(raw, delta.choice), self._shifts[delta.choice])
            ]
            raw = splice.apply(raw, edits) if edits else raw
        return raw

    def change(self, event: Event, change: EventChange) -> bytes | None:
        raw = event.raw
        choice = choice_of(raw, change.choice)
        edits = finish_edits(raw, choice, change)
        if change.hide_tokens:
            edits += splice.null(raw, choice, *_PROMPT)
        shift = self._shifts.get(change.choice, 0)
        if "text" in change.texts:
            where, told = at(raw, choice, "text"), change.texts["text"]
            self._shifts[change.choice] = shift + len(told) - len(splice.text(raw, where))
            edits.append(splice.replace(where, told))
        if shift and not change.hide_tokens:
            edits += _shifted(raw, choice, shift)
        changed = splice.apply(raw, edits)
        says = read_event(changed).choices[0]
        return changed if says.text or says.finish is not None else None

    def text(self, template: Event, choice: int, text: str) -> bytes:
        return event_like(template.raw, choice, {"text": text}, None)

    def finish(self, template: Event, choice: int, reason: str) -> bytes:
        return event_like(template.raw, choice, {"text": ""}, reason)

    def whole(self, body: bytes, changes: Sequence[ChoiceChange]) -> bytes:
        choices = splice.elements(body, at(body, splice.root(body), "choices"))
        edits: list[Edit] = []
        for change in changes:
            choice = choices[change.position]
            if change.cut is None:
                edits += [*_masked(body, choice, change.texts["text"]), *splice.null(body, choice, *_PROMPT)]
                continue
            edits += splice.null(body, choice, "logprobs", "token_ids", "stop_reason", *_PROMPT)
            edits.append(splice.set_member(body, choice, "text", change.cut))
            edits.append(splice.set_member(body, choice, "finish_reason", change.finish))
        return splice.apply(body, edits)


_PROMPT = ("prompt_logprobs", "prompt_token_ids")
"""What shows the prompt, which with ``echo`` is the beginning of the text."""
_LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
"""The lists of a choice's logprobs, with one element for each token."""


def _masked(body: bytes, choice: Span, masks: Masks) -> list[Edit]:
    """The text of a whole answer masked, and what shows the masked tokens left out of every list; where that is not
    certain, all of them go."""
    where = at(body, choice, "text")
    text = splice.text(body, where)
    edits = [splice.replace(where, masked(text, masks))]
    logprobs, ids = splice.member(body, choice, "logprobs"), splice.member(body, choice, "token_ids")
    if logprobs is None or body[logprobs.value.start : logprobs.value.end] == b"null":
        return edits + splice.null(body, choice, "token_ids")
    lists = ((name, locate(body, (name,), logprobs.value)) for name in _LISTS)
    found = {name: span for name, span in lists if span is not None and body[span.start : span.start + 1] == b"["}
    tokens = [utf8(token) for token in value(body, found["tokens"])] if "tokens" in found else []
    same = {len(splice.elements(body, span)) for span in found.values()} == {len(tokens)}
    areas = spelled_areas(b"".join(tokens), {text: masks})
    if not same or areas is None:
        return edits + splice.null(body, choice, "logprobs", "token_ids")
    gone = showing_tokens(tokens, areas)
    for name, span in found.items():
        edits += splice.remove_elements(body, span, gone)
        if name == "text_offset":
            edits += _moved(body, span, gone, text, masks)
    if ids is not None and body[ids.value.start : ids.value.end] != b"null":
        if len(splice.elements(body, ids.value)) == len(tokens):
            edits += splice.remove_elements(body, ids.value, gone)
        else:
            edits += splice.null(body, choice, "token_ids")
    return edits


def _moved(body: bytes, offsets: Span, gone: set[int], text: str, masks: Masks) -> list[Edit]:
    """The places (code points) of the tokens that stay, in the masked text."""
    raw = utf8(text)
    ends, shifts = [0], [0]  # behind each mask: where, and by how much the text has moved
    done = 0
    for mask in masks:
        ends.append(ends[-1] + len(raw[done : mask.end].decode("utf-8", "surrogatepass")))
        shifts.append(shifts[-1] + shift_of(raw, mask))
        done = mask.end
    edits: list[Edit] = []
    for place, span in enumerate(splice.elements(body, offsets)):
        offset = value(body, span)
        if place not in gone and (shift := shifts[bisect_right(ends, offset, lo=1) - 1]):
            edits.append(splice.replace(span, offset + shift))
    return edits


def _shifted(raw: bytes, choice: Span, shift: int) -> list[Edit]:
    """The places of the tokens of an event, moved by ``shift`` code points."""
    offsets = locate(raw, ("logprobs", "text_offset"), choice)
    if offsets is None or raw[offsets.start : offsets.start + 1] != b"[":
        return []
    return [splice.replace(span, value(raw, span) + shift) for span in splice.elements(raw, offsets)]
