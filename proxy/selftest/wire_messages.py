"""Answers of the Messages API as vLLM's converter writes them: blocks that begin, grow and end."""

from __future__ import annotations

import json
from typing import Any

from proxy.selftest.says import Say, call_id, dump, pieces

_ID = "chatcmpl-00112233aabbccdd"
_SIGNATURE = "6e725d00013a46f3a34ae40fb00c63cb"
_STOPS = {"stop": "end_turn", "tool_calls": "tool_use"}


def messages_stream(model: str, say: Say) -> list[bytes]:
    """The events of a streamed answer."""
    message = {"id": _ID, "type": "message", "role": "assistant", "content": [], "model": model}
    usage = {"input_tokens": 40, "output_tokens": 0}
    events = [_event("message_start", message={**message, "stop_reason": None, "stop_sequence": None, "usage": usage})]
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if say.reasoning:
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(say.reasoning)]
        signed = {"type": "signature_delta", "signature": _SIGNATURE}
        blocks.append(({"type": "thinking", "thinking": ""}, [*deltas, signed]))
    if say.text:
        blocks.append(
            ({"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces(say.text)])
        )
    for number, call in enumerate(say.calls):
        head = {"type": "tool_use", "id": call_id(number), "name": call.name, "input": {}}
        blocks.append((head, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(call.arguments)]))
    for index, (head, deltas) in enumerate(blocks):
        events.append(_event("content_block_start", content_block=head, index=index))
        events += [_event("content_block_delta", delta=delta, index=index) for delta in deltas]
        events.append(_event("content_block_stop", index=index))
    ended = {"stop_reason": _STOPS[say.reason], "stop_sequence": None}
    events.append(_event("message_delta", delta=ended, usage={"input_tokens": 40, "output_tokens": 40}))
    return [*events, _event("message_stop")]


def messages_whole(model: str, say: Say) -> bytes:
    """The body of an answer that is not streamed."""
    blocks: list[dict[str, Any]] = []
    if say.reasoning:
        blocks.append({"type": "thinking", "thinking": say.reasoning, "signature": _SIGNATURE})
    if say.text:
        blocks.append({"type": "text", "text": say.text})
    for number, call in enumerate(say.calls):
        given = json.loads(call.arguments)
        blocks.append({"type": "tool_use", "id": call_id(number), "name": call.name, "input": given})
    usage = {"input_tokens": 40, "output_tokens": 40}
    head = {"id": _ID, "type": "message", "role": "assistant", "content": blocks, "model": model}
    return dump({**head, "stop_reason": _STOPS[say.reason], "usage": usage})


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + dump({"type": kind, **fields}) + b"\n\n"
