"""Reads the whole (not streamed) answer of ``/v1/chat/completions``."""

from __future__ import annotations

import msgspec

from serving.wire import strict
from serving.wire.chat_stream import WireLogprobs, WireUsage, given
from serving.wire.dialect import AnswerChoice, WholeAnswer
from serving.wire.vocabulary import ToolCall


class _Function(msgspec.Struct):
    name: str
    arguments: str | None = None


class _Tool(msgspec.Struct):
    function: _Function
    id: str | None = None
    custom: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Tool] | None = None
    function_call: msgspec.Raw = msgspec.Raw()


class _Choice(msgspec.Struct):
    message: _Message
    index: int = 0
    finish_reason: str | None = None
    logprobs: WireLogprobs | None = None
    delta: msgspec.Raw = msgspec.Raw()
    tool_calls: msgspec.Raw = msgspec.Raw()


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    id: str | None = None
    model: str | None = None
    usage: WireUsage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def read_answer(body: bytes) -> WholeAnswer | None:
    """What ``body`` says; None if it is not understood (the setting for unjudged answers decides)."""
    try:
        strict.read(body)
        answer = _decode(body)
    except (strict.NotStrict, msgspec.DecodeError, RecursionError):
        return None
    choices = []
    for position, choice in enumerate(answer.choices):
        message = choice.message
        hidden = (message.function_call, choice.delta, choice.tool_calls, *(c.custom for c in message.tool_calls or ()))
        if any(map(given, hidden)):  # some client may read a call where this reader does not look
            return None
        if message.reasoning and message.reasoning_content not in (None, "", message.reasoning):
            return None
        complete = choice.finish_reason != "length"
        calls = message.tool_calls or []
        last = len(calls) - 1
        choices.append(
            AnswerChoice(
                position=position,
                number=choice.index,
                text=message.content or "",
                reasoning=message.reasoning or message.reasoning_content or "",
                calls=tuple(
                    ToolCall(
                        choice.index,
                        i,
                        call.id,
                        call.function.name,
                        call.function.arguments or "",
                        complete or i < last,
                    )
                    for i, call in enumerate(calls)
                ),
                finish=choice.finish_reason,
                shown=choice.logprobs.neutral() if choice.logprobs is not None else None,
            )
        )
    usage = answer.usage.neutral() if answer.usage is not None else None
    return WholeAnswer(tuple(choices), usage, answer.id, answer.model)
