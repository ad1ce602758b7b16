"""Reads the whole answer of ``/v1/responses``: made at once, queued in the background, or fetched from the store."""

from __future__ import annotations

import msgspec

from serving.wire import strict
from serving.wire.chat_stream import given
from serving.wire.dialect import AnswerChoice, WholeAnswer
from serving.wire.responses_items import CALL, KINDS, MESSAGE, read_item, read_response, tokens_shown
from serving.wire.vocabulary import ToolCall


def read_answer(body: bytes) -> WholeAnswer | None:
    """What ``body`` says; None if it is not understood (the setting for unjudged answers decides).

    Function calls are numbered from 0 in their order. The answer is cut off inside the last one if its status is
    ``incomplete``.
    """
    try:
        strict.read(body)
        response = read_response(body)
        if response.output is None or given(response.choices):
            return None
        items = [read_item(raw) for raw in response.output]
    except (strict.NotStrict, msgspec.DecodeError, RecursionError):
        return None
    texts, thoughts, calls = list[str](), list[str](), list[ToolCall]()
    for item in items:
        said = item.said()
        if item.type not in KINDS or said is None:
            return None
        if item.type == CALL:
            calls.append(ToolCall(0, len(calls), item.call_id, item.full_name, said))
        elif item.type == MESSAGE:
            texts.append(said)
        else:
            thoughts.append(said)
    finish = response.finish(bool(calls))
    if calls and finish == "length":
        calls[-1].complete = items[-1].type != CALL or strict.is_over(calls[-1].arguments)
    shown = tokens_shown([token for item in items for token in item.shown])  # those of the whole answer
    choice = AnswerChoice(0, 0, "".join(texts), "".join(thoughts), tuple(calls), finish, shown=shown)
    return WholeAnswer((choice,), response.neutral_usage(), response.id, response.model, pending=response.pending)
