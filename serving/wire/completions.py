"""The dialect of ``/v1/completions``: text in, text out."""

from __future__ import annotations

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
    null,
)
from serving.wire.completions_request import FIELDS, read_completions_request
from serving.wire.completions_stream import CompletionsReader, read_event
from serving.wire.dialect import AnswerChoice, Api, Coerced, StreamReader, UpstreamRefuses, WholeAnswer
from serving.wire.request import ChatRequest
from serving.wire.splice import Edit
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

    def __init__(self) -> None:
        self._writer = CompletionsWriter()

    def request(self, value: Any) -> ChatRequest | Coerced | UpstreamRefuses:
        return read_completions_request(value)

    def stream(self, request: ChatRequest) -> tuple[StreamReader, StreamWriter]:
        return CompletionsReader(), self._writer

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
        return self._writer


class CompletionsWriter(ChoiceEventWriter):
    """Both writers of completions. Raises :class:`Unspliceable` for bytes that are no such answer."""

    def change(self, event: Event, change: EventChange) -> bytes | None:
        raw = event.raw
        choice = choice_of(raw, change.choice)
        changed = splice.apply(raw, finish_edits(raw, choice, change))
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
            edits += null(body, choice, "logprobs", "token_ids", "stop_reason")
            edits.append(splice.set_member(body, choice, "text", change.cut or ""))
            edits.append(splice.set_member(body, choice, "finish_reason", change.finish))
        return splice.apply(body, edits)
