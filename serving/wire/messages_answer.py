"""Reads the whole (not streamed) answer of ``/v1/messages``."""

from __future__ import annotations

import msgspec

from serving.wire import strict
from serving.wire.dialect import AnswerChoice, WholeAnswer
from serving.wire.messages_stream import FINISH, WireUsage, given
from serving.wire.vocabulary import ToolCall


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()


class _Answer(msgspec.Struct):
    type: str
    content: list[_Block]
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: WireUsage | None = None


_decode = msgspec.json.Decoder(_Answer).decode
_SAYS = {"text": "text", "thinking": "thinking", "redacted_thinking": None}
"""Which member a block of this type says; calls beside."""


def read_answer(body: bytes) -> WholeAnswer | None:
    """What ``body`` says; None if it is not understood (the setting for unjudged answers decides). A block of
    another kind than vLLM makes (some client may read a call there) is not understood."""
    try:
        strict.read(body)
        answer = _decode(body)
    except (strict.NotStrict, msgspec.DecodeError, RecursionError):
        return None
    if answer.type != "message":
        return None
    calls = [block for block in answer.content if block.type == "tool_use"]
    if not all(map(_understood, answer.content)):
        return None
    finish = None if answer.stop_reason is None else FINISH.get(answer.stop_reason, answer.stop_reason)
    last = len(calls) - 1
    choice = AnswerChoice(
        position=0,
        number=0,
        text="".join([block.text or "" for block in answer.content]),
        reasoning="".join([block.thinking or "" for block in answer.content]),
        calls=tuple(
            ToolCall(0, i, call.id, call.name or "", bytes(call.input).decode(), finish != "length" or i < last)
            for i, call in enumerate(calls)
        ),
        finish=finish,
    )
    usage = answer.usage.neutral() if answer.usage is not None else None
    return WholeAnswer((choice,), usage, answer.id, answer.model)


def _understood(block: _Block) -> bool:
    says = {name for name in ("text", "thinking") if getattr(block, name) is not None}
    if block.type == "tool_use":
        return not says and block.name is not None and given(block.input)
    if block.type not in _SAYS or block.name is not None or given(block.input):
        return False
    return says <= {_SAYS[block.type]}
